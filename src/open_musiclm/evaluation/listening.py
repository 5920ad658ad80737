"""A listening test as one page: blinded pairs on a five-point scale (MusicLM, section 5.1 and appendix B).

write_listening_test ──→ listening_test.html    to give to listeners: audio, prompts, no names of systems
                     ──→ listening_key.json     to keep: which system is A and which is B in each pair
listeners ──→ result files ── listening_results ──→ wins with intervals
"""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from itertools import combinations
from pathlib import Path

from .comparisons import rng_for
from .evaluate import Evaluation
from .report.page import embedded_audio, write_aside

__all__ = ["KEY_NAME", "PAGE_NAME", "write_listening_test"]

PAGE_NAME = "listening_test.html"
KEY_NAME = "listening_key.json"


def write_listening_test(evaluation: Evaluation, num_pairs: int = 20) -> Path:
    """Writes the page and its key into the evaluation's output folder; returns the page's path.

    The pairs of systems take turns over prompts in a random order, so that each pair of systems is heard as often as
    the others, and no prompt twice before all were heard once. Sides are tossed evenly: of the pairs of two systems,
    each system is A in half. White noise is not asked about.

    Args:
        num_pairs: Pairs on the page; fewer if there are not so many.

    Raises:
        ValueError: If fewer than two systems have a clip of one prompt.
    """
    systems = [system for system in evaluation.systems if not system.is_control]
    rng = rng_for(evaluation.settings.seed, "listening")
    clips = {system.name: system.clips.by_id() for system in systems}
    prompts = list(rng.permutation(len(evaluation.prompts)))
    rivals = list(combinations([system.name for system in systems], 2))
    possible = []
    for turn in range(len(rivals)):
        for place, index in enumerate(prompts):
            one, two = rivals[(place + turn) % len(rivals)]
            prompt = evaluation.prompts[index]
            if prompt.id in clips[one] and prompt.id in clips[two]:
                possible.append((prompt, one, two))
    if not possible:
        raise ValueError("a listening test needs two systems that have a clip of one prompt; give another --model.")
    chosen = possible[:num_pairs]
    met: dict[tuple[str, str], int] = {}
    first_side = {pair: int(rng.integers(2)) for pair in rivals}
    pairs: list[dict[str, str]] = []
    key: dict[str, dict[str, str]] = {}
    for number in rng.permutation(len(chosen)):
        prompt, one, two = chosen[number]
        turn = met[(one, two)] = met.get((one, two), -1) + 1
        a, b = (one, two) if (turn + first_side[(one, two)]) % 2 == 0 else (two, one)
        pair = f"pair-{len(pairs) + 1:03d}"
        audio = {side: embedded_audio(clips[name][prompt.id]) for side, name in (("a", a), ("b", b))}
        pairs.append({"id": pair, "prompt": prompt.text, **audio})
        key[pair] = {"prompt_id": prompt.id, "prompt": prompt.text, "a": a, "b": b}
    test_id = hashlib.sha256(json.dumps([pairs, key], sort_keys=True).encode()).hexdigest()[:12]
    output = Path(evaluation.settings.output)
    write_aside(
        output / KEY_NAME,
        json.dumps({"format": 1, "test": test_id, "pairs": key}, indent=1, ensure_ascii=False) + "\n",
    )
    write_aside(output / PAGE_NAME, _page(test_id, pairs))
    return output / PAGE_NAME


def _page(test_id: str, pairs: list[dict]) -> str:
    parts = {
        name: files(f"{__package__}.listening_page").joinpath(f"listening.{name}").read_text("utf-8")
        for name in ("html", "css", "js")
    }
    # "</script>" in a prompt must not end the element that holds it
    test = json.dumps({"id": test_id, "pairs": pairs}, ensure_ascii=False).replace("<", "\\u003c")
    page = parts["html"]
    for name, text in (
        ("style", parts["css"]),
        ("num_pairs", str(len(pairs))),
        ("script", parts["js"]),
        ("test", test),
    ):
        page = page.replace("{" + name + "}", text)
    return page
