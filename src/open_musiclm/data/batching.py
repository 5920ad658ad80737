"""Batches of crops of one length, whichever files they come from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class CropBatcher:
    """Collects crops by their length and computes each length as soon as a batch is full.

    Args:
        compute: (batch, samples), or of several channels (batch, channels, samples), float32 → an array whose first dimension is the batch.
        batch_size: crops computed together.
    """

    def __init__(self, compute: Callable[[np.ndarray], np.ndarray], batch_size: int):
        if batch_size < 1:
            raise ValueError(f"The batch size must be at least 1, got {batch_size}.")
        self.compute = compute
        self.batch_size = batch_size
        self._waiting: dict[tuple[int, ...], list[tuple[np.ndarray, Callable[[np.ndarray], None]]]] = {}

    def add(self, crop: np.ndarray, receive: Callable[[np.ndarray], None]) -> None:
        """Queue a crop (samples,) or (channels, samples); `receive` is called with its result, now or later."""
        group = self._waiting.setdefault(crop.shape, [])
        group.append((np.array(crop, dtype=np.float32), receive))  # a copy: the file's audio need not stay
        if len(group) == self.batch_size:
            self._run(crop.shape)

    def flush(self) -> None:
        """Compute what is left."""
        for shape in list(self._waiting):
            self._run(shape)

    def _run(self, shape: tuple[int, ...]) -> None:
        group = self._waiting.pop(shape)
        results = self.compute(np.stack([crop for crop, _ in group]))
        for (_, receive), result in zip(group, results, strict=True):
            receive(result)
