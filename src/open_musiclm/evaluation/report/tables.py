"""Tables of the report."""

from __future__ import annotations

import math
from html import escape

from ..comparisons import Comparison
from ..records import MetricResult
from ..systems.synthesis import Synthesis

__all__ = ["Notes", "comparison_table", "performance_table", "summary_table"]

ARROWS = {True: "↑", False: "↓", None: ""}


class Notes:
    """Numbered footnotes; one text keeps one number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, texts: tuple[str, ...]) -> str:
        """Marks for these texts, to stand behind a figure."""
        for text in texts:
            if text not in self.texts:
                self.texts.append(text)
        numbers = sorted({self.texts.index(text) + 1 for text in texts})
        title = escape(" — ".join(texts), quote=True)
        return f'<sup class="mark" title="{title}">{",".join(map(str, numbers))}</sup>' if numbers else ""

    def html(self) -> str:
        items = "".join(f"<li>{escape(text)}</li>" for text in self.texts)
        return f'<ol class="notes">{items}</ol>'


def summary_table(
    results: list[MetricResult], systems: list[str], colours: dict[str, str], controls: set[str], notes: Notes
) -> str:
    """Systems down, metrics across; the best figure of each metric is marked among the systems that are no control."""
    metrics = list(dict.fromkeys(result.metric for result in results))
    found = {(result.metric, result.system): result for result in results}
    best = {}
    for metric in metrics:
        rows = [r for r in results if r.metric == metric and r.system not in controls and math.isfinite(r.value)]
        if len({r.value for r in rows}) > 1 and rows[0].higher_is_better is not None:
            best[metric] = (max if rows[0].higher_is_better else min)(r.value for r in rows)
    head = "".join(f"<th>{escape(m)} {ARROWS[_direction(results, m)]}</th>" for m in metrics)
    body = []
    for system in systems:
        cells = []
        for metric in metrics:
            result = found.get((metric, system))
            if result is None:
                cells.append('<td class="none">·</td>')
            elif not math.isfinite(result.value):
                cells.append(f'<td class="none">–{notes.mark(result.warnings)}</td>')
            else:
                kind = ' class="best"' if system not in controls and best.get(metric) == result.value else ""
                cells.append(
                    f"<td><span{kind}>{number(result.value)}</span>{notes.mark(result.warnings)}{_interval(result)}</td>"
                )
        swatch = f'<span class="swatch {colours.get(system, "c7")}"></span>'
        kind = ' class="control"' if system in controls else ""
        body.append(f"<tr{kind}><td>{swatch}{escape(system)}</td>{''.join(cells)}</tr>")
    return f'<div class="scroll"><table><thead><tr><th>System</th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def comparison_table(comparisons: list[Comparison]) -> str:
    """One row a pair of systems."""
    rows = []
    for found in comparisons:
        sure = found.adjusted_p_value is not None and found.adjusted_p_value < 0.05
        better = (
            f'<span class="best">{escape(found.better)}</span>'
            if found.better and sure
            else '<span class="none">no clear one</span>'
        )
        rows.append(
            f'<tr><td class="text">{escape(found.a)} − {escape(found.b)}</td><td>{signed(found.difference)}'
            f'<span class="interval">{signed(found.interval.low)} to {signed(found.interval.high)}</span></td>'
            f"<td>{p_value(found.p_value)}</td><td>{p_value(found.adjusted_p_value)}</td><td>{found.num_clips}</td>"
            f'<td class="text">{better}</td></tr>'
        )
    head = '<th class="text">Pair</th><th>Difference, 95 %</th><th>p</th><th>p (Holm)</th><th>Prompts</th><th class="text">Ahead</th>'
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def performance_table(performance: dict[str, Synthesis]) -> str:
    """Speed and memory of generation."""
    kinds = {"cuda": "GPU memory", "resident": "resident memory of the process"}
    rows = []
    for name, synthesis in performance.items():
        peak = synthesis.peak_memory_in_bytes
        memory = f"{peak / 2**20:,.0f} MiB" if peak else "–"
        rows.append(
            f"<tr><td>{escape(name)}</td><td>{number(synthesis.real_time_factor)}</td><td>{memory}</td>"
            f'<td class="text">{kinds.get(synthesis.memory_kind or "", "")}</td><td>{len(synthesis.records)}</td>'
            f'<td class="text">{escape("; ".join(synthesis.computers))}</td></tr>'
        )
    head = (
        '<th>System</th><th>Real-time factor ↓</th><th>Peak memory ↓</th><th class="text">Counted</th><th>Clips</th>'
        '<th class="text">Computed on</th>'
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def number(value: float) -> str:
    """Three or four digits, with a true minus."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    text = (
        f"{value:.0f}"
        if size >= 1000
        else f"{value:.1f}"
        if size >= 100
        else f"{value:.2f}"
        if size >= 10
        else f"{value:.3f}"
    )
    if float(text) == 0:
        return "0" if value == 0 else text.lstrip("-")
    return text.replace("-", "−")


def signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)


def p_value(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _interval(result: MetricResult) -> str:
    if result.interval is None:
        return ""
    return f'<span class="interval">{number(result.interval.low)} to {number(result.interval.high)}</span>'


def _direction(results: list[MetricResult], metric: str) -> bool | None:
    return next((r.higher_is_better for r in results if r.metric == metric and math.isfinite(r.value)), None)
