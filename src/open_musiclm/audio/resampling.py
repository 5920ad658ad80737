"""From one sampling rate to another, with soxr."""

from __future__ import annotations

import numpy as np


def resample(audio: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """(channels, samples) or (samples,) float32 from one rate to another, in Hz."""
    if from_rate == to_rate:
        return audio
    import soxr

    return np.ascontiguousarray(soxr.resample(audio.T, from_rate, to_rate, quality="HQ").T.astype(np.float32))
