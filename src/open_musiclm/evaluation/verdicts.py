"""What the figures say in words: who is ahead of whom, how clearly, and whether the controls lie where they must."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from .comparisons import Comparison
from .measurements.text import METRIC, SHUFFLED
from .records import MetricResult, plain

__all__ = ["Place", "Ranking", "Verdict", "judge", "rank", "unfit_clap"]

CLEAR = 0.05  # of the p-value after Holm's correction


@dataclass(frozen=True)
class Place:
    """A system's place in a ranking; `clear` if it is surely ahead of the next one, None if that was not tested."""

    system: str
    value: float
    clear: bool | None


@dataclass(frozen=True)
class Ranking:
    """The systems by one metric, the best first; controls take part."""

    metric: str
    places: tuple[Place, ...]

    def as_dict(self) -> dict[str, Any]:
        return plain(asdict(self))


@dataclass(frozen=True)
class Verdict:
    """System `a` against `b` over all metrics that say which direction is better.

    Attributes:
        ahead, behind, unclear: Metrics in which `a` is clearly ahead, clearly behind, or neither.
        is_control: `b` is white noise, or the prompts of `a` shuffled.
    """

    a: str
    b: str
    ahead: tuple[str, ...]
    behind: tuple[str, ...]
    unclear: tuple[str, ...]
    is_control: bool

    @property
    def better(self) -> str | None:
        """The system that is ahead somewhere and behind nowhere."""
        if bool(self.ahead) == bool(self.behind):
            return None
        return self.a if self.ahead else self.b

    def as_dict(self) -> dict[str, Any]:
        return plain({**asdict(self), "better": self.better})

    def __str__(self) -> str:
        one, other = (self.b, self.a) if self.better == self.b and not self.is_control else (self.a, self.b)
        ahead, behind = (self.ahead, self.behind) if one == self.a else (self.behind, self.ahead)
        if not ahead and not behind:
            return f"No clear difference between {one} and {other} ({', '.join(self.unclear)})."
        told = []
        if ahead:
            told.append(f"ahead of {other} in {_listed(ahead)}")
        if behind:
            told.append(f"behind {'it' if ahead else other} in {_listed(behind)}")
        rest = f"; no clear difference in {_listed(self.unclear)}" if self.unclear else ""
        return f"{one} is {', '.join(told)}{rest}."


def rank(results: Sequence[MetricResult], comparisons: Sequence[Comparison]) -> tuple[Ranking, ...]:
    """One ranking a metric that has a better direction and at least two different figures."""
    found = []
    for metric in dict.fromkeys(result.metric for result in results):
        rows = [r for r in results if r.metric == metric and math.isfinite(r.value)]
        if len({result.value for result in rows}) < 2 or rows[0].higher_is_better is None:
            continue
        rows.sort(
            key=lambda result: result.value, reverse=bool(rows[0].higher_is_better)
        )  # equal ones keep their order
        places = []
        for place, result in enumerate(rows):
            compared = (
                _between(comparisons, metric, result.system, rows[place + 1].system) if rows[place + 1 :] else None
            )
            clear = compared.better == result.system and _is_clear(compared) if compared else None
            places.append(Place(result.system, result.value, clear))
        found.append(Ranking(metric, tuple(places)))
    return tuple(found)


def unfit_clap(results: Sequence[MetricResult], noise: str | None, real: dict[str, float]) -> str | None:
    """A sentence if CLAP hears prompts in white noise rather than in real music; `None` if it is fit to judge.

    Args:
        noise: name of the control; `None` if there is none.
        real: CLAP score of real music by its name: the prompts' own reference clips, folders of audio.
    """
    score = next((r.value for r in results if r.metric == METRIC and r.system == noise), math.nan)
    worse = [(name, value) for name, value in real.items() if value <= score]
    if not worse:
        return None
    name, value = min(worse, key=lambda each: each[1])
    return (
        f"This CLAP is unfit to judge these prompts: it scores white noise ({score:.3f}) no lower than {name} "
        f"({value:.3f}). Leave the CLAP score aside, or give another network with --clap."
    )


def judge(comparisons: Sequence[Comparison], systems: Sequence[str], noise: str | None) -> tuple[Verdict, ...]:
    """Every two systems against each other, then each against its shuffled prompts and against white noise.

    Args:
        systems: Names, without controls.
        noise: Name of the control; None if there is none.
    """
    pairs = [(b, a, False) for a, b in combinations(systems, 2)]  # the later one is what is new: told first
    for system in systems:
        pairs.append((system, SHUFFLED.format(system=system), True))
        pairs += [(system, noise, True)] if noise else []
    verdicts = []
    for a, b, is_control in pairs:
        found = [c for c in comparisons if {c.a, c.b} == {a, b}]
        if not found:
            continue
        sorted_out: dict[str | None, list[str]] = {a: [], b: [], None: []}
        for comparison in found:
            sorted_out[comparison.better if _is_clear(comparison) else None].append(comparison.metric)
        verdicts.append(Verdict(a, b, tuple(sorted_out[a]), tuple(sorted_out[b]), tuple(sorted_out[None]), is_control))
    return tuple(verdicts)


def _between(comparisons: Sequence[Comparison], metric: str, one: str, other: str) -> Comparison | None:
    return next((c for c in comparisons if c.metric == metric and {c.a, c.b} == {one, other}), None)


def _is_clear(comparison: Comparison) -> bool:
    return comparison.adjusted_p_value is not None and comparison.adjusted_p_value < CLEAR


def _listed(metrics: Sequence[str]) -> str:
    return metrics[0] if len(metrics) == 1 else f"{', '.join(metrics[:-1])} and {metrics[-1]}"
