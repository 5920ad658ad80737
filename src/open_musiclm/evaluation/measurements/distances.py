"""FAD, FAD∞ and KAD of each system to the reference, and their differences between systems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..comparisons import Comparison, compare_distances, pairs_of, rng_for
from ..embedders.networks import Embedder
from ..metrics.frechet import Gaussian, frechet_infinity
from ..metrics.kernel import MAX_ITEMS, SCALE, ClipKernels, median_distance
from ..metrics.statistics import half_sample_interval
from ..presets import fit_windowing
from ..records import MetricResult, too_few_warnings
from .measured import Context, MeasuredSystem, missing_result

__all__ = ["measure_distances"]

MIN_CLIPS = 2


def measure_distances(
    context: Context, systems: Sequence[MeasuredSystem], embedder: Embedder
) -> tuple[list[MetricResult], list[Comparison]]:
    """Distances of every system's clips to the reference set, in the embeddings of one network.

    The unit of resampling is the clip; the reference is held fixed. KAD's bandwidth is the median distance within the
    reference, the same for all systems.
    """
    reference = context.reference
    if reference is None:
        raise ValueError("distances need a reference set.")
    windowing, cut = fit_windowing(context.preset.distance, embedder.max_window_in_s)
    rounded = np.dtype(context.preset.embedding_dtype)

    def embed(clips, name: str) -> dict[str, np.ndarray]:
        made = context.cache.run(embedder.embed, "embedding", embedder.backbone, windowing, clips, f"{name}: embed")
        return {
            clip.id: rows.astype(rounded).astype(np.float64)
            for clip, rows in zip(clips, made, strict=True)
            if len(rows)
        }

    target_clips = embed(list(reference.clips), "reference")
    if not target_clips:
        raise ValueError(
            f"no reference clip is as long as a window ({windowing.window_in_s} s); choose another preset."
        )
    target = np.concatenate([target_clips[clip] for clip in sorted(target_clips)])
    if len(target) < 2:
        raise ValueError(
            f"the reference has {len(target)} window; at least 2 are needed for a distance. Give more clips."
        )
    target_gaussian = Gaussian.of(target, "reference")
    bandwidth = median_distance(target, rng=rng_for(context.seed, "bandwidth"))
    shared = {
        "higher_is_better": False,
        "backbone": embedder.backbone,
        "windowing": windowing,
        "reference": reference.name,
        "num_reference_clips": len(target_clips),
        "num_reference_windows": len(target),
    }
    source = context.preset.source_backbones
    results: list[MetricResult] = []
    embedded: dict[str, dict[str, np.ndarray]] = {}
    for system in systems:
        clips = embed(list(system.clips.clips), system.name)
        lost = len(system.clips) - len(clips)
        warnings = cut + ((f"{lost} clips are shorter than a window and were left out",) if lost else ())
        num_windows = sum(len(rows) for rows in clips.values())
        if len(clips) < MIN_CLIPS or num_windows < 2:
            why = f"{len(clips)} usable clips; at least {MIN_CLIPS} are needed for a distance"
            results += [missing_result(metric, system.name, why, len(clips)) for metric in ("FAD", "FAD∞", "KAD")]
            continue
        embedded[system.name] = clips
        few = too_few_warnings("fad", len(clips), min(num_windows, len(target)), embedder.backbone.dimension)
        record = {"system": system.name, "num_clips": len(clips), "num_windows": num_windows, **shared}
        results.append(
            _frechet(context, list(clips.values()), target_gaussian, record, warnings + _other(source, "FAD") + few)
        )
        results.append(
            _infinity(context, list(clips.values()), target, record, warnings + _other(source, "FAD∞") + few)
        )
        results.append(_kernel(context, list(clips.values()), target, bandwidth, record, warnings))

    comparisons = []
    for metric in ("FAD", "KAD"):
        measured = [result for result in results if result.metric == metric and result.system in embedded]
        rivalries = pairs_of(measured)
        for a, b in rivalries:
            common = [clip for clip in embedded[a.system] if clip in embedded[b.system]]
            pool = [embedded[name][clip] for name in (a.system, b.system) for clip in common]
            if not common:
                continue
            distance = _set_distance(metric, pool, target, target_gaussian, bandwidth)
            found = compare_distances(
                a, b, distance, len(common), context.seed, context.num_set_resamples, len(rivalries)
            )
            comparisons += [found] if found else []
    return results, comparisons


def _set_distance(metric: str, pool, target, target_gaussian: Gaussian, bandwidth: float):
    if metric == "FAD":
        return lambda indices: Gaussian.of(np.concatenate([pool[i] for i in indices])).distance_to(target_gaussian)
    return ClipKernels(pool, target, bandwidth).distance


def _frechet(context: Context, clips, target: Gaussian, record: dict, warnings: tuple) -> MetricResult:
    distance = _set_distance("FAD", clips, None, target, 0.0)
    value = distance(np.arange(len(clips)))
    return _with_interval(context, "FAD", distance, value, record, {"covariance": "n − 1"}, warnings)


def _kernel(context: Context, clips, target, bandwidth: float, record: dict, warnings: tuple) -> MetricResult:
    settings = {
        "bandwidth": bandwidth,
        "bandwidth_rule": "median distance between windows of the reference set"
        + (f", {MAX_ITEMS} of them drawn" if len(target) > MAX_ITEMS else ""),
        "kernel": "Gaussian",
        "scale": SCALE,
        "estimator": "unbiased",
    }
    warnings += too_few_warnings("kad", len(clips))
    if not bandwidth > 0:
        why = "the median distance within the reference is 0: most of its clips have one embedding"
        return missing_result("KAD", record["system"], why, len(clips))
    distance = ClipKernels(clips, target, bandwidth).distance
    value = distance(np.arange(len(clips)))
    return _with_interval(context, "KAD", distance, value, record, settings, warnings)


def _infinity(context: Context, clips, target, record: dict, warnings: tuple) -> MetricResult:
    windows = np.concatenate(clips)
    preset = context.preset
    if len(windows) < 4:
        return missing_result("FAD∞", record["system"], f"{len(windows)} windows; at least 4 are needed", len(clips))
    if len(windows) <= preset.fad_min_samples:
        warnings += (
            f"{len(windows)} windows, not more than the {preset.fad_min_samples} that the line should start at; it starts "
            "at a quarter of them and its end is a guess",
        )
    found = frechet_infinity(
        windows,
        target,
        rng_for(context.seed, "FAD∞", record["system"]),
        preset.fad_num_steps,
        preset.fad_min_samples,
        preset.fad_replace,
    )
    if found.value < 0:
        warnings += (
            f"the line ends at {found.value:.3g}, and no distance is below 0: with so few windows it cannot be told from 0",
        )
    settings = {
        "intercept": found.value,
        "num_steps": preset.fad_num_steps,
        "replace": preset.fad_replace,
        "slope": found.slope,
        "r_squared": found.r_squared,
        "sizes": list(found.sizes),
        "distances": list(found.distances),
    }
    return MetricResult(metric="FAD∞", value=max(found.value, 0.0), settings=settings, warnings=warnings, **record)


def _with_interval(context: Context, metric, distance, value, record, settings, warnings) -> MetricResult:
    interval = None
    if record["num_clips"] >= 4:
        rng = rng_for(context.seed, metric, record["system"])
        interval = half_sample_interval(distance, record["num_clips"], value, rng, context.num_set_resamples)
        if metric == "FAD":  # it cannot be negative
            interval = replace(interval, low=max(interval.low, 0.0))
    return MetricResult(metric=metric, value=value, interval=interval, settings=settings, warnings=warnings, **record)


def _other(source_backbones: dict[str, str], metric: str) -> tuple[str, ...]:
    if metric not in source_backbones:
        return ()
    return (f"the preset's source uses {source_backbones[metric]}; compare only figures of one network",)
