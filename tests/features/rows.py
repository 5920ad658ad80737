"""What a feature prints, and what several of them measure with."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    feature: str
    what: str
    value: float
    without: float
    unit: str = ""
    higher_is_better: bool = True

    @property
    def holds(self) -> bool:
        return self.value > self.without if self.higher_is_better else self.value < self.without


def generators(number: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + seed) for seed in range(number)]


def level(audio: np.ndarray) -> float:
    """Of (channels, samples) or (samples,), in dB below full scale."""
    return float(10 * np.log10(np.mean(np.square(audio, dtype=np.float64)) + 1e-12))


def pitch_classes_agree(audio: np.ndarray, sampling_rate: int, asked: np.ndarray, frame_rate: float) -> float:
    """Share of the frames with an asked pitch in which that pitch class is the strongest but for the bass."""
    from open_musiclm.tokenizers.attributes.melody import SILENCE, dominant_pitch_classes

    heard = dominant_pitch_classes(audio, sampling_rate, frame_rate)[: len(asked)]
    asked = asked[: len(heard)]
    sung = asked != SILENCE
    return float(np.mean(heard[sung] == asked[sung]))
