"""What a feature prints, and what several of them make music with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass
class Row:
    """
    One figure.

    Args:
        feature, what: what was asked for, and what was measured.
        value: with the feature.
        without: without it: chance, or the same seeds with the feature left out.
        unit: of both.
        higher_is_better: whether `value` should lie above `without`.
        margin: how far beyond `without` it must lie to be more than luck; below 0, how far short of it still counts as no
            worse.
        real: the same measure on real clips of the corpus, where there are any: what could be had.
    """

    feature: str
    what: str
    value: float
    without: float
    unit: str = ""
    higher_is_better: bool = True
    margin: float = 0.0
    real: float | None = None

    @property
    def holds(self) -> bool:
        gain = self.value - self.without if self.higher_is_better else self.without - self.value
        return gain > self.margin


def generators(number: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + seed) for seed in range(number)]


def made(
    pipe, prompts: Sequence[str], seconds: float, each: int = 1, first: int = 0, **asked: Any
) -> list[np.ndarray]:
    """Mono waveforms (samples,), `each` of every prompt, in one call; the same seeds for the same arguments."""
    audios = pipe(
        list(prompts),
        audio_length_in_s=seconds,
        num_waveforms_per_prompt=each,
        generator=generators(len(prompts) * each, first),
        **asked,
    ).audios
    return [audio.mean(axis=0) for audio in audios]


def level(audio: np.ndarray) -> float:
    """Of (channels, samples) or (samples,), in dB below full scale."""
    return float(10 * np.log10(np.mean(np.square(audio, dtype=np.float64)) + 1e-12))


def standard_error(values: Sequence[float]) -> float:
    """Of the mean."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def paired(
    feature: str,
    what: str,
    asked: np.ndarray,
    absent: np.ndarray,
    unit: str,
    higher_is_better: bool = True,
    **more: Any,
) -> Row:
    """The same pieces with the feature and without it: means, and as margin two standard errors of their differences."""
    asked, absent = (100.0 * x if unit == "%" else np.asarray(x) for x in (asked, absent))
    margin = 2 * standard_error(asked - absent)
    return Row(feature, what, float(asked.mean()), float(absent.mean()), unit, higher_is_better, margin=margin, **more)
