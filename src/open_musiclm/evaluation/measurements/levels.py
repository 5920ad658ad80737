"""Silence and clipping rates of each system, from the levels that were read with its clips."""

from __future__ import annotations

from collections.abc import Sequence

from ..comparisons import Comparison
from ..metrics.levels import FULL_SCALE, MIN_RUN, SILENCE_IN_DB
from ..records import MetricResult
from .measured import Context, MeasuredSystem, mean_result, missing_result

__all__ = ["measure_levels_of_systems"]


def measure_levels_of_systems(
    context: Context, systems: Sequence[MeasuredSystem]
) -> tuple[list[MetricResult], list[Comparison]]:
    """Share of silence in the clips, and share of clips that clip."""
    results = []
    for system in systems:
        clips = system.clips.clips
        if not clips:
            results += [
                missing_result(name, system.name, "no usable clip") for name in ("Silence rate", "Clipping rate")
            ]
            continue
        silence = {clip.id: clip.levels.silent_share for clip in clips}
        clipping = {clip.id: float(clip.levels.is_clipped) for clip in clips}
        settings = {"frame_in_s": 0.1, "below_in_db": SILENCE_IN_DB}
        results.append(mean_result(context, "Silence rate", system.name, silence, False, settings=settings))
        settings = {"at_least": FULL_SCALE, "samples_in_a_row": MIN_RUN}
        results.append(mean_result(context, "Clipping rate", system.name, clipping, False, settings=settings))
    return results, []
