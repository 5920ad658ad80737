"""What every listener takes out of a recording, or refuses it for: a constant offset, and silence."""

from __future__ import annotations

import numpy as np

#: a mean beyond this is a fault of a converter, not music (-60 dB of full scale); it would change most acoustic tokens
MAX_OFFSET = 1e-3
FRAME_IN_S = 0.1
#: a file that sounds no longer than this is a click in silence; so is one that sounds for less than this share
MIN_SOUND_IN_S, MIN_SOUND_SHARE = 0.2, 0.01


def constant_offset(audio: np.ndarray) -> float:
    """The mean of that channel of (..., samples) that is farthest from 0; 0 if it is not worth the name."""
    mean = audio.mean(axis=-1, dtype=np.float64).reshape(-1)
    largest = float(mean[np.abs(mean).argmax()])
    return largest if abs(largest) > MAX_OFFSET else 0.0


def remove_offset(audio: np.ndarray) -> np.ndarray:
    """Audio (samples,) without the constant that is in it, if there is one worth the name."""
    offset = constant_offset(audio)
    return audio - np.float32(offset) if offset else audio


def sounding_time(audio: np.ndarray, sampling_rate: int, silence_in_db: float) -> float:
    """Seconds of (samples,) in whose tenths of a second some sample is above `silence_in_db` of full scale."""
    frame = max(round(FRAME_IN_S * sampling_rate), 1)
    starts = np.arange(0, len(audio), frame)
    peaks = np.maximum(np.maximum.reduceat(audio, starts), -np.minimum.reduceat(audio, starts))
    return float((peaks > 10.0 ** (silence_in_db / 20.0)).sum()) * frame / sampling_rate


def is_silent(audio: np.ndarray, sampling_rate: int, silence_in_db: float) -> bool:
    """Whether nothing, or next to nothing (a click), of (samples,) is above `silence_in_db` of full scale."""
    sounding = sounding_time(audio, sampling_rate, silence_in_db)
    length = len(audio) / sampling_rate
    return sounding <= max(min(MIN_SOUND_IN_S, length / 2), MIN_SOUND_SHARE * length) + 1e-9
