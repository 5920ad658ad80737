"""The whole evaluation: generate what is missing, measure, compare, report.

    prompts, systems ── synthesize ──→ output/audio/<system>/<prompt>.flac     (kept; a run can stop anywhere)
    clips ── embedders ──→ output/embeddings/                                  (kept)
    embeddings, clips ── measure_* ──→ results, comparisons
    ── report ──→ output/report.json, output/report.html

Everything but the times and the memory of generation depends on the settings and the audio alone, so a run that was
interrupted and started again ends in the same report.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .clips import Clip, ClipSet, pair_generated, pair_references, scan_clips
from .comparisons import Comparison, adjust
from .embedders.cache import EmbeddingCache
from .embedders.networks import AstEmbedder, ClapEmbedder, Embedder, load_embedder
from .measurements.distances import measure_distances
from .measurements.levels import measure_levels_of_systems
from .measurements.measured import Context, MeasuredSystem
from .measurements.pairs import measure_chroma, measure_divergence, measure_key, measure_tempo
from .measurements.text import METRIC, measure_diversity, measure_text, reference_score
from .notices import NOISE, notices_of, unmatched
from .presets import Preset, get_preset
from .prompts import Prompt, Skipped, read_prompts
from .records import MetricResult, plain
from .systems.synthesis import Synthesis, synthesize
from .systems.system import FolderSystem, MusicLMSystem, System, has_own_clap, kind_of_system, load_system, system_name
from .verdicts import Ranking, Verdict, judge, rank, unfit_clap

__all__ = ["Evaluation", "EvaluationSettings", "evaluate_systems"]

DEFAULT_CLAP = "laion/clap-htsat-unfused"
MAX_NOISE_CLIPS = 200  # noise cannot be compressed, and more of it tells nothing more


@dataclass(frozen=True)
class EvaluationSettings:
    """What a user asks for; all of it stands in the report.

    Attributes:
        models: `[NAME=]WHAT`, see `load_system`.
        prompts: File of prompts or `musiccaps`, see `read_prompts`.
        reference: Folder of audio; None leaves out all that needs one.
        output: Folder of the report and everything kept.
        length_in_s: Length of each generated clip.
        num_prompts: Use only the first so many.
        clap: CLAP for the CLAP score, as Hub id or folder; None takes that of the first pipeline of ours, else
            `laion/clap-htsat-unfused`.
        embedder: For FAD, FAD∞ and KAD, see `load_embedder`; None takes the CLAP.
        classifier: AST for the KL divergence; None leaves it out.
        noise: Measure white noise beside the systems.
    """

    models: tuple[str, ...]
    prompts: str
    reference: str | None
    output: str
    length_in_s: float = 10.0
    num_prompts: int | None = None
    seed: int = 0
    preset: str = "default"
    clap: str | None = None
    embedder: str | None = None
    classifier: str | None = None
    batch_size: int = 1
    device: str = "cpu"
    num_resamples: int = 2000
    num_set_resamples: int = 300
    noise: bool = True


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found; `as_dict` is what report.json holds."""

    settings: EvaluationSettings
    preset: Preset
    prompts: tuple[Prompt, ...]
    systems: tuple[MeasuredSystem, ...]
    descriptions: dict[str, dict[str, Any]]
    reference: ClipSet | None
    references: dict[str, Clip]
    results: tuple[MetricResult, ...]
    comparisons: tuple[Comparison, ...]
    performance: dict[str, Synthesis]
    not_measured: dict[str, str]
    skipped: tuple[Skipped, ...]
    notices: tuple[str, ...]
    versions: dict[str, str]
    unmatched: tuple[Skipped, ...] = ()
    cautions: tuple[str, ...] = ()

    @property
    def rankings(self) -> tuple[Ranking, ...]:
        """The systems and the controls by each metric, the best first."""
        return rank(self.results, self.comparisons)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Every two systems, and each system against the controls, over all metrics."""
        names = [system.name for system in self.systems if not system.is_control]
        noise = next((system.name for system in self.systems if system.is_control), None)
        return judge(self.comparisons, names, noise)

    def as_dict(self) -> dict[str, Any]:
        settings = asdict(self.settings)
        for local in ("output", "device"):  # where it ran changes no figure
            del settings[local]
        return plain(
            {
                "format": 1,
                "versions": self.versions,
                "settings": settings,
                "preset": asdict(self.preset),
                "prompts": [
                    {**asdict(prompt), "key": str(prompt.key) if prompt.key else None} for prompt in self.prompts
                ],
                "reference": {"clips": len(self.reference), "paired": len(self.references)}
                if self.reference
                else None,
                "systems": {
                    system.name: {
                        **self.descriptions[system.name],
                        "clips": [_clip_record(clip) for clip in system.clips.clips],
                    }
                    for system in self.systems
                },
                "verdicts": [verdict.as_dict() for verdict in self.verdicts],
                "rankings": [ranking.as_dict() for ranking in self.rankings],
                "results": [result.as_dict() for result in self.results],
                "comparisons": [comparison.as_dict() for comparison in self.comparisons],
                "not_measured": self.not_measured,
                "skipped": [asdict(skipped) for skipped in self.skipped],
                "unmatched": [asdict(unmatched) for unmatched in self.unmatched],
                "cautions": list(self.cautions),
                "notices": list(self.notices),
                "performance": {
                    name: {
                        "real_time_factor": synthesis.real_time_factor,
                        "peak_memory_in_bytes": synthesis.peak_memory_in_bytes,
                        "memory_kind": synthesis.memory_kind,
                        "computers": synthesis.computers,
                        "num_clips": len(synthesis.records),
                    }
                    for name, synthesis in self.performance.items()
                },
            }
        )


def evaluate_systems(settings: EvaluationSettings, say: Callable[[str], None] = print) -> Evaluation:
    """Runs the evaluation; see the module's docstring.

    Raises:
        ValueError: Whatever is wrong with the input, before anything is generated where that is possible.
    """
    preset = get_preset(settings.preset)
    names = [system_name(spec) for spec in settings.models] + ([NOISE] if settings.noise else [])
    if len(set(names)) < len(names):
        raise ValueError(
            f"two systems have one name ({', '.join(names)}); write --model NAME=WHAT to tell them apart."
        )
    if not settings.models:
        raise ValueError("no system was given; write --model WHAT.")
    for spec in settings.models:
        kind_of_system(spec)
    prompts, skipped = read_prompts(settings.prompts, settings.num_prompts)
    reference = scan_clips(settings.reference, "reference", min_clips=2) if settings.reference else None
    references = pair_references(prompts, reference) if reference else {}
    for spec in _listeners(settings):  # a wrong name should not be found out after hours of generating
        load_embedder(spec)

    own_claps: dict[str, ClapEmbedder] = {}
    descriptions: dict[str, dict[str, Any]] = {}
    performance: dict[str, Synthesis] = {}
    measured: list[MeasuredSystem] = []
    for spec in [*settings.models, *([f"{NOISE}=noise"] if settings.noise else [])]:
        system = load_system(spec, settings.device)
        descriptions[system.name] = system.describe()
        if isinstance(system, MusicLMSystem):
            own_claps[system.name] = _own_clap(system)
        clips = _clips_of(system, prompts, settings, performance, say)
        measured.append(
            MeasuredSystem(system.name, clips, {prompt.id: prompt for prompt in prompts}, system.name == NOISE)
        )
        del system
        _free_memory()

    clap = _load_clap(settings, own_claps)
    embedder: Embedder = load_embedder(settings.embedder, settings.device) if settings.embedder else clap
    cache = EmbeddingCache(Path(settings.output) / "embeddings")
    context = Context(
        preset, cache, reference, references, settings.seed, settings.num_resamples, settings.num_set_resamples
    )
    not_measured: dict[str, str] = {}
    results: list[MetricResult] = []
    comparisons: list[Comparison] = []
    steps: list[tuple[str, Callable[[], tuple[list[MetricResult], list[Comparison]]]]] = [
        ("CLAP score", lambda: measure_text(context, measured, clap, _same_ear(clap, own_claps)))
    ]
    if reference is not None:
        steps.append(("FAD, FAD∞, KAD", lambda: measure_distances(context, measured, embedder)))
    else:
        not_measured["FAD, FAD∞, KAD"] = "no reference set was given (--reference)"
    if settings.classifier and references:
        classifier = load_embedder(f"ast:{settings.classifier}", settings.device)
        assert isinstance(classifier, AstEmbedder)
        steps.append(("KL divergence", lambda: measure_divergence(context, measured, classifier)))
    else:
        not_measured["KL divergence"] = (
            "no prompt has a reference clip of its own"
            if settings.classifier
            else "no classifier was given (--classifier, such as MIT/ast-finetuned-audioset-10-10-0.4593)"
        )
    if references:
        steps.append(("Chroma agreement", lambda: measure_chroma(context, measured)))
    else:
        not_measured["Chroma agreement"] = "no prompt has a reference clip of its own"
    for metric, asked, measure in (("Tempo agreement", "tempo", measure_tempo), ("Key agreement", "key", measure_key)):
        if any(getattr(prompt, asked) for prompt in prompts):
            steps.append((metric, lambda measure=measure: measure(context, measured)))  # type: ignore[misc]
        else:
            not_measured[metric] = f"no prompt asks for a {asked}"
    steps.append(("Diversity", lambda: measure_diversity(context, measured, clap)))
    steps.append(("Silence and clipping", lambda: measure_levels_of_systems(context, measured)))
    with tqdm(steps, desc="measure", unit="metric", leave=False, disable=None) as bar:
        for name, measure in bar:
            bar.set_postfix_str(name)
            found, compared = measure()
            results += found
            comparisons += compared

    real = {
        result.system: result.value
        for result in results
        if result.metric == METRIC and descriptions.get(result.system, {}).get("kind") == "folder"
    }
    of_references = reference_score(context, {prompt.id: prompt for prompt in prompts}, clap)
    if of_references is not None:
        real["the prompts' own reference clips"] = of_references
    caution = unfit_clap(results, NOISE if settings.noise else None, real)

    sets = [*([reference] if reference else []), *(system.clips for system in measured)]
    return Evaluation(
        settings=settings,
        preset=preset,
        prompts=tuple(prompts),
        systems=tuple(measured),
        descriptions=descriptions,
        reference=reference,
        references=references,
        results=tuple(results),
        comparisons=tuple(adjust(comparisons)),
        performance=performance,
        not_measured=not_measured,
        skipped=(
            *skipped,
            *(s for part in sets for s in part.skipped),
            *(s for p in performance.values() for s in p.skipped),
        ),
        notices=tuple(notices_of(sets, prompts, references, reference)),
        versions=_versions(),
        unmatched=tuple(unmatched(measured, descriptions, prompts, references, reference)),
        cautions=(caution,) if caution else (),
    )


def _listeners(settings: EvaluationSettings) -> list[str]:
    """The networks that will be needed, as `load_embedder` takes them."""
    # a model on the Hub may be one of ours and bring a CLAP; what lies here is known
    brings_clap = any(has_own_clap(spec) or kind_of_system(spec) == "hub" for spec in settings.models)
    named = (("clap", settings.clap or (None if brings_clap else DEFAULT_CLAP)), ("ast", settings.classifier))
    specs = [f"{kind}:{name}" for kind, name in named if name]
    return specs + ([settings.embedder] if settings.embedder else [])


def _own_clap(system: MusicLMSystem) -> ClapEmbedder:
    pipeline = system.pipeline
    return ClapEmbedder(pipeline.clap, pipeline.clap_processor, f"{system.source}/clap")


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _clips_of(system: System, prompts: list[Prompt], settings: EvaluationSettings, performance: dict, say) -> ClipSet:
    if isinstance(system, FolderSystem):
        clips = scan_clips(system.folder, system.name)
        pairs = {clip.path: prompt for prompt, clip in pair_generated(prompts, clips).items()}
        renamed = tuple(replace(clip, id=pairs.get(clip.path, clip.id)) for clip in clips.clips)
        say(f"{system.name}: {len(clips)} clips, {len(pairs)} of them belong to a prompt")
        return replace(clips, clips=renamed)
    if system.name == NOISE:
        prompts = prompts[:MAX_NOISE_CLIPS]
    folder = Path(settings.output) / "audio" / system.name
    performance[system.name] = synthesize(
        system, prompts, folder, settings.length_in_s, settings.seed, settings.batch_size
    )
    clips = scan_clips(folder, system.name, min_clips=0)
    known = performance[system.name].records
    kept = tuple(clip for clip in clips.clips if clip.id in known)  # an earlier run may have had more prompts
    say(f"{system.name}: {len(kept)} clips")
    return replace(clips, clips=kept)


def _load_clap(settings: EvaluationSettings, own_claps: dict[str, ClapEmbedder]) -> ClapEmbedder:
    if settings.clap is None and own_claps:
        return next(iter(own_claps.values()))
    clap = load_embedder(f"clap:{settings.clap or DEFAULT_CLAP}", settings.device)
    assert isinstance(clap, ClapEmbedder)
    return clap


def _same_ear(clap: ClapEmbedder, own_claps: dict[str, ClapEmbedder]) -> tuple[str, ...]:
    theirs = [
        n for n, own in own_claps.items() if own.backbone.weights_fingerprint == clap.backbone.weights_fingerprint
    ]
    if not theirs:
        return ()
    return (
        f"the CLAP that scores is the one that conditions {', '.join(theirs)}; another one (--clap) judges more fairly",
    )


def _clip_record(clip: Clip) -> dict[str, Any]:
    record = asdict(clip)
    del record["path"]
    return record


def _versions() -> dict[str, str]:
    import diffusers
    import numpy
    import torch
    import transformers

    from ..version import __version__

    libraries = {"torch": torch, "transformers": transformers, "diffusers": diffusers, "numpy": numpy}
    return {"open_musiclm": __version__, **{name: library.__version__ for name, library in libraries.items()}}
