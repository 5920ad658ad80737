"""The memorization test over a token dataset and a pipeline: what `evaluate --memorization` runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ...tokenizers.fingerprints import check_fingerprints
from ..comparisons import rng_for
from ..records import plain
from ..report.page import write_aside
from ..systems.system import MusicLMSystem, load_system
from .measure import NUM_CONTINUATION_TOKENS, PROMPT_LENGTHS, MemorizationResult, TokenExample, memorization_test

__all__ = ["greedy_continuation", "read_examples", "run_memorization"]


def run_memorization(
    model: str, tokens: str, output: str, device: str = "cpu", num_examples: int = 256, seed: int = 0
) -> list[str]:
    """Runs the test and writes memorization.json and memorization.html; returns the findings as lines of text.

    Prompts that do not fit into the semantic stage's window together with the 125 tokens to come are left out, and so
    are examples that are too short; both are said.

    Args:
        model: `[NAME=]WHAT` of a pipeline of this package, with its semantic quantizer.
        tokens: Folder or Hub id of a token dataset made with the same codebooks.
        num_examples: How many examples to draw, at most.
    """
    from ...data import TokenDataset

    system = load_system(model, device)
    if not isinstance(system, MusicLMSystem):
        raise ValueError(
            f"{model!r} is no pipeline of this package; the memorization test is one of its semantic stage."
        )
    pipeline = system.pipeline
    if pipeline.semantic_quantizer is None:
        raise ValueError(f"{model!r} has no semantic_quantizer, whose centroids say how far two tokens are apart.")
    stage = stage_under_test(pipeline)
    dataset = TokenDataset.load(tokens, crops_per_file=1)
    check_fingerprints(
        f"the token dataset {tokens!r}",
        dataset.record.stream(stage.predicted_stream.name).codebook_fingerprint,
        f"the semantic quantizer of {model!r}",
        pipeline.semantic_quantizer.fingerprint,
    )
    longest = int(stage.config.window_in_s * stage.predicted_stream.frame_rate) - NUM_CONTINUATION_TOKENS
    lengths = [length for length in PROMPT_LENGTHS if length <= longest]
    if not lengths:
        raise ValueError(f"the semantic stage's window of {stage.config.window_in_s} s does not hold 125 tokens.")
    rng = rng_for(seed, "memorization")
    examples, num_short = read_examples(dataset, stage, max(lengths) + NUM_CONTINUATION_TOKENS, num_examples, rng)
    centroids = pipeline.semantic_quantizer.codebook.detach().double().cpu().numpy()
    results = memorization_test(greedy_continuation(stage), examples, centroids, rng, lengths)
    notes = list(dict.fromkeys(warning for result in results for warning in result.warnings))
    if len(lengths) < len(PROMPT_LENGTHS):
        notes.append(f"prompts of more than {longest} tokens do not fit into the stage's window and were left out")
    if num_short:
        notes.append(f"{num_short} examples were too short and were left out")
    record = plain(
        {
            "format": 1,
            "system": system.describe(),
            "tokens": {"path": tokens, "streams": [stream.to_dict() for stream in dataset.record.streams]},
            "seed": seed,
            "num_tokens": NUM_CONTINUATION_TOKENS,
            "results": [asdict(result) for result in results],
            "notes": notes,
        }
    )
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    write_aside(folder / "memorization.json", json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_aside(folder / "memorization.html", _page(system.name, results, notes))
    told = [
        f"prompt of {r.prompt_length:3d} tokens: exact {r.exact_share:.4f}, approximate {r.approximate_share:.4f} "
        f"of {r.num_examples} (threshold {r.threshold:.4g}, {r.num_negatives} negatives)"
        for r in results
    ]
    return [*told, *(f"* {note}" for note in notes), str(folder / "memorization.html")]


def stage_under_test(pipeline):
    """The stage that predicts semantic tokens from CLAP's alone, whatever it is called.

    Raises:
        ValueError: there is none.
    """
    for stage in pipeline.chain.stages.values():
        if [stream.source for stream in stage.streams] == ["clap", "semantic"]:
            return stage
    raise ValueError(
        "The memorization test is one of a stage that predicts semantic tokens from CLAP's; this pipeline has none."
    )


def greedy_continuation(stage):
    """What `memorization_test` calls: the semantic stage, greedy, with CLAP tokens and a prompt."""
    import torch

    def continue_greedily(clap: np.ndarray, prompt: np.ndarray, num_tokens: int) -> np.ndarray:
        condition, predicted = (stream.argument for stream in stage.streams)
        given: dict[str, Any] = {condition: torch.as_tensor(clap.astype(np.int64), device=stage.device)}
        if prompt.shape[1]:
            given[predicted] = torch.as_tensor(prompt.astype(np.int64), device=stage.device)
        made = stage.generate(num_frames=prompt.shape[1] + num_tokens, do_sample=False, **given)
        return made[:, prompt.shape[1] :].cpu().numpy()

    return continue_greedily


def read_examples(
    dataset, stage, num_tokens: int, num_examples: int, rng: np.random.Generator
) -> tuple[list[TokenExample], int]:
    """Draws examples that have at least `num_tokens` semantic tokens, from their start and with their first CLAP tokens.

    Returns:
        The examples in the dataset's order, and how many were passed over for being too short.
    """
    condition, predicted = (stream.argument for stream in stage.streams)
    examples, num_short = [], 0
    chosen: list[int] = []
    for index in rng.permutation(len(dataset)):
        if len(chosen) == num_examples:
            break
        row = dataset[int(index)]
        if len(row[predicted]) < num_tokens or not len(row[condition]):
            num_short += 1
            continue
        chosen.append(int(index))
        semantic = np.asarray(row[predicted])[:num_tokens, 0].astype(np.int64)
        clap = np.asarray(row[condition])[0].astype(np.int64)
        examples.append(TokenExample(f"{index}: {row['path']}", clap, semantic))
    order = np.argsort(chosen)
    return [examples[i] for i in order], num_short


def _page(name: str, results: list[MemorizationResult], notes: list[str]) -> str:
    style = files("open_musiclm.evaluation.report").joinpath("style.css").read_text("utf-8")
    rows = "".join(
        f"<tr><td>{r.prompt_length}</td><td>{100 * r.exact_share:.2f} %</td><td>{100 * r.approximate_share:.2f} %</td>"
        f"<td>{r.threshold:.4g}</td><td>{100 * r.false_positive_rate:.3f} %</td><td>{r.num_examples}</td></tr>"
        for r in results
    )
    shown = "".join(f"<li>{escape(note)}</li>" for note in notes)
    listed = f'<div class="card warnings"><h3>What to know</h3><ul class="notes">{shown}</ul></div>' if notes else ""
    found = sorted({example for r in results for example in r.approximate_examples})
    matched = "".join(f"<li>{escape(example)}</li>" for example in found[:200])
    names = (
        f'<div class="card"><h3>Examples that matched ({len(found)})</h3><ul class="notes">{matched}</ul></div>'
        if found
        else ""
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Memorization: {escape(name)}</title>'
        f"<style>{style}</style></head><body><main><header><h1>Memorization: {escape(name)}</h1><p>125 greedy semantic tokens "
        "after a prompt of the training set's own, held against what follows there (MusicLM, section 6.4)</p></header>"
        '<div class="card scroll"><table><thead><tr><th>Prompt, tokens</th><th>Exact</th><th>Approximate</th><th>Threshold'
        f"</th><th>False positives</th><th>Examples</th></tr></thead><tbody>{rows}</tbody></table></div>{listed}{names}"
        "</main></body></html>\n"
    )
