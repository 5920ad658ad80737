"""Differences between systems on the same prompts: how large, how sure, and whether chance would do it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from .metrics.statistics import bootstrap_mean, half_sample_interval, holm, paired_sign_flip_test, paired_swap_test
from .records import Interval, MetricResult, plain

__all__ = ["Comparison", "adjust", "compare_distances", "compare_means", "rng_for"]

MIN_PAIRS = 4
SWAPS_A_RIVALRY = 40


@dataclass(frozen=True)
class Comparison:
    """`difference` is the figure of system `a` minus that of `b`, on the `num_clips` prompts that both have.

    Attributes:
        interval: Of the difference.
        p_value: Two-sided; `test` says of which test.
        adjusted_p_value: Holm's, over all pairs of systems of one metric.
        better: The system whose figure is the better one; None where neither direction is, or on a draw.
    """

    metric: str
    a: str
    b: str
    difference: float
    interval: Interval
    p_value: float
    test: str
    num_clips: int
    better: str | None
    adjusted_p_value: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return plain(asdict(self))


def rng_for(seed: int, *names: str) -> np.random.Generator:
    """A generator of its own for each figure, so that a figure does not change when another one is added."""
    return np.random.default_rng([seed, *(zlib.crc32(name.encode()) for name in names)])


def compare_means(a: MetricResult, b: MetricResult, seed: int, num_resamples: int = 2000) -> Comparison | None:
    """Compares two figures that are means of clips; None with fewer than 4 prompts in common."""
    ours = dict(zip(a.clip_ids or (), a.per_clip or (), strict=True))
    theirs = dict(zip(b.clip_ids or (), b.per_clip or (), strict=True))
    common = [clip for clip in ours if clip in theirs]
    if len(common) < MIN_PAIRS:
        return None
    differences = np.array([ours[clip] - theirs[clip] for clip in common])
    if not np.isfinite(differences).all():
        return None
    rng = rng_for(seed, a.metric, a.system, b.system)
    mean = float(differences.mean())
    return Comparison(
        metric=a.metric,
        a=a.system,
        b=b.system,
        difference=mean,
        interval=bootstrap_mean(differences, rng, num_resamples),
        p_value=paired_sign_flip_test(differences, rng),
        test="paired sign-flip permutation of clips",
        num_clips=len(common),
        better=_better(a, b, mean),
    )


def compare_distances(
    a: MetricResult,
    b: MetricResult,
    distance: Callable[[np.ndarray], float],
    num_pairs: int,
    seed: int,
    num_resamples: int = 100,
    num_rivalries: int = 1,
) -> Comparison | None:
    """Compares two distances to one reference.

    Args:
        distance: Takes indices into the clips of `a` (0 … num_pairs − 1) followed by those of `b` (num_pairs …), in one
            order of prompts, and returns the distance of that set.
        num_pairs: Prompts that both systems have.
        num_rivalries: Pairs of systems that Holm's correction will be over. The smallest p-value that sampled swaps can
            give is 1 / (swaps + 1), and this many times that must still be clearly below 0.05.
    """
    if num_pairs < MIN_PAIRS:
        return None
    everything = np.arange(num_pairs)

    def difference(indices: np.ndarray) -> float:
        return distance(indices) - distance(indices + num_pairs)

    def swapped(mask: np.ndarray) -> float:
        first = np.where(mask, everything + num_pairs, everything)
        second = np.where(mask, everything, everything + num_pairs)
        return distance(first) - distance(second)

    rng = rng_for(seed, a.metric, a.system, b.system)
    value = difference(everything)
    return Comparison(
        metric=a.metric,
        a=a.system,
        b=b.system,
        difference=value,
        interval=half_sample_interval(difference, num_pairs, value, rng, num_resamples),
        p_value=paired_swap_test(swapped, num_pairs, rng, max(num_resamples, SWAPS_A_RIVALRY * num_rivalries)),
        test="paired swap permutation of clips",
        num_clips=num_pairs,
        better=_better(a, b, value),
    )


def pairs_of(results: Sequence[MetricResult]) -> list[tuple[MetricResult, MetricResult]]:
    """All pairs of systems of one metric, in the order of the systems."""
    return list(combinations(results, 2))


def adjust(comparisons: list[Comparison]) -> list[Comparison]:
    """Fills in Holm's p-values, metric by metric."""
    metrics = {comparison.metric for comparison in comparisons}
    adjusted: dict[int, float] = {}
    for metric in metrics:
        places = [i for i, comparison in enumerate(comparisons) if comparison.metric == metric]
        for place, value in zip(places, holm([comparisons[i].p_value for i in places]), strict=True):
            adjusted[place] = float(value)
    return [replace(comparison, adjusted_p_value=adjusted[i]) for i, comparison in enumerate(comparisons)]


def _better(a: MetricResult, b: MetricResult, difference: float) -> str | None:
    if a.higher_is_better is None or difference == 0:
        return None
    return a.system if (difference > 0) == a.higher_is_better else b.system
