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

import numpy as np

from ..clips import Clip, load_waveform
from ..comparisons import rng_for
from ..evaluate import Evaluation
from ..report.page import embedded_audio, write_aside

__all__ = ["KEY_NAME", "PAGE_NAME", "write_listening_test"]

PAGE_NAME = "listening_test.html"
KEY_NAME = "listening_key.json"


def write_listening_test(evaluation: Evaluation, num_pairs: int = 20) -> Path:
    """Writes the page and its key into the evaluation's output folder; returns the page's path.

    The pairs of systems take turns over prompts in a random order, so that each pair of systems is heard as often as
    the others, and no prompt twice before all were heard once. Sides are tossed evenly: of the pairs of two systems,
    each system is A in half. White noise is not asked about. The clips of a pair are mono, of one length and equally
    loud, so that neither a length nor a level tells the systems apart.

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
        sounds = _matched(clips[a][prompt.id], clips[b][prompt.id])
        audio = {side: embedded_audio(*sound) for side, sound in zip("ab", sounds, strict=True)}
        pairs.append({"id": pair, "prompt": prompt.text, **audio})
        key[pair] = {"prompt_id": prompt.id, "prompt": prompt.text, "a": a, "b": b}
    # of the pairs alone: a hash of the key, too, could be tried out until it gave the sides away
    test_id = hashlib.sha256(json.dumps(pairs, sort_keys=True).encode()).hexdigest()[:12]
    output = Path(evaluation.settings.output)
    write_aside(
        output / KEY_NAME,
        json.dumps({"format": 1, "test": test_id, "pairs": key}, indent=1, ensure_ascii=False) + "\n",
    )
    write_aside(output / PAGE_NAME, _page(test_id, pairs))
    return output / PAGE_NAME


def _matched(a: Clip, b: Clip) -> list[tuple[np.ndarray, int]]:
    """Two clips, each with its rate, cut to the shorter one, the louder one brought down to the RMS of the other."""
    length_in_s = min(a.length_in_s, b.length_in_s)
    waveforms = [load_waveform(clip)[: round(length_in_s * clip.sampling_rate)] for clip in (a, b)]
    levels = [float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64)))) for waveform in waveforms]
    target = min(levels)
    # silence is no level to bring anything down to
    gains = [target / level if target > 1e-4 else 1.0 for level in levels]
    return [
        (waveform * gain, clip.sampling_rate) for waveform, gain, clip in zip(waveforms, gains, (a, b), strict=True)
    ]


def _page(test_id: str, pairs: list[dict]) -> str:
    parts = {
        name: files(f"{__package__}.page").joinpath(f"listening.{name}").read_text("utf-8")
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
