"""The table: a row for each attribute and figure, a column for each hand-over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .attributes import chance
from .handover import ROWS, TITLES
from .prompts import Prompt

if TYPE_CHECKING:
    from .opinions import Opinion

#: what the model in the box should reach: shares of prompts for attributes; for figures a number, or a share of real
TARGETS = {
    "drums": "≥ 90 %",
    "tempo": "≥ 80 %",
    "mode": "≥ 70 %",
    "instrument": "≥ 75 %",
    "register": "≥ 85 %",
    "loudness": "≥ 90 %",
    "CLAP score": "≥ 80 % of real",
    "notes found": "≥ 80 % of real",
    "their confidence": "≥ 80 % of real",
    "lines at 50 Hz": "< 2 dB",
    "lines at 250 Hz": "< 2 dB",
    "above 2 kHz": "within 3 dB of real",
    "Fréchet distance": "≤ 3 × codec only",
}
FIGURES = (
    "notes found", "their confidence", "lines at 50 Hz", "lines at 250 Hz", "above 2 kHz", "level", "seconds silent",
    "CLAP score", "Fréchet distance",
)  # fmt: skip
FORMATS = {
    "notes found": "{:.0f}",
    "their confidence": "{:.2f}",
    "lines at 50 Hz": "{:.1f} dB",
    "lines at 250 Hz": "{:.1f} dB",
    "above 2 kHz": "{:.1f} dB",
    "level": "{:.1f} dBFS",
    "seconds silent": "{:.1f}",
    "CLAP score": "{:.2f}",
    "Fréchet distance": "{:.3f}",
}


@dataclass
class Verdict:
    """What the judges found in one row: `right[attribute]` is (right, asked), `figures` a mean or median each."""

    right: dict[str, tuple[int, int]] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)

    def share(self, attribute: str) -> float | None:
        right, asked = self.right.get(attribute, (0, 0))
        return right / asked if asked else None


def count_right(opinion: Opinion, guesses: Sequence[str], prompts: Sequence[Prompt]) -> tuple[int, int]:
    """How many clips are heard to be what their prompts asked for, and how many were asked for something."""
    asked = [(guess, prompt.stated[opinion.attribute]) for guess, prompt in zip(guesses, prompts, strict=True)
             if opinion.attribute in prompt.stated]  # fmt: skip
    return sum(guess == wanted for guess, wanted in asked), len(asked)


def margin(share: float, asked: int) -> float:
    """Half the width of Wilson's 95 % interval, as a share."""
    z = 1.96
    return z / (1 + z * z / asked) * float(np.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked)))


def write_markdown(verdicts: dict[str, Verdict], opinions: dict[str, Opinion], num_prompts: int) -> str:
    """The table, and under it who judged and who was left out."""
    rows = [row for row in (*ROWS, *(r for r in verdicts if r not in ROWS)) if row in verdicts]
    lines = [
        "| | chance | " + " | ".join(TITLES.get(row, row) for row in rows) + " | target |",
        "|---" * (len(rows) + 3) + "|",
    ]
    for attribute in opinions:
        cells = []
        for row in rows:
            share = verdicts[row].share(attribute)
            cells.append("–" if share is None or not opinions[attribute].classifiers else f"{share:.0%}")
        lines.append(_line(attribute, f"{chance(attribute):.0%}", cells))
    for name in FIGURES:
        cells = [FORMATS[name].format(f[name]) if name in (f := verdicts[row].figures) else "–" for row in rows]
        if any(cell != "–" for cell in cells):
            lines.append(_line(name, "", cells))
    asked = max((n for verdict in verdicts.values() for _, n in verdict.right.values()), default=0)
    lines += ["", f"{num_prompts} held-out prompts."]
    if asked:
        lines[-1] += (
            f" An attribute stated in {asked} of them has ±{margin(0.8, asked):.0%} of chance in its share at 80 %."
        )
    if not opinions:
        return "\n".join(lines)
    lines += ["", "Who judged (accuracy on real clips that it was not fitted on); left out for failing there:", ""]
    for attribute, opinion in opinions.items():
        heard = ", ".join(f"{name} ({opinion.accuracies[name]:.0%})" for name in opinion.classifiers) or "nobody"
        out = ", ".join(opinion.left_out) or "nobody"
        lines.append(f"- {attribute}: {heard}; left out: {out}")
    return "\n".join(lines)


def _line(name: str, at_chance: str, cells: Sequence[str]) -> str:
    return f"| {name} | {at_chance} | " + " | ".join(cells) + f" | {TARGETS.get(name, '')} |"
