"""Batches made by other processes, some ahead of what is asked for: a GPU takes them faster than one process makes them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import torch

Batches = Callable[[int], dict[str, torch.Tensor]]
_BATCHES: Batches | None = None  # one a process


def _start(batches: Batches) -> None:
    global _BATCHES
    torch.set_num_threads(1)
    _BATCHES = batches


def _make(number: int) -> dict[str, np.ndarray]:
    """As arrays, which are copied: a tensor would hold a file open in each of two processes."""
    assert _BATCHES is not None
    return {name: ids.numpy() for name, ids in _BATCHES(number).items()}


class Ahead:
    """`batches`, whose batch i depends on i alone, made in `num_workers` processes.

    Asked for batch i, it has those up to i + 2 · `num_workers` begun.
    """

    def __init__(self, batches: Batches, num_workers: int):
        self.pool = ProcessPoolExecutor(num_workers, get_context("spawn"), initializer=_start, initargs=(batches,))
        self.num_ahead = 2 * num_workers
        self.begun: dict[int, Future] = {}

    def __call__(self, number: int) -> dict[str, torch.Tensor]:
        for following in range(number, number + self.num_ahead + 1):
            if following not in self.begun:
                self.begun[following] = self.pool.submit(_make, following)
        return {name: torch.from_numpy(ids) for name, ids in self.begun.pop(number).result().items()}

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
