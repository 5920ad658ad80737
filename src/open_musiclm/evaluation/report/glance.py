"""The top of the report: who is ahead, in sentences and as rankings."""

from __future__ import annotations

from html import escape
from itertools import combinations

from ..comparisons import MIN_PAIRS
from ..evaluate import Evaluation
from ..verdicts import Verdict
from .tables import ARROWS, number

__all__ = ["ranking_table", "verdict_list"]

MOST_PAIRS = 10
FEW = 20
SIGNS = {
    True: ("▸", "clearly ahead of"),
    False: ("≈", "not clearly ahead of"),
    None: ("·", "not tested against"),
}


def verdict_list(evaluation: Evaluation) -> str:
    """A sentence a pair of systems, and one for each control of each system."""
    rivals = [verdict for verdict in evaluation.verdicts if not verdict.is_control]
    controls = [verdict for verdict in evaluation.verdicts if verdict.is_control]
    names = [system.name for system in evaluation.systems if not system.is_control]
    told = [_item(verdict) for verdict in rivals[:MOST_PAIRS]]
    if len(rivals) > MOST_PAIRS:
        told.append(f'<li class="none">… and {len(rivals) - MOST_PAIRS} more pairs, below.</li>')
    known = {frozenset((verdict.a, verdict.b)) for verdict in rivals}
    told += [
        f'<li class="none">{escape(a)} and {escape(b)} cannot be compared: they have fewer than {MIN_PAIRS} prompts in '
        "common.</li>"
        for a, b in combinations(names, 2)
        if frozenset((a, b)) not in known
    ]
    most = max((comparison.num_clips for comparison in evaluation.comparisons), default=FEW)
    if most < FEW:
        told.append(f'<li class="none">{most} prompts are few: with so few, hardly any difference can be clear.</li>')
    told = [f'<li class="bad">{escape(caution)}</li>' for caution in evaluation.cautions] + told
    parts = [f'<ul class="verdicts">{"".join(told)}</ul>'] if told else []
    if controls:
        items = "".join(_item(verdict) for verdict in controls)
        parts.append(f'<h3>Controls</h3><ul class="verdicts controls">{items}</ul>')
    return "".join(parts)


def ranking_table(evaluation: Evaluation) -> str:
    """A row a metric: the systems from the best to the worst, with a sign between neighbours."""
    directions = {result.metric: result.higher_is_better for result in evaluation.results}
    names = {system.name for system in evaluation.systems if not system.is_control}
    rows = []
    for ranking in evaluation.rankings:
        parts = []
        for place in ranking.places:
            kind = "b" if place.system in names else "i"
            parts.append(f'<span class="place"><{kind}>{escape(place.system)}</{kind}> {number(place.value)}</span>')
            if place is not ranking.places[-1]:
                sign, meaning = SIGNS[place.clear]
                parts.append(f'<span class="sign" title="{meaning}">{sign}</span>')
        name = f"{escape(ranking.metric)} {ARROWS[directions[ranking.metric]]}"
        rows.append(f'<tr><td>{name}</td><td class="chain">{" ".join(parts)}</td></tr>')
    if not rows:
        return ""
    return (
        '<h3>Ranking</h3><p class="lead">The best first. ▸ clearly ahead of the next (p below 0.05 after Holm\'s '
        'correction), ≈ no clear difference, · not tested.</p><table class="ranking"><tbody>'
        f"{''.join(rows)}</tbody></table>"
    )


def _item(verdict: Verdict) -> str:
    good = verdict.better == verdict.a if verdict.is_control else verdict.better is not None
    kind = "good" if good else "bad" if verdict.is_control else "none"
    return f'<li class="{kind}">{escape(str(verdict))}</li>'
