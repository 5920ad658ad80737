"""How sure a figure is: bootstrap intervals, and paired tests of the difference between two systems.

Two kinds of figure need two kinds of resampling. A mean of clips (CLAP score, KL divergence) is resampled with
replacement: the ordinary bootstrap. A distance between sets (FAD, KAD) is not: a clip drawn twice lies at distance 0
from itself, which biases both. There, half of the clips are drawn without replacement; the spread of such halves around
their mean is that of the whole set around the truth (Shao and Tu 1995, chapter 5: the delete-half jackknife).

Clips are resampled, never windows: windows of one clip are not independent. All randomness comes from the generator
that the caller passes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..records import Interval

__all__ = [
    "bootstrap_mean",
    "half_sample_interval",
    "holm",
    "paired_sign_flip_test",
    "paired_swap_test",
    "wilcoxon_test",
]


def bootstrap_mean(
    values, rng: np.random.Generator, num_resamples: int = 2000, level: float = 0.95, groups=None
) -> Interval:
    """Percentile bootstrap interval of a mean.

    Args:
        values: (N,) one value a clip.
        groups: (N,) labels; items of one group are drawn together (ratings of one clip by several people). None: each
            item is its own group.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size < 2:
        raise ValueError(f"at least 2 values are needed for an interval, got shape {values.shape}.")
    labels = np.arange(len(values)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    sums, sizes = np.bincount(labels, weights=values), np.bincount(labels)
    if len(sums) < 2:
        raise ValueError("all values belong to one group; at least 2 groups are needed for an interval.")
    means = np.empty(num_resamples)
    for start in range(0, num_resamples, 256):
        drawn = rng.integers(len(sums), size=(min(256, num_resamples - start), len(sums)))
        means[start : start + 256] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return _percentiles(means, level, f"percentile bootstrap over {'clips' if groups is None else 'groups'}")


def half_sample_interval(
    statistic: Callable[[np.ndarray], float],
    num_items: int,
    value: float,
    rng: np.random.Generator,
    num_resamples: int = 200,
    level: float = 0.95,
) -> Interval:
    """Interval of a set distance from random halves of its clips, drawn without replacement.

    Args:
        statistic: Takes the indices of the clips to use and returns the distance, or a difference of two distances.
        num_items: Number of clips.
        value: The statistic of all clips; the interval is placed around it, so the larger bias of half a set drops out.
    """
    if num_items < 4:
        raise ValueError(f"{num_items} clips; at least 4 are needed to draw halves.")
    half = num_items // 2
    drawn = np.array([statistic(rng.permutation(num_items)[:half]) for _ in range(num_resamples)])
    # the variance of a half around the whole is (1/half − 1/num) · σ²; that of the whole around the truth is σ² / num
    stretch = np.sqrt(half / (num_items - half))
    around = value + stretch * (drawn - drawn.mean())
    return _percentiles(around, level, "half-samples of clips, reference held fixed")


def paired_sign_flip_test(differences, rng: np.random.Generator, num_permutations: int = 10000) -> float:
    """Two-sided p-value that the mean of paired differences is 0, by flipping their signs.

    Exact (all 2^N flips) up to N = 13; sampled beyond that.

    Args:
        differences: (N,) value of system A minus that of system B on the same prompt.
    """
    differences = np.asarray(differences, dtype=np.float64)
    if differences.ndim != 1 or differences.size < 2:
        raise ValueError(f"at least 2 paired differences are needed, got shape {differences.shape}.")
    num = differences.size
    observed = abs(differences.mean())
    slack = 1e-12 * max(np.abs(differences).max(), 1e-300)
    if 2**num <= num_permutations:
        signs = 1 - 2 * ((np.arange(2**num)[:, None] >> np.arange(num)) & 1)
        return float(np.mean(np.abs(signs @ differences / num) >= observed - slack))
    extreme = 0
    for start in range(0, num_permutations, 1000):
        signs = 1 - 2 * rng.integers(0, 2, size=(min(1000, num_permutations - start), num))
        extreme += int(np.sum(np.abs(signs @ differences / num) >= observed - slack))
    return (extreme + 1) / (num_permutations + 1)


def paired_swap_test(
    difference: Callable[[np.ndarray], float], num_items: int, rng: np.random.Generator, num_permutations: int = 200
) -> float:
    """Two-sided p-value that two systems lie at the same distance, by swapping their clips prompt by prompt.

    Args:
        difference: Takes a boolean mask (num_items,) of the prompts whose two clips trade places, and returns the
            distance of the first system minus that of the second.
    """
    observed = abs(difference(np.zeros(num_items, dtype=bool)))
    slack = 1e-12 * max(observed, 1e-300)
    extreme = sum(
        abs(difference(rng.integers(0, 2, size=num_items).astype(bool))) >= observed - slack
        for _ in range(num_permutations)
    )
    return (extreme + 1) / (num_permutations + 1)


def wilcoxon_test(differences) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test, ties by Pratt; 1 if all differences are 0.

    MusicLM tests its listening results with it (section 5.1).
    """
    try:
        from scipy.stats import wilcoxon
    except ImportError as error:
        raise ImportError("Wilcoxon's test needs SciPy: pip install open-musiclm[eval].") from error

    differences = np.asarray(differences, dtype=np.float64)
    if differences.size == 0:
        raise ValueError("no paired differences were given.")
    if not differences.any():
        return 1.0
    return float(wilcoxon(differences, zero_method="pratt").pvalue)


def holm(p_values) -> np.ndarray:
    """Holm's correction: p-values of several tests, raised so that each may be held against the level by itself."""
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values)
    raised = np.maximum.accumulate(p_values[order] * (len(p_values) - np.arange(len(p_values))))
    adjusted = np.empty_like(p_values)
    adjusted[order] = raised.clip(max=1.0)
    return adjusted


def _percentiles(values: np.ndarray, level: float, method: str) -> Interval:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), level, f"{method}, {len(values)} resamples")
