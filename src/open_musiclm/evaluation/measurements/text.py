"""CLAP score of each system, and the same with its prompts shuffled: what a score is worth shows beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..comparisons import Comparison, compare_means, pairs_of, rng_for
from ..embedders.networks import ClapEmbedder
from ..metrics.similarity import derangements, mean_pairwise_distance, text_audio_similarity, vendi_score
from ..presets import fit_windowing
from ..prompts import Prompt
from ..records import MetricResult
from .measured import Context, MeasuredSystem, mean_result, missing_result

__all__ = ["SHUFFLED", "measure_diversity", "measure_text", "reference_score"]

METRIC = "CLAP score"
SHUFFLED = "{system} (prompts shuffled)"
NUM_SHUFFLES = 20


def measure_text(
    context: Context, systems: Sequence[MeasuredSystem], clap: ClapEmbedder, warnings: tuple[str, ...] = ()
) -> tuple[list[MetricResult], list[Comparison]]:
    """Mean cosine of prompts and clips (MuLan cycle consistency with CLAP in MuLan's place)."""
    windowing, cut = fit_windowing(context.preset.clap, clap.max_window_in_s)
    source = context.preset.source_backbones.get(METRIC)
    warnings += cut
    if source:
        warnings += (f"the preset's source uses {source}; compare only figures of one network",)
    settings = {
        "windows": "first" if context.preset.clap_first_window_only else "mean of all",
        "text": "77 tokens at most",
    }
    results, shuffled_results = [], []
    for system in systems:
        clips = system.prompted
        if not clips:
            results.append(missing_result(METRIC, system.name, "no clip has the name of a prompt"))
            continue
        windows = context.cache.run(clap.embed, "embedding", clap.backbone, windowing, clips, f"{system.name}: CLAP")
        if context.preset.clap_first_window_only:
            windows = [rows[:1] for rows in windows]
        texts = [system.prompts[clip.id].text for clip in clips]
        text = clap.embed_text(texts)
        record: dict[str, Any] = {
            "backbone": clap.backbone,
            "windowing": windowing,
            "num_windows": sum(len(rows) for rows in windows),
            "warnings": warnings,
        }
        values = dict(zip([clip.id for clip in clips], text_audio_similarity(text, windows), strict=True))
        results.append(mean_result(context, METRIC, system.name, values, True, settings=settings, **record))
        if system.is_control:
            continue
        name = SHUFFLED.format(system=system.name)
        try:
            orders = derangements(texts, NUM_SHUFFLES, rng_for(context.seed, "shuffle"))
        except ValueError as error:
            shuffled_results.append(missing_result(METRIC, name, str(error), len(clips)))
            continue
        wrong = np.mean([text_audio_similarity(text[order], windows) for order in orders], axis=0)
        values = dict(zip([clip.id for clip in clips], wrong, strict=True))
        shuffled = {**settings, "shuffles": NUM_SHUFFLES}
        shuffled_results.append(mean_result(context, METRIC, name, values, True, settings=shuffled, **record))
    against_shuffled = [
        (result, other)
        for result in results
        for other in shuffled_results
        if other.system == SHUFFLED.format(system=result.system)
    ]
    comparisons = [
        compare_means(a, b, context.seed, context.num_resamples) for a, b in pairs_of(results) + against_shuffled
    ]
    return results + shuffled_results, [comparison for comparison in comparisons if comparison]


def reference_score(context: Context, prompts: Mapping[str, Prompt], clap: ClapEmbedder) -> float | None:
    """CLAP score of the prompts' own reference clips, what real music has; `None` without any."""
    pairs = [(prompts[name].text, clip) for name, clip in context.references.items() if name in prompts]
    if not pairs:
        return None
    windowing, _ = fit_windowing(context.preset.clap, clap.max_window_in_s)
    clips = [clip for _, clip in pairs]
    windows = context.cache.run(clap.embed, "embedding", clap.backbone, windowing, clips, "reference: CLAP")
    if context.preset.clap_first_window_only:
        windows = [rows[:1] for rows in windows]
    return float(np.mean(text_audio_similarity(clap.embed_text([text for text, _ in pairs]), windows)))


def measure_diversity(
    context: Context, systems: Sequence[MeasuredSystem], clap: ClapEmbedder
) -> tuple[list[MetricResult], list[Comparison]]:
    """How different a system's clips are from one another: mean cosine distance of pairs, and Vendi score."""
    windowing, cut = fit_windowing(context.preset.clap, clap.max_window_in_s)
    results = []
    for system in systems:
        clips = list(system.clips.clips)
        if len(clips) < 2:
            results.append(
                missing_result("Diversity", system.name, f"{len(clips)} clip; at least 2 are needed", len(clips))
            )
            continue
        windows = context.cache.run(clap.embed, "embedding", clap.backbone, windowing, clips, f"{system.name}: CLAP")
        means = np.stack([rows.mean(axis=0) for rows in windows])
        record: dict[str, Any] = {
            "system": system.name,
            "higher_is_better": None,
            "num_clips": len(clips),
            "backbone": clap.backbone,
            "windowing": windowing,
            "warnings": cut,
        }
        settings = {"embedding": "mean of a clip's windows"}
        results.append(MetricResult("Diversity", value=mean_pairwise_distance(means), settings=settings, **record))
        results.append(MetricResult("Vendi score", value=vendi_score(means), settings=settings, **record))
    return results, []
