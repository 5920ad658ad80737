"""Plots as inline SVG: they take their colours from the page, so they follow its light and dark style."""

from __future__ import annotations

import math
from html import escape

import numpy as np

from ..records import MetricResult

__all__ = ["colour_class", "interval_plot", "line_plot", "strip_plot"]

NUM_COLOURS = 8


def colour_class(index: int) -> str:
    """CSS class of system number `index`."""
    return f"c{index % NUM_COLOURS}"


def interval_plot(results: list[MetricResult], colours: dict[str, str], width: int = 420) -> str:
    """One row a system: a dot at its figure and a bar over its interval."""
    rows = [result for result in results if math.isfinite(result.value)]
    left, right, step, bottom = 196, 20, 26, 24
    ends = [v for r in rows for v in ((r.interval.low, r.interval.high, r.value) if r.interval else (r.value,))]
    scale = _Scale(min(ends), max(ends), left, width - right)
    height = len(rows) * step + bottom
    parts = [_axis(scale, height - bottom, 0)]
    for place, result in enumerate(rows):
        y = place * step + step / 2
        parts.append(_text(left - 10, y + 4, _shorten(result.system, 27), "end", result.system))
        colour = colours.get(result.system, "c7")
        told = f"{result.system}: {_number(result.value)}"
        if result.interval:
            low, high = scale(result.interval.low), scale(result.interval.high)
            told += f" ({_number(result.interval.low)} to {_number(result.interval.high)})"
            parts.append(f'<line class="bar {colour}" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>')
        parts.append(
            f'<circle class="{colour}" cx="{scale(result.value):.1f}" cy="{y}" r="5"><title>{escape(told)}</title></circle>'
        )
    return _svg(parts, width, height, f"{rows[0].metric} of each system" if rows else "")


def strip_plot(results: list[MetricResult], colours: dict[str, str], width: int = 420) -> str:
    """One row a system: a faint dot for every clip, and a stroke at the mean."""
    rows = [result for result in results if result.per_clip]
    left, right, step, bottom = 196, 20, 30, 24
    values = [v for r in rows for v in r.per_clip or () if math.isfinite(v)]
    scale = _Scale(min(values), max(values), left, width - right)
    height = len(rows) * step + bottom
    parts = [_axis(scale, height - bottom, 0)]
    for place, result in enumerate(rows):
        y = place * step + step / 2
        colour = colours.get(result.system, "c7")
        parts.append(_text(left - 10, y + 4, _shorten(result.system, 27), "end", result.system))
        spread = np.random.default_rng(place).uniform(-8, 8, len(result.per_clip or ()))
        for clip, value, offset in zip(result.clip_ids or (), result.per_clip or (), spread, strict=True):
            title = f"<title>{escape(clip)}: {_number(value)}</title>"
            parts.append(
                f'<circle class="dot {colour}" cx="{scale(value):.1f}" cy="{y + offset:.1f}" r="3">{title}</circle>'
            )
        x = scale(result.value)
        parts.append(f'<line class="mean" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 11}" y2="{y + 11}"/>')
    return _svg(parts, width, height, f"{rows[0].metric} of each clip" if rows else "")


def line_plot(results: list[MetricResult], colours: dict[str, str], width: int = 420, height: int = 230) -> str:
    """FAD against 1 / n with the line that FAD∞ is the end of."""
    left, right, top, bottom = 60, 20, 10, 40
    points = {r.system: (1.0 / np.array(r.settings["sizes"]), np.array(r.settings["distances"])) for r in results}
    far = max(float(x.max()) for x, _ in points.values())
    ends = [float(v) for _, y in points.values() for v in y] + [r.value for r in results]
    across = _Scale(0.0, far, left, width - right, pad=0.0)
    up = _Scale(min(ends), max(ends), height - bottom, top)
    numbers = [(0.0, "∞"), *((1 / n, f"1/{n}") for n in _denominators(far))]
    parts = [_axis(across, height - bottom, top, numbers)]
    for tick in up.ticks():
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{up(tick):.1f}" y2="{up(tick):.1f}"/>')
        parts.append(_text(left - 8, up(tick) + 4, _number(tick), "end"))
    for result in results:
        colour = colours.get(result.system, "c7")
        end = result.value + result.settings["slope"] * far
        parts.append(
            f'<line class="fit {colour}" x1="{across(0):.1f}" y1="{up(result.value):.1f}" x2="{across(far):.1f}" y2="{up(end):.1f}"/>'
        )
        for x, y in zip(*points[result.system], strict=True):
            title = f"<title>{escape(result.system)}, n = {round(1 / x)}: {_number(float(y))}</title>"
            parts.append(f'<circle class="{colour}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="3">{title}</circle>')
        parts.append(f'<circle class="hollow {colour}" cx="{across(0):.1f}" cy="{up(result.value):.1f}" r="5"/>')
    parts.append(_text((left + width - right) / 2, height - 4, "1 / number of windows", "middle"))
    return _svg(parts, width, height, "FAD against the number of windows")


class _Scale:
    """From values to pixels, with round ticks."""

    def __init__(self, low: float, high: float, start: float, end: float, pad: float = 0.06):
        spread = high - low
        if spread <= max(
            1e-9 * abs(high), 1e-9 * abs(low), 1e-10
        ):  # one value, in the middle; nothing but zeros on a unit
            spread, pad = abs(high) if abs(high) > 1e-9 else 1.0, 0.5
        self.low, self.high = low - pad * spread, high + pad * spread
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        base = 10.0 ** math.floor(math.log10((self.high - self.low) / most))
        step = next(m * base for m in (1, 2, 5, 10) if (self.high - self.low) / (m * base) <= most)
        first = math.ceil(self.low / step)
        return [round(i * step, 12) for i in range(first, math.floor(self.high / step) + 1)]


def _denominators(far: float, most: int = 4) -> list[int]:
    """Whole n whose 1 / n are spread over (0, far]."""
    wanted = [round(most / (far * step)) for step in range(1, most + 1)]
    return sorted({n for n in wanted if n >= 1 and 1 / n <= far * (1 + 1e-9)}, reverse=True)


def _axis(scale: _Scale, y: float, top: float, ticks: list[tuple[float, str]] | None = None) -> str:
    parts = []
    for tick, name in ticks or [(tick, _number(tick)) for tick in scale.ticks()]:
        x = scale(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{y}"/>')
        parts.append(_text(x, y + 16, name, "middle"))
    return "".join(parts)


def _text(x: float, y: float, text: str, anchor: str, title: str = "") -> str:
    inside = f"<title>{escape(title)}</title>" if title else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{inside}{escape(text)}</text>'


def _svg(parts: list[str], width: int, height: int, name: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}">{"".join(parts)}</svg>'


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _number(value: float) -> str:
    return f"{value:.3g}"
