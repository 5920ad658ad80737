"""What the measurements share: a system's clips with their prompts, and how a mean of clips becomes a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..clips import Clip, ClipSet
from ..comparisons import rng_for
from ..embedders.cache import EmbeddingCache
from ..metrics.statistics import bootstrap_mean
from ..presets import Preset
from ..prompts import Prompt
from ..records import MetricResult, too_few_warnings

__all__ = ["Context", "MeasuredSystem", "mean_result", "missing_result"]


@dataclass(frozen=True)
class MeasuredSystem:
    """One system's usable clips, and the prompt of each that has one."""

    name: str
    clips: ClipSet
    prompts: Mapping[str, Prompt]
    is_control: bool = False

    @property
    def prompted(self) -> list[Clip]:
        return [clip for clip in self.clips.clips if clip.id in self.prompts]


@dataclass(frozen=True)
class Context:
    """What every measurement is given.

    Attributes:
        references: Prompt id -> its own reference clip.
        num_resamples: For means; `num_set_resamples` for distances, which cost more.
        skipped_metrics: Metric -> why it was not measured; filled by the measurements.
    """

    preset: Preset
    cache: EmbeddingCache
    reference: ClipSet | None
    references: Mapping[str, Clip]
    seed: int = 0
    num_resamples: int = 2000
    num_set_resamples: int = 300
    skipped_metrics: dict[str, str] = field(default_factory=dict)


def mean_result(
    context: Context, metric: str, system: str, values: Mapping[str, float], higher_is_better: bool | None, **record
) -> MetricResult:
    """Record of a figure that is the mean of one value a clip, with its bootstrap interval."""
    ids = tuple(sorted(values))
    per_clip = np.array([values[clip] for clip in ids], dtype=np.float64)
    warnings = tuple(record.pop("warnings", ()))
    warnings += too_few_warnings("mean", len(ids)) if ids else ("no clip is long enough for it",)
    interval = None
    if len(ids) >= 2 and np.isfinite(per_clip).all():
        interval = bootstrap_mean(per_clip, rng_for(context.seed, metric, system), context.num_resamples)
    return MetricResult(
        metric=metric,
        system=system,
        value=float(per_clip.mean()) if len(ids) else float("nan"),
        higher_is_better=higher_is_better,
        num_clips=len(ids),
        interval=interval,
        per_clip=tuple(per_clip.tolist()),
        clip_ids=ids,
        warnings=warnings,
        **record,
    )


def missing_result(metric: str, system: str, why: str, num_clips: int = 0) -> MetricResult:
    """Record that stands in the place of a figure that could not be measured, with the reason."""
    return MetricResult(metric, system, float("nan"), None, num_clips, warnings=(why,))
