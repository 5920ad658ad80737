"""Windows over a long piece, aligned by time. Pure arithmetic; it knows no model.

Streams of different frame rates can only be cut together where their frames meet: at multiples of the *grid*, the
longest time that is a whole number of frames of each (for 50 and 75 Hz: 1/25 s, 2 and 3 frames). Windows start on the
grid, so semantic and acoustic tokens never slip against one another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


def to_fraction(value: float | int | Fraction) -> Fraction:
    """The simple fraction that a rate or duration stands for: 0.1 → 1/10."""
    return Fraction(value).limit_denominator(1_000_000)


def time_grid(frame_rates: Sequence[float | Fraction]) -> Fraction:
    """Longest time, in seconds, that is a whole number of frames at each of the rates."""
    rates = [to_fraction(rate) for rate in frame_rates]
    if not rates or min(rates) <= 0:
        raise ValueError(f"Frame rates must be positive, got {list(frame_rates)}.")
    # gcd of fractions a/b: gcd of the numerators over the common denominator
    denominator = math.lcm(*(rate.denominator for rate in rates))
    return Fraction(denominator, math.gcd(*(int(rate * denominator) for rate in rates)))


def round_up(time: float | Fraction, grid: Fraction) -> Fraction:
    """The first multiple of the grid that is not before `time`."""
    return math.ceil(to_fraction(time) / grid) * grid


def round_down(time: float | Fraction, grid: Fraction) -> Fraction:
    """The last multiple of the grid that is not after `time`."""
    return math.floor(to_fraction(time) / grid) * grid


@dataclass(frozen=True)
class Window:
    """One window of a plan: the audio from `start` to `stop`, in seconds on the grid."""

    start: Fraction
    stop: Fraction

    def frames(self, frame_rate: float, num_edge_frames: int = 0) -> slice:
        """Frames of a stream in this window, without those that an encoder loses at the end of a crop."""
        rate = to_fraction(frame_rate)
        return slice(int(self.start * rate), max(int(self.stop * rate) - num_edge_frames, int(self.start * rate) + 1))


def plan_windows(duration: Fraction, window: Fraction, stride: Fraction, grid: Fraction) -> list[Window]:
    """Windows that cover `duration`, each `stride` behind the one before, the last one moved back to end with it.

    So every window of a piece longer than one window is whole, and only how much of it is already known differs.

    Args:
        duration: length of the piece, a multiple of the grid.
        window, stride: length of a window and distance between two, in seconds; rounded down to the grid.

    Returns:
        At least one window; the first starts at 0, the last stops at `duration`.
    """
    if duration <= 0 or duration % grid:
        raise ValueError(f"The duration must be a positive multiple of the grid {grid} s, got {duration} s.")
    window, stride = round_down(window, grid), round_down(stride, grid)
    if not 0 < stride <= window:
        raise ValueError(
            f"The stride must lie in (0, window]: on a grid of {grid} s they are {stride} and {window} s."
        )
    if duration <= window:
        return [Window(Fraction(0), duration)]
    num_windows = math.ceil((duration - window) / stride) + 1
    starts = [index * stride for index in range(num_windows - 1)] + [duration - window]
    return [Window(start, start + window) for start in starts]
