"""Read a rendered corpus back: audio as one int16 tensor on the device, records, and captions that fit or do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from compose import ARTISTS, BEAT_IN_FRAMES, DRUMS, GENRES, INSTRUMENTS, KEYS, LOUDNESS_LEVELS, MODES, REGISTER_CENTRES

ATTRIBUTE_VALUES = {
    "instrument": INSTRUMENTS,
    "tempo": tuple(BEAT_IN_FRAMES),
    "key": KEYS,
    "mode": tuple(MODES),
    "drums": DRUMS,
    "register": tuple(REGISTER_CENTRES),
    "loudness": tuple(LOUDNESS_LEVELS),
    "genre": tuple(GENRES),
    "artist": tuple(ARTISTS),
}


class Corpus:
    """The clips of one split.

    `audio` is int16 (clips, samples) on `device`; `records[i]` has the truth and the captions of clip i.
    """

    def __init__(self, folder: Path, split: str, device: torch.device | str = "cpu"):
        paths = sorted((folder / split).glob("clips-*.json"))
        if not paths:
            raise ValueError(f"no rendered clips in {folder / split}: run the step `render` first")
        self.records = [record for path in paths for record in json.loads(path.read_text())]
        shards = [np.load(path.with_name(path.name.replace("clips", "audio")).with_suffix(".npy")) for path in paths]
        self.audio = torch.from_numpy(np.concatenate(shards)).to(device)

    def __len__(self) -> int:
        return len(self.records)

    def waveforms(self, indices: torch.Tensor | slice) -> torch.Tensor:
        """float32 (batch, samples) of whole clips."""
        return self.audio[indices].float() / 32767

    def crops(
        self, num_crops: int, num_samples: int, generator: torch.Generator, num_clips: int | None = None
    ) -> torch.Tensor:
        """Random pieces of the first `num_clips` clips (by default of all), float32 (num_crops, num_samples)."""
        clips = torch.randint(min(num_clips or len(self), len(self)), (num_crops,), generator=generator)
        starts = torch.randint(self.audio.shape[1] - num_samples + 1, (num_crops,), generator=generator)
        device = self.audio.device
        columns = starts.to(device)[:, None] + torch.arange(num_samples, device=device)
        return self.audio[clips.to(device)[:, None], columns].float() / 32767

    def attribute_values(self) -> torch.Tensor:
        """int64 (clips, attributes): the index of the clip's value."""
        rows = [[v.index(record["truth"][name]) for name, v in ATTRIBUTE_VALUES.items()] for record in self.records]
        return torch.tensor(rows)

    def attribute_bits(self) -> torch.Tensor:
        """int64 (clips, attributes): one bit set, that of the clip's value."""
        return 1 << self.attribute_values()

    def captions(self) -> tuple[list[list[str]], torch.Tensor]:
        """Texts (clips × captions), and int64 (clips, captions, attributes): the bits of the values that fit."""
        texts = [[caption["text"] for caption in record["captions"]] for record in self.records]
        masks = [[_required_bits(caption["requires"]) for caption in record["captions"]] for record in self.records]
        return texts, torch.tensor(masks)


def _required_bits(requires: dict[str, list[str]]) -> list[int]:
    return [
        sum(1 << values.index(value) for value in requires[name]) if name in requires else (1 << len(values)) - 1
        for name, values in ATTRIBUTE_VALUES.items()
    ]


def captions_fit_clips(caption_masks: torch.Tensor, clip_bits: torch.Tensor) -> torch.Tensor:
    """bool (captions, clips): whether a clip has everything that a caption asks for."""
    return ((caption_masks[:, None] & clip_bits[None]) != 0).all(dim=-1)
