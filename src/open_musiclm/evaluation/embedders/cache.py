"""Embeddings of clips, made once: a run that was interrupted, or that has one system more, takes the rest from disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ..clips import Clip, load_waveform
from ..records import Backbone, Windowing
from .windows import cut_windows, prepare_waveform

__all__ = ["EmbeddingCache"]


class EmbeddingCache:
    """Runs a network over clips, one clip at a time, and keeps what came out.

    A clip's windows are one batch whatever else is measured, so the numbers do not depend on where a run was
    interrupted. A file is named by everything that its content depends on: the network's weights and layer, the
    windows, the clip's bytes.

    Args:
        folder: Where to keep the files; None keeps nothing.
        batch_size: Most windows at once.
    """

    def __init__(self, folder: str | Path | None, batch_size: int = 16):
        self.folder = Path(folder) if folder is not None else None
        self.batch_size = batch_size

    def run(
        self,
        network: Callable[[np.ndarray], np.ndarray],
        output: str,
        backbone: Backbone,
        windowing: Windowing,
        clips: list[Clip],
        description: str = "",
    ) -> list[np.ndarray]:
        """Returns one (num_windows · frames, dimension) float64 array a clip; no rows for a clip that is too short.

        Args:
            network: Takes windows (B, samples) at `backbone.sampling_rate` and returns (B, frames, dimension).
            output: What it returns ("embedding", "probabilities"); part of the file's name.
        """
        made_by = {**asdict(backbone), "name": None}  # the weights say what it is; a folder may be moved
        key = {"output": output, "backbone": made_by, "windowing": asdict(windowing)}
        made_of = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
        results = []
        for clip in tqdm(clips, desc=description, unit="clip", leave=False, disable=None):
            file = self.folder / f"{made_of}-{clip.fingerprint}.npy" if self.folder else None
            kept = _load(file) if file is not None else None
            if kept is not None:
                results.append(kept)
                continue
            rows = self._run_clip(network, backbone, windowing, clip)
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                aside = file.with_name(f".{file.name}.{os.getpid()}.part")
                with aside.open("wb") as stream:
                    np.save(stream, rows)
                os.replace(aside, file)
            results.append(rows)
        return results

    def _run_clip(self, network, backbone: Backbone, windowing: Windowing, clip: Clip) -> np.ndarray:
        from ...audio import resample

        waveform, rate = prepare_waveform(load_waveform(clip), clip.sampling_rate, windowing)
        waveform = resample(waveform, rate, backbone.sampling_rate)
        windows = cut_windows(waveform, backbone.sampling_rate, windowing)
        rows = [np.zeros((0, 0))]
        start = 0
        while start < len(windows):  # a batch holds windows of one length; only the last may be shorter
            same = [w for w in windows[start : start + self.batch_size] if len(w) == len(windows[start])]
            made = np.asarray(network(np.stack(same)), dtype=np.float64)
            rows.append(made.reshape(-1, made.shape[-1]))
            start += len(same)
        return np.concatenate(rows[1:]) if len(rows) > 1 else rows[0]


def _load(file: Path) -> np.ndarray | None:
    """A kept array; None if there is none, or it cannot be read (a disk that was full, a crash of the machine)."""
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
