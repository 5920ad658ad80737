"""Weights that any machine can make again: a state dict from its names and shapes, through NumPy's frozen generator.

A recorded network is thus a list of names and shapes (a few kilobytes) instead of its weights.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

RECORDINGS = Path(__file__).parent / "recordings"


def seeded_tensor(name: str, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    """A plausible value for the tensor of this name, the same on every machine."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("relative_position_index"):
        return swin_position_index(math.isqrt(shape[0]))
    if dtype == "int64":
        return (
            torch.arange(math.prod(shape)).reshape(shape)
            if name.endswith("position_ids")
            else torch.zeros(shape, dtype=torch.int64)
        )
    values = random.standard_normal(shape).astype(np.float32)
    if name.startswith("logit_scale"):
        values = np.float32(2.5) + 0 * values
    elif name.endswith(("running_var", "weight_g", "inited", "cluster_size")):
        values = 1 + 0.1 * np.abs(values)
    elif len(shape) <= 1:  # gains and offsets
        values = 0.1 * values + (1 if name.endswith("weight") else 0)
    elif not name.endswith((".embed", ".embed_avg")):
        values = values / np.float32(math.sqrt(math.prod(shape[1:])))
    return torch.from_numpy(np.array(values, dtype=np.float32))


def swin_position_index(window_size: int) -> torch.Tensor:
    """The index into the relative position table of a window, as Swin defines it (Liu et al. 2021, section 3.2)."""
    y, x = np.divmod(np.arange(window_size**2), window_size)
    rows, columns = (axis[:, None] - axis[None, :] + window_size - 1 for axis in (y, x))
    return torch.from_numpy(rows * (2 * window_size - 1) + columns)


def seeded_state_dict(layout: dict[str, tuple[list[int], str]]) -> dict[str, torch.Tensor]:
    """A state dict of this layout: name → (shape, dtype)."""
    return {name: seeded_tensor(name, tuple(shape), dtype) for name, (shape, dtype) in layout.items()}


def read_layout(name: str) -> dict[str, tuple[list[int], str]]:
    """The recorded layout of an original network."""
    return json.loads((RECORDINGS / f"{name}.json").read_text())


def music_like(num_samples: int, sampling_rate: int, seed: int) -> torch.Tensor:
    """A few decaying partials: (num_samples,) float32 within ±1."""
    random = np.random.RandomState(seed)
    time = np.arange(num_samples) / sampling_rate
    partials = [
        amplitude * np.sin(2 * np.pi * frequency * time + phase) * np.exp(-decay * time)
        for amplitude, frequency, phase, decay in zip(
            random.uniform(0.05, 0.2, 5),
            random.uniform(80, 3000, 5),
            random.uniform(0, 6, 5),
            random.uniform(0, 1, 5),
            strict=True,
        )
    ]
    return torch.from_numpy(sum(partials).astype(np.float32))
