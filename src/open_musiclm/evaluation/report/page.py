"""The page: what was found, how sure it is, how it sounds, and every setting it depends on."""

from __future__ import annotations

import io
import json
import math
import os
from dataclasses import asdict
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np

from ...audio import resample
from ..clips import Clip, load_waveform
from ..evaluate import Evaluation
from ..notices import NOISE
from ..records import MetricResult, plain
from .glance import ranking_table, verdict_list
from .pictures import data_uri, spectrogram_png
from .plots import colour_class, interval_plot, line_plot, strip_plot
from .tables import Notes, comparison_table, number, performance_table, summary_table

__all__ = ["embedded_audio", "write_aside", "write_report"]

EXPLAINED = {
    "CLAP score": "Mean cosine of the prompt's and the clip's CLAP embeddings. A score is worth what it stands above the "
    "same clips with their prompts shuffled.",
    "FAD": "Fréchet distance between Gaussians of the embeddings of generated and reference windows. It grows when clips "
    "are few: compare sets of one size.",
    "FAD∞": "FAD extrapolated to infinitely many windows.",
    "KAD": "100 × unbiased squared MMD of the same embeddings; it does not depend on the number of clips and may be negative.",
    "KL divergence": "Between what a classifier hears in a clip and in its own reference, in nats.",
    "Chroma agreement": "Share of frames with the same strongest pitch class as the clip's own reference; chance is 1/12 or more.",
    "Tempo agreement": "Share of clips at the tempo asked for, half and double allowed.",
    "Key agreement": "MIREX score against the key asked for.",
    "Diversity": "Mean cosine distance between a system's clips.",
    "Vendi score": "Effective number of different clips.",
    "Silence rate": "Share of silence (below −60 dB) in the clips.",
    "Clipping rate": "Share of clips with three samples in a row at full scale.",
}
SIGNAL = ("Diversity", "Vendi score", "Silence rate", "Clipping rate")
PLOTTED = ("CLAP score", "FAD", "KAD", "KL divergence", "Chroma agreement", "Tempo agreement", "Key agreement")


def write_report(evaluation: Evaluation, num_examples: int = 6) -> tuple[Path, Path]:
    """Writes report.html and report.json into the evaluation's output folder.

    Args:
        num_examples: Prompts to show with spectrograms and players; their audio is inside the page.

    Returns:
        The two paths.
    """
    output = Path(evaluation.settings.output)
    output.mkdir(parents=True, exist_ok=True)
    page, record = output / "report.html", output / "report.json"
    write_aside(record, json.dumps(evaluation.as_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_aside(page, render(evaluation, num_examples))
    return page, record


def render(evaluation: Evaluation, num_examples: int = 6) -> str:
    """The page as one string of HTML that loads nothing from anywhere."""
    systems = [system.name for system in evaluation.systems]
    colours = {name: colour_class(index) for index, name in enumerate(systems) if name != NOISE}
    shown = systems + list(dict.fromkeys(r.system for r in evaluation.results if r.system not in systems))
    controls = {name for name in shown if name not in systems or name == NOISE}
    notes = Notes()
    quality, signal = ([r for r in evaluation.results if (r.metric in SIGNAL) == signal] for signal in (False, True))
    summary = summary_table(quality, shown, colours, controls, notes)
    levels = summary_table(signal, systems, colours, controls, notes)
    style = files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    sections = [
        _header(evaluation),
        f'<section id="glance"><h2>At a glance</h2><div class="card">{verdict_list(evaluation)}{ranking_table(evaluation)}'
        "</div></section>",
        f'<section id="summary"><h2>All figures</h2><p class="lead">Arrows say which direction is better; the best system '
        f"is marked. Small print is the 95 % interval over clips. Grey rows are controls.</p>"
        f'<div class="card">{summary}</div><div class="card"><h3>The signal itself</h3>{levels}</div></section>',
        _warnings(evaluation, notes),
        _plots(evaluation, colours),
        _comparisons(evaluation),
        _examples(evaluation, colours, num_examples),
        _performance(evaluation),
        _settings(evaluation),
    ]
    versions = ", ".join(f"{name} {version}" for name, version in evaluation.versions.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(_title(evaluation))}</title><style>{style}</style></head>"
        f"<body><main>{''.join(sections)}<footer>{escape(versions)}</footer></main></body></html>\n"
    )


def embedded_audio(waveform: np.ndarray, sampling_rate: int) -> str:
    """`data:` address of (samples,) as 16-bit FLAC."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, sampling_rate, format="FLAC", subtype="PCM_16")
    return data_uri(buffer.getvalue(), "audio/flac")


def write_aside(path: Path, text: str) -> None:
    """Writes a text so that the file appears whole or not at all; names that are no Unicode lose what cannot be written."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        aside.write_text(text, encoding="utf-8", errors="replace")
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _title(evaluation: Evaluation) -> str:
    return "Evaluation of " + ", ".join(s.name for s in evaluation.systems if s.name != NOISE)


def _header(evaluation: Evaluation) -> str:
    reference = f"{len(evaluation.reference)} reference clips" if evaluation.reference else "no reference"
    told = f"{len(evaluation.prompts)} prompts · {reference} · preset {evaluation.preset.name} · seed {evaluation.settings.seed}"
    return f"<header><h1>{escape(_title(evaluation))}</h1><p>{escape(told)}</p></header>"


def _warnings(evaluation: Evaluation, notes: Notes) -> str:
    parts = []
    if notes.texts:
        parts.append(f'<div class="card warnings"><h3>What to know of the marked figures</h3>{notes.html()}</div>')
    listed = [f"{name}: {why}" for name, why in evaluation.not_measured.items()]
    if listed:
        parts.append(_list("Not measured", listed))
    if evaluation.notices:
        parts.append(_list("About the sets", list(evaluation.notices)))
    if evaluation.unmatched:
        unmatched = [f"{found.what}: {found.why}" for found in evaluation.unmatched]
        parts.append(_list(f"Without a partner ({len(unmatched)})", unmatched))
    if evaluation.skipped:
        parts.append(_list(f"Skipped ({len(evaluation.skipped)})", [f"{s.what}: {s.why}" for s in evaluation.skipped]))
    return f'<section id="warnings">{"".join(parts)}</section>'


def _list(title: str, items: list[str]) -> str:
    shown = "".join(f"<li>{escape(item)}</li>" for item in items[:200])
    more = f"<li>… and {len(items) - 200} more, in report.json</li>" if len(items) > 200 else ""
    return f'<div class="card"><h3>{escape(title)}</h3><ul class="notes">{shown}{more}</ul></div>'


def _plots(evaluation: Evaluation, colours: dict[str, str]) -> str:
    cards = []
    for metric in PLOTTED:
        results = [r for r in evaluation.results if r.metric == metric and math.isfinite(r.value)]
        if not results:
            continue
        per_clip = all(r.per_clip and len(r.per_clip) > 1 for r in results) and metric not in (
            "Tempo agreement",
            "Key agreement",
        )
        plot = strip_plot(results, colours) if per_clip else interval_plot(results, colours)
        better = {True: " (higher is better)", False: " (lower is better)", None: ""}[results[0].higher_is_better]
        explained = EXPLAINED[metric] + (" A dot is a clip, the stroke is the mean." if per_clip else "")
        cards.append(f'<div class="card"><h3>{metric}{better}</h3><p class="lead">{escape(explained)}</p>{plot}</div>')
    infinity = [
        r for r in evaluation.results if r.metric == "FAD∞" and math.isfinite(r.value) and "sizes" in r.settings
    ]
    if infinity:
        plot = line_plot(infinity, colours)
        cards.append(
            f'<div class="card"><h3>FAD∞ (lower is better)</h3><p class="lead">{EXPLAINED["FAD∞"]}</p>{plot}</div>'
        )
    return f'<section id="plots"><h2>Plots</h2><div class="grid2">{"".join(cards)}</div></section>'


def _comparisons(evaluation: Evaluation) -> str:
    if not evaluation.comparisons:
        return ""
    cards = []
    for metric in dict.fromkeys(c.metric for c in evaluation.comparisons):
        found = [c for c in evaluation.comparisons if c.metric == metric]
        cards.append(
            f'<div class="card"><h3>{escape(metric)}</h3>{comparison_table(found)}'
            f'<p class="lead">{escape(found[0].test)}; {escape(found[0].interval.method)}</p></div>'
        )
    return (
        '<section id="comparisons"><h2>Differences between systems</h2><p class="lead">On the prompts that both systems '
        "have. A system is called ahead where the p-value, corrected by Holm for the pairs of a table, is below 0.05."
        f"</p>{''.join(cards)}</section>"
    )


def _examples(evaluation: Evaluation, colours: dict[str, str], num_examples: int) -> str:
    scores = {
        (r.system, clip): value
        for r in evaluation.results
        if r.metric == "CLAP score" and r.per_clip is not None
        for clip, value in zip(r.clip_ids or (), r.per_clip, strict=True)
    }
    cards = []
    for prompt in evaluation.prompts[:num_examples]:
        players = []
        if prompt.id in evaluation.references:
            players.append(_player("reference", "c7", evaluation.references[prompt.id], None))
        for system in evaluation.systems:
            clip = system.clips.by_id().get(prompt.id)
            if clip is not None and not system.is_control:
                score = scores.get((system.name, prompt.id))
                players.append(_player(system.name, colours.get(system.name, "c7"), clip, score))
        text = f'<p class="prompt">“{escape(prompt.text)}”<code>{escape(prompt.id)}</code></p>'
        cards.append(f'<div class="card">{text}<div class="players">{"".join(players)}</div></div>')
    return (
        f'<section id="examples"><h2>Listen</h2><p class="lead">The first {len(cards)} of {len(evaluation.prompts)} prompts; '
        "all audio lies in the folder <code>audio</code> beside this page. Pictures show 40 Hz to 16 kHz over 80 dB."
        f"</p>{''.join(cards)}</section>"
    )


def _player(name: str, colour: str, clip: Clip, score: float | None) -> str:
    waveform = load_waveform(clip)
    rate = min(clip.sampling_rate, 32000)
    picture = spectrogram_png(resample(waveform, clip.sampling_rate, rate), rate)
    shown = f'<span class="score">CLAP {number(score)}</span>' if score is not None else ""
    return (
        f'<div class="player"><div class="name"><span><span class="swatch {colour}"></span>{escape(name)}</span>{shown}</div>'
        f'<img alt="spectrogram of {escape(name, quote=True)}" src="{data_uri(picture, "image/png")}">'
        f'<audio controls preload="metadata" src="{embedded_audio(waveform, clip.sampling_rate)}"></audio></div>'
    )


def _performance(evaluation: Evaluation) -> str:
    if not evaluation.performance:
        return ""
    return (
        '<section id="performance"><h2>Speed and memory</h2><p class="lead">Real-time factor: seconds of computing for a '
        f'second of audio, the first clip included.</p><div class="card">{performance_table(evaluation.performance)}</div></section>'
    )


def _settings(evaluation: Evaluation) -> str:
    record = evaluation.as_dict()
    for system in record["systems"].values():
        system["clips"] = len(system["clips"])
    parts = [
        _details("Settings", record["settings"]),
        _details("Preset", record["preset"]),
        _details("Systems", record["systems"]),
    ]
    for result in evaluation.results:
        parts.append(_details(f"{result.metric}: {result.system}", _short(result)))
    return (
        '<section id="settings"><h2>Settings and records</h2><p class="lead">Everything a figure depends on. The values of '
        f'single clips are in report.json.</p><div class="card">{"".join(parts)}</div></section>'
    )


def _short(result: MetricResult) -> dict:
    record = plain(asdict(result))
    for many in ("per_clip", "clip_ids"):
        del record[many]
    return record


def _details(title: str, content) -> str:
    text = escape(json.dumps(content, indent=1, ensure_ascii=False))
    return f"<details><summary>{escape(title)}</summary><pre>{text}</pre></details>"
