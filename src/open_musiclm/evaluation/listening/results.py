"""From the result files of a listening test to wins with intervals (MusicLM, section 5.1 and table 1)."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..comparisons import rng_for
from ..metrics.statistics import bootstrap_mean, holm, wilcoxon_test
from ..records import Interval, plain
from ..report.page import write_aside
from .write import KEY_NAME

__all__ = ["ListeningWins", "Rating", "Rivalry", "count_wins", "read_results", "write_wins"]

SCALE = (-2, -1, 0, 1, 2)


@dataclass(frozen=True)
class Rating:
    """One answer: positive if the clip of `b` fits better, 2 if clearly."""

    rater: str
    prompt_id: str
    a: str
    b: str
    rating: int


@dataclass(frozen=True)
class Rivalry:
    """Two systems: `wins` of `one` over `two`, `losses`, `ties`; a clear and a slight preference count the same.

    Attributes:
        win_share: (wins + ties / 2) / answers, with the interval of a bootstrap over prompts.
        p_value: Wilcoxon's signed-rank test of the five-point answers, the answers to one prompt averaged first.
    """

    one: str
    two: str
    wins: int
    ties: int
    losses: int
    win_share: float
    interval: Interval | None
    p_value: float
    adjusted_p_value: float
    num_prompts: int


@dataclass(frozen=True)
class ListeningWins:
    """Wins of each system over all of its pairs, each pair of systems, and what to know of them."""

    wins: dict[str, int]
    answers: dict[str, int]
    rivalries: tuple[Rivalry, ...]
    num_raters: int
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """The findings as lines of text."""
        told = [f"{self.num_raters} listeners, {sum(self.answers.values()) // 2} answers"]
        told += [f"{name}: {self.wins[name]} wins in {self.answers[name]} pairs" for name in self.answers]
        for found in self.rivalries:
            interval = f", 95 % {found.interval.low:.2f} to {found.interval.high:.2f}" if found.interval else ""
            told.append(
                f"{found.one} against {found.two}: {found.wins} wins, {found.ties} ties, {found.losses} losses; "
                f"share {found.win_share:.2f}{interval}; p = {found.p_value:.3g} (Holm {found.adjusted_p_value:.3g})"
            )
        return told + [f"* {warning}" for warning in self.warnings]


def read_results(paths: list[str], output: str) -> tuple[list[Rating], list[str]]:
    """Reads result files against the key in the output folder.

    Returns:
        The ratings, and warnings: a rater whose answers came twice, of which the last file counts.

    Raises:
        ValueError: If the key is missing, or a file is no result file, or is of another test.
    """
    key_file = Path(output) / KEY_NAME
    if not key_file.is_file():
        raise ValueError(
            f"there is no {KEY_NAME} in {output!r}; give the folder that --listening-test wrote as --output."
        )
    key = _read_key(key_file)
    ratings: dict[tuple[str, str], Rating] = {}
    warnings = []
    for path in paths:
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            answers = [(str(answer["pair"]), _rating(answer["rating"])) for answer in found["ratings"]]
            rater, test = str(found["rater"]) or Path(path).stem, found["test"]
        except FileNotFoundError as error:
            raise ValueError(f"there is no result file {path!r}.") from error
        except (KeyError, TypeError, ValueError, RecursionError, OSError) as error:
            raise ValueError(f"{path!r} is no result file of a listening test: {_told(error)}.") from error
        if test != key["test"]:
            raise ValueError(f"{path!r} belongs to the test {test}, and {key_file} to {key['test']}.")
        if any((rater, pair) in ratings for pair, _ in answers):
            warnings.append(f"{rater!r} answered in two files; of each pair the answer in {Path(path).name} counts")
        for pair, rating in answers:
            if pair not in key["pairs"] or rating not in SCALE:
                raise ValueError(f"{path!r} holds the rating {rating} of {pair!r}, which this test has not.")
            of = key["pairs"][pair]
            ratings[(rater, pair)] = Rating(rater, of["prompt_id"], of["a"], of["b"], rating)
    if not ratings:
        raise ValueError("the result files hold no answers.")
    return list(ratings.values()), warnings


def _read_key(path: Path) -> dict[str, Any]:
    """The test's id and its pairs, each with its prompt and its two systems."""
    try:
        key = json.loads(path.read_text(encoding="utf-8"))
        pairs = {
            str(pair): {field: str(of[field]) for field in ("prompt_id", "a", "b")}
            for pair, of in key["pairs"].items()
        }
        return {"test": key["test"], "pairs": pairs}
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {_told(error)}. Write the test again.") from error


def _rating(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in SCALE:
        raise ValueError(f"a rating of {str(value)[:40]!r}, which must be one of {', '.join(map(str, SCALE))}")
    return int(value)


def _told(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)


def count_wins(ratings: list[Rating], warnings: list[str], seed: int = 0, num_resamples: int = 2000) -> ListeningWins:
    """Wins, ties and losses of each pair of systems."""
    wins: dict[str, int] = defaultdict(int)
    answers: dict[str, int] = defaultdict(int)
    grouped: dict[tuple[str, str], list[tuple[str, int]]] = defaultdict(list)
    for rating in ratings:
        one, two = sorted((rating.a, rating.b))
        grouped[(one, two)].append((rating.prompt_id, rating.rating if rating.b == one else -rating.rating))
        for system in (one, two):
            answers[system] += 1
        if rating.rating:
            wins[rating.b if rating.rating > 0 else rating.a] += 1
    found = []
    for (one, two), scored in sorted(grouped.items()):
        prompts = [prompt for prompt, _ in scored]
        scores = np.array([score for _, score in scored])
        shares = (np.sign(scores) + 1) / 2
        means = [scores[[p == prompt for p in prompts]].mean() for prompt in dict.fromkeys(prompts)]
        interval = None
        if len(means) >= 2:
            interval = bootstrap_mean(shares, rng_for(seed, "wins", one, two), num_resamples, groups=prompts)
        counts = (int((scores > 0).sum()), int((scores == 0).sum()), int((scores < 0).sum()))
        found.append((one, two, counts, float(shares.mean()), interval, wilcoxon_test(means), len(means)))
    adjusted = holm([p_value for *_, p_value, _ in found])
    rivalries = tuple(
        Rivalry(one, two, *counts, share, interval, p_value, float(raised), num)
        for (one, two, counts, share, interval, p_value, num), raised in zip(found, adjusted, strict=True)
    )
    few = [f"{r.one} against {r.two}: {r.num_prompts} prompts are few" for r in rivalries if r.num_prompts < 20]
    raters = len({rating.rater for rating in ratings})
    totals = {system: wins[system] for system in sorted(answers)}
    return ListeningWins(totals, dict(sorted(answers.items())), rivalries, raters, (*warnings, *few))


def write_wins(wins: ListeningWins, output: str) -> Path:
    """Writes listening_results.json and listening_results.html; returns the page's path."""
    folder = Path(output)
    write_aside(
        folder / "listening_results.json",
        json.dumps({"format": 1, **plain(asdict(wins))}, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    )
    page = folder / "listening_results.html"
    write_aside(page, _page(wins))
    return page


def _page(wins: ListeningWins) -> str:
    style = files("open_musiclm.evaluation.report").joinpath("style.css").read_text("utf-8")
    totals = "".join(
        f"<tr><td>{escape(name)}</td><td>{wins.wins[name]}</td><td>{wins.answers[name]}</td></tr>"
        for name in wins.answers
    )
    rows = []
    for found in wins.rivalries:
        interval = f"{found.interval.low:.2f} to {found.interval.high:.2f}" if found.interval else ""
        rows.append(
            f'<tr><td class="text">{escape(found.one)} against {escape(found.two)}</td><td>{found.wins}</td>'
            f"<td>{found.ties}</td><td>{found.losses}</td><td>{found.win_share:.2f}"
            f'<span class="interval">{interval}</span></td><td>{found.p_value:.3g}</td><td>{found.adjusted_p_value:.3g}</td>'
            f"<td>{found.num_prompts}</td></tr>"
        )
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in wins.warnings)
    shown = (
        f'<div class="card warnings"><h3>What to know</h3><ul class="notes">{warnings}</ul></div>' if warnings else ""
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Listening test: results</title>'
        f"<style>{style}</style></head><body><main><header><h1>Listening test: results</h1><p>{wins.num_raters} listeners, "
        f'{sum(wins.answers.values()) // 2} answers</p></header><h2>Wins</h2><div class="card"><table><thead><tr><th>System</th>'
        f"<th>Wins</th><th>Pairs heard</th></tr></thead><tbody>{totals}</tbody></table></div><h2>Pairs of systems</h2>"
        '<div class="card scroll"><table><thead><tr><th class="text">Pair</th><th>Wins</th><th>Ties</th><th>Losses</th>'
        f"<th>Share, 95 %</th><th>p</th><th>p (Holm)</th><th>Prompts</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
        '<p class="lead">Wins, ties and losses are those of the first of a pair. Share: wins and half of the ties. Interval: '
        "bootstrap over prompts. p: Wilcoxon's signed-rank test of the five-point answers, averaged over the listeners of a "
        f"prompt.</p></div>{shown}</main></body></html>\n"
    )
