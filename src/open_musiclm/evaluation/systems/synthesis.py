"""Audio of a system for a list of prompts: one file a prompt, kept, so that a run can stop anywhere and go on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ...audio import read_metadata, write_audio
from ..prompts import Prompt, Skipped
from .peak_memory import PeakMemory, computer
from .system import System

__all__ = ["Synthesis", "seed_of_prompt", "synthesize"]

SUFFIX = ".flac"  # lossless, half the size of WAV, and every browser plays it


@dataclass(frozen=True)
class Synthesis:
    """What came of a system's prompts.

    Attributes:
        records: Prompt id -> what stands in its file: prompt, seed, sampling rate, seconds it took, peak memory.
        real_time_factor: Seconds of computing a second of audio, over all files; below 1 is faster than real time.
        peak_memory_in_bytes: Most memory that any call needed.
        memory_kind: What was counted: `cuda` or `resident`.
        computers: What computed, in words; several if the run went on elsewhere.
    """

    records: dict[str, dict[str, Any]]
    skipped: tuple[Skipped, ...]
    real_time_factor: float
    peak_memory_in_bytes: int | None
    memory_kind: str | None
    computers: tuple[str, ...] = ()


def seed_of_prompt(seed: int, prompt_id: str) -> int:
    """Seed of one prompt, from the run's seed and the prompt's id: it does not change when prompts are added."""
    digest = hashlib.sha256(f"{seed}:{prompt_id}".encode()).digest()
    return (
        int.from_bytes(digest[:8], "big") >> 11
    )  # below 2^53: torch and NumPy take it, and every JSON keeps it exact


def synthesize(
    system: System,
    prompts: list[Prompt],
    folder: str | Path,
    length_in_s: float,
    seed: int = 0,
    batch_size: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Synthesis:
    """Generates what is missing and returns the record of everything.

    A file appears under its name only when it is whole, and carries its own record. Batches are cut from the list of
    all prompts, missing or not, so a batch is the same whenever it is made. Audio that is not finite is not written
    but listed as skipped; it is tried again by the next run.

    Args:
        folder: Where the files go, `<prompt id>.flac`.
        length_in_s: Length of each clip.
        seed: See :func:`seed_of_prompt`.
        batch_size: Prompts at once; at most the system's own `max_batch_size`.

    Raises:
        ValueError: If a file is there that was made by another system, prompt, seed or length.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    description = {key: value for key, value in system.describe().items() if key != "model"}
    made_by = hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode()).hexdigest()[:16]
    batch_size = max(min(batch_size, system.max_batch_size), 1)
    wanted: dict[str, dict[str, Any]] = {
        prompt.id: {
            "prompt": prompt.text,
            "seed": seed_of_prompt(seed, prompt.id),
            "length_in_s": length_in_s,
            "batch_size": batch_size,
            "system": made_by,
        }
        for prompt in prompts
    }
    records: dict[str, dict[str, Any]] = {}
    skipped: list[Skipped] = []
    batches = [prompts[i : i + batch_size] for i in range(0, len(prompts), batch_size)]
    for batch in tqdm(batches, desc=f"{system.name}: generate", unit="batch", leave=False, disable=None):
        for prompt in batch:
            path = folder / f"{prompt.id}{SUFFIX}"
            if path.is_file() and (record := _record_of(path)) is not None:
                records[prompt.id] = _check_record(path, record, wanted[prompt.id])
        missing = [prompt for prompt in batch if prompt.id not in records]
        if not missing:
            continue
        start = clock()
        with PeakMemory(system.device) as memory:
            audios, rate = system.generate(
                [prompt.text for prompt in batch], [wanted[prompt.id]["seed"] for prompt in batch], length_in_s
            )
        took = (clock() - start) / len(batch)
        for prompt, audio in zip(batch, audios, strict=True):
            if prompt.id in records:
                continue
            if not np.isfinite(audio).all():
                skipped.append(Skipped(f"{system.name}: {prompt.id}", "the system made samples that are not finite"))
                continue
            measured = {
                "took_in_s": took,
                "audio_in_s": audio.shape[-1] / rate,
                "peak_memory_in_bytes": memory.peak_in_bytes,
                "memory_kind": memory.kind,
                "computer": computer(system.device),
            }
            records[prompt.id] = {**wanted[prompt.id], **measured}
            write_audio(folder / f"{prompt.id}{SUFFIX}", audio, rate, metadata=records[prompt.id])
    took = sum(record["took_in_s"] for record in records.values())
    made = sum(record["audio_in_s"] for record in records.values())
    peaks = [record["peak_memory_in_bytes"] for record in records.values() if record["peak_memory_in_bytes"]]
    return Synthesis(
        records={prompt.id: records[prompt.id] for prompt in prompts if prompt.id in records},
        skipped=tuple(skipped),
        real_time_factor=took / made if made else float("nan"),
        peak_memory_in_bytes=max(peaks) if peaks else None,
        memory_kind=next((record["memory_kind"] for record in records.values()), None),
        computers=tuple(sorted({record["computer"] for record in records.values() if record.get("computer")})),
    )


def _record_of(path: Path) -> dict[str, Any] | None:
    """What stands in a kept file; None if it cannot be read (a disk that was full, a crash of the machine)."""
    import soundfile

    try:
        return read_metadata(path)
    except soundfile.LibsndfileError:
        return None


def _check_record(path: Path, record: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    differing = [key for key, value in wanted.items() if record.get(key) != value]
    if differing:
        key = differing[0]
        raise ValueError(
            f"{path} was made with another {key} ({record.get(key)!r}, not {wanted[key]!r}). Choose another --output, or "
            "delete that folder."
        )
    return record
