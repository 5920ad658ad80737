"""Figures that hold each clip against what was asked of it: its own reference clip, a tempo, a key."""

from __future__ import annotations

from collections.abc import Sequence

from ...audio import resample
from ..clips import Clip, load_waveform
from ..comparisons import Comparison, compare_means, pairs_of
from ..embedders.networks import AstEmbedder
from ..metrics.chroma import chroma_agreement, estimate_key, key_agreement
from ..metrics.divergence import paired_kl_divergence
from ..metrics.tempo import estimate_tempo, tempo_agreement
from ..presets import fit_windowing
from ..records import MetricResult
from .measured import Context, MeasuredSystem, mean_result, missing_result

__all__ = ["measure_chroma", "measure_divergence", "measure_key", "measure_tempo"]

NO_REFERENCE = "no clip has a reference of its own: no reference file has the name or id of a prompt"


def measure_divergence(
    context: Context, systems: Sequence[MeasuredSystem], classifier: AstEmbedder
) -> tuple[list[MetricResult], list[Comparison]]:
    """KL divergence between the class probabilities of each clip and of its own reference."""
    metric = "KL divergence"
    preset = context.preset
    windowing, warnings = fit_windowing(preset.classifier, classifier.max_window_in_s)
    if metric in preset.source_backbones:
        warnings += (
            f"the preset's source uses {preset.source_backbones[metric]}; compare only figures of one network",
        )
    settings = {
        "direction": f"KL({preset.kl_direction})",
        "epsilon": preset.kl_epsilon,
        "activation": "softmax",
        "classes": len(classifier.labels),
    }

    def probabilities(clips: list[Clip], name: str):
        return context.cache.run(
            classifier.probabilities, "probabilities", classifier.backbone, windowing, clips, name
        )

    results = []
    for system in systems:
        clips = _referenced(context, system)
        if not clips:
            results.append(missing_result(metric, system.name, NO_REFERENCE))
            continue
        ours = probabilities(clips, f"{system.name}: classify")
        theirs = probabilities([context.references[clip.id] for clip in clips], "reference: classify")
        kept = [i for i in range(len(clips)) if len(ours[i]) and len(theirs[i])]
        values = paired_kl_divergence(
            [ours[i] for i in kept], [theirs[i] for i in kept], preset.kl_direction, preset.kl_epsilon
        )
        results.append(
            mean_result(
                context,
                metric,
                system.name,
                {clips[i].id: value for i, value in zip(kept, values, strict=True)},
                False,
                backbone=classifier.backbone,
                windowing=windowing,
                settings=settings,
                warnings=warnings,
                **_reference_record(context, [clips[i] for i in kept]),
            )
        )
    return results, _compare_all(context, results)


def measure_chroma(context: Context, systems: Sequence[MeasuredSystem]) -> tuple[list[MetricResult], list[Comparison]]:
    """Share of frames whose strongest pitch class is that of the clip's own reference."""
    preset = context.preset
    settings = {
        "n_fft": preset.chroma_n_fft,
        "hop_length": preset.chroma_hop_length,
        "sampling_rate": preset.chroma_sampling_rate,
        "filters": "librosa chroma, A = 440 Hz",
    }

    def waveform(clip: Clip):
        return resample(load_waveform(clip), clip.sampling_rate, preset.chroma_sampling_rate)

    results = []
    for system in systems:
        clips = _referenced(context, system)
        if not clips:
            results.append(missing_result("Chroma agreement", system.name, NO_REFERENCE))
            continue
        values = {
            clip.id: chroma_agreement(
                waveform(clip),
                waveform(context.references[clip.id]),
                preset.chroma_sampling_rate,
                preset.chroma_n_fft,
                preset.chroma_hop_length,
            )
            for clip in clips
        }
        record = _reference_record(context, clips)
        results.append(
            mean_result(context, "Chroma agreement", system.name, values, True, settings=settings, **record)
        )
    return results, _compare_all(context, results)


def measure_tempo(context: Context, systems: Sequence[MeasuredSystem]) -> tuple[list[MetricResult], list[Comparison]]:
    """Share of clips at the tempo that their prompt asks for."""

    def agreement(clip: Clip, system: MeasuredSystem) -> float:
        found = estimate_tempo(load_waveform(clip), clip.sampling_rate)
        return tempo_agreement(found, system.prompts[clip.id].tempo or 0.0)

    settings = {"tolerance": 0.04, "octaves": "half, third, double and triple count"}
    return _measure_asked(context, systems, "Tempo agreement", "tempo", agreement, settings)


def measure_key(context: Context, systems: Sequence[MeasuredSystem]) -> tuple[list[MetricResult], list[Comparison]]:
    """MIREX key score of the clips whose prompt asks for a key."""

    def agreement(clip: Clip, system: MeasuredSystem) -> float:
        asked = system.prompts[clip.id].key
        assert asked is not None
        return key_agreement(estimate_key(load_waveform(clip), clip.sampling_rate), asked)

    settings = {"profiles": "Krumhansl and Kessler 1982", "score": "MIREX: 1, fifth 0.5, relative 0.3, parallel 0.2"}
    return _measure_asked(context, systems, "Key agreement", "key", agreement, settings)


def _measure_asked(context, systems, metric: str, asked: str, agreement, settings: dict):
    results = []
    for system in systems:
        clips = [clip for clip in system.prompted if getattr(system.prompts[clip.id], asked)]
        if not clips:
            results.append(missing_result(metric, system.name, f"no prompt asks for a {asked}"))
            continue
        values = {clip.id: agreement(clip, system) for clip in clips}
        results.append(mean_result(context, metric, system.name, values, True, settings=settings))
    return results, _compare_all(context, results)


def _referenced(context: Context, system: MeasuredSystem) -> list[Clip]:
    return [clip for clip in system.prompted if clip.id in context.references]


def _reference_record(context: Context, clips: list[Clip]) -> dict:
    return {
        "reference": f"{context.reference.name if context.reference else ''}, each clip its own",
        "num_reference_clips": len({context.references[clip.id].path for clip in clips}),
    }


def _compare_all(context: Context, results: list[MetricResult]) -> list[Comparison]:
    comparisons = [compare_means(a, b, context.seed, context.num_resamples) for a, b in pairs_of(results)]
    return [comparison for comparison in comparisons if comparison]
