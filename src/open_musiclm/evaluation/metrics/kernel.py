"""Kernel audio distance (Chung et al. 2025, arXiv:2502.15602): 100 times the unbiased squared MMD."""

from __future__ import annotations

import numpy as np

from .arrays import as_embeddings, check_same_dimension

__all__ = ["ClipKernels", "kernel_audio_distance", "median_distance"]

SCALE = 100.0
MAX_ITEMS = 5000  # of a set whose median distance is taken
ROWS_AT_ONCE = 2048  # of a distance matrix, to bound memory


def kernel_audio_distance(generated, reference, bandwidth: float) -> float:
    """100 · MMD² with k(a, b) = exp(−|a − b|² / (2 · bandwidth²)), unbiased (pairs of an item with itself left out).

    It can be negative: its expectation is 0 for two sets of one distribution. It has no bias in the number of clips,
    which FAD has.

    Args:
        generated: (N, D), N ≥ 2.
        reference: (M, D), M ≥ 2.
        bandwidth: Width of the kernel; see :func:`median_distance`. The evaluation takes the median distance within the
            reference set, so that one bandwidth serves all systems that are compared. kadtk (8bda71d) takes that within
            the evaluated set, another one for each system.
    """
    x = as_embeddings(generated, "generated")
    y = as_embeddings(reference, "reference")
    check_same_dimension(x, y, ("generated", "reference"))
    if not bandwidth > 0:
        raise ValueError(
            f"bandwidth is {bandwidth}; it must be positive. A median distance of 0 means that most clips of that set "
            "have one and the same embedding."
        )
    within_x = (_kernel_sum(x, x, bandwidth) - len(x)) / (len(x) * (len(x) - 1))
    within_y = (_kernel_sum(y, y, bandwidth) - len(y)) / (len(y) * (len(y) - 1))
    between = _kernel_sum(x, y, bandwidth) / (len(x) * len(y))
    return SCALE * float(within_x + within_y - 2.0 * between)


class ClipKernels:
    """Kernel sums between whole clips, so that the KAD of any part of them costs no kernel: for resampling.

    Args:
        clips: One (num_windows, D) array a clip.
        reference: (M, D).
        bandwidth: As in :func:`kernel_audio_distance`.
    """

    def __init__(self, clips: list[np.ndarray], reference, bandwidth: float):
        reference = as_embeddings(reference, "reference")
        clips = [as_embeddings(windows, "a clip", min_rows=1) for windows in clips]
        windows = np.concatenate(clips)
        self.num_windows = np.array([len(clip) for clip in clips])
        starts = np.concatenate([[0], np.cumsum(self.num_windows)[:-1]])
        rows = [_kernel_rows(clip, windows, bandwidth) for clip in clips]
        self.between_clips = np.stack([np.add.reduceat(row, starts) for row in rows])
        self.to_reference = np.array([_kernel_sum(clip, reference, bandwidth) for clip in clips])
        self.num_reference = len(reference)
        within = _kernel_sum(reference, reference, bandwidth) - len(reference)
        self.within_reference = within / (len(reference) * (len(reference) - 1))

    def distance(self, indices: np.ndarray) -> float:
        """KAD of the clips with these indices, each at most once."""
        num = int(self.num_windows[indices].sum())
        within = (self.between_clips[np.ix_(indices, indices)].sum() - num) / (num * (num - 1))
        between = self.to_reference[indices].sum() / (num * self.num_reference)
        return SCALE * float(within + self.within_reference - 2.0 * between)


def median_distance(embeddings, max_items: int = MAX_ITEMS, rng: np.random.Generator | None = None) -> float:
    """Median Euclidean distance over all pairs of a set (N, D).

    Args:
        max_items: A larger set is sampled down to this many items, with `rng`.
    """
    x = as_embeddings(embeddings, "embeddings")
    if len(x) > max_items:
        if rng is None:
            raise ValueError(f"{len(x)} items are more than max_items={max_items}; pass rng to sample from them.")
        x = x[np.sort(rng.choice(len(x), size=max_items, replace=False))]
    squared = np.concatenate([_squared_distances(x[i : i + 1], x[i + 1 :])[0] for i in range(len(x) - 1)])
    return float(np.median(np.sqrt(squared)))


def _kernel_sum(x: np.ndarray, y: np.ndarray, bandwidth: float) -> float:
    total = 0.0
    for start in range(0, len(x), ROWS_AT_ONCE):
        squared = _squared_distances(x[start : start + ROWS_AT_ONCE], y)
        if x is y:  # exactly 1 for an item with itself, whatever rounding says
            rows = np.arange(len(squared))
            squared[rows, rows + start] = 0.0
        total += float(np.exp(squared / (-2.0 * bandwidth**2)).sum())
    return total


def _kernel_rows(x: np.ndarray, y: np.ndarray, bandwidth: float) -> np.ndarray:
    return np.exp(_squared_distances(x, y) / (-2.0 * bandwidth**2)).sum(axis=0)


def _squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    squared = np.sum(x**2, axis=1)[:, None] + np.sum(y**2, axis=1)[None, :] - 2.0 * (x @ y.T)
    return squared.clip(min=0.0)
