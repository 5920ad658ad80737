"""What is written down beside every figure, so that it can be made again.

A figure without its backbone, windows, rate, reference and number of clips cannot be compared with anything, so no
function of the evaluation hands out a bare number past this point: it hands out a :class:`MetricResult`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Backbone", "Interval", "MetricResult", "Windowing", "plain", "too_few_warnings"]

# Below these a figure is printed with a warning. FAD needs more windows than dimensions for a covariance of full rank;
# KAD is unbiased at any size, but its spread falls with the number of clips; a mean of 30 clips has a usable interval.
MIN_CLIPS = {"mean": 30, "kad": 50, "fad": 100}
NAMES = {"mean": "a mean", "kad": "KAD", "fad": "FAD"}


@dataclass(frozen=True)
class Backbone:
    """The network that made the embeddings or probabilities.

    Attributes:
        name: Hub id or path, as the user gave it.
        kind: `clap`, `hubert` or `ast`.
        revision: Commit hash on the Hub; None for a local path.
        weights_fingerprint: `sha256:` and 16 hex digits over all weights; tells two files of one name apart.
        layer: Which output was read, in words.
        sampling_rate: Rate of its input in Hz.
        dimension: Size of one embedding.
    """

    name: str
    kind: str
    revision: str | None
    weights_fingerprint: str
    layer: str
    sampling_rate: int
    dimension: int


@dataclass(frozen=True)
class Windowing:
    """How a clip is cut before the network sees it.

    Attributes:
        window_in_s: Length of a window; None takes the whole clip.
        hop_in_s: Distance between window starts.
        tail: What happens to the rest after the last whole window. `back`, the rule of this package: a rest of at
            least half a hop gets one more whole window, moved back to end with the clip, a shorter one is left out,
            and only a clip shorter than one window is repeated until it fills it. The others are those of the
            presets' sources: `drop` the rest, fill it with `zero`s, or `keep` it short.
        min_tail_in_s: A rest shorter than this is dropped by `zero` and `keep`.
        starts: `covering` puts the last start where the first window that reaches the end begins; `all` starts a
            window at every hop up to the end of the clip, as fadtk does. `back` has starts of its own.
        sampling_rate: The clip is brought to this rate first (Hz), whatever the network takes; None skips this.
        level: None, or `google_peak`: divided by the largest sample.
        int16: Round samples through 16-bit integers first.
    """

    window_in_s: float | None = 10.0
    hop_in_s: float | None = 10.0
    tail: str = "back"
    min_tail_in_s: float = 0.0
    starts: str = "covering"
    sampling_rate: int | None = None
    level: str | None = None
    int16: bool = False


@dataclass(frozen=True)
class Interval:
    """A two-sided interval, its level and how it was made."""

    low: float
    high: float
    level: float
    method: str


@dataclass(frozen=True)
class MetricResult:
    """One figure for one system, with everything that it depends on.

    Attributes:
        metric: Name of the metric, as in the report.
        system: Name of the system that was measured.
        value: The figure; nan when it could not be measured, and then `warnings` says why.
        higher_is_better: None where neither direction is better (tempo, for one).
        num_clips: Clips the figure is made of.
        num_windows: Windows or frames; None for metrics that do not cut the clips.
        per_clip: One value a clip, in the order of `clip_ids`, for metrics that are a mean of clips.
        reference: Name of the reference set, and how many clips and windows it had.
    """

    metric: str
    system: str
    value: float
    higher_is_better: bool | None
    num_clips: int
    num_windows: int | None = None
    interval: Interval | None = None
    per_clip: tuple[float, ...] | None = None
    clip_ids: tuple[str, ...] | None = None
    backbone: Backbone | None = None
    windowing: Windowing | None = None
    reference: str | None = None
    num_reference_clips: int | None = None
    num_reference_windows: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """A dictionary that JSON can hold: nan and infinities become None."""
        return plain(asdict(self))


def too_few_warnings(kind: str, num_clips: int, num_windows: int | None = None, dimension: int | None = None) -> tuple:
    """What to say beside a figure that comes from fewer clips than it needs.

    Args:
        kind: `mean`, `kad` or `fad`.
        num_clips: Clips the figure is made of.
        num_windows: Windows in the smaller of the two sets (FAD).
        dimension: Size of an embedding (FAD).
    """
    found = []
    needed = MIN_CLIPS[kind]
    if num_clips < needed:
        found.append(
            f"{num_clips} clips are few for {NAMES[kind]}; with {needed} or more it can be compared with others"
        )
    if kind == "fad" and num_windows is not None and dimension is not None and num_windows <= dimension:
        found.append(
            f"{num_windows} windows for {dimension} dimensions: the covariance has no full rank and the distance is "
            "too large; compare only sets of this same size, or look at FAD∞ and KAD"
        )
    return tuple(found)


def plain(value: Any) -> Any:
    """The same with what JSON can hold: tuples become lists, NumPy numbers become numbers, nan and infinity None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
