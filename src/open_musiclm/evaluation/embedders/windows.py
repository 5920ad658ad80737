"""From a clip to the windows that a network sees: rate, level, cuts and padding, as a `Windowing` says."""

from __future__ import annotations

import numpy as np

from ...audio import resample
from ..records import Windowing

__all__ = ["cut_windows", "prepare_waveform"]

# `audioset_model.py` divides by max(0.1, largest sample), meant as "raise by at most 20 dB"; but the samples it is given
# from WAV files are unscaled 16-bit integers, so that in effect every clip is brought to a largest sample of 1
GOOGLE_MIN_PEAK = 0.1 / 32768.0


def prepare_waveform(waveform: np.ndarray, sampling_rate: int, windowing: Windowing) -> tuple[np.ndarray, int]:
    """Brings a mono clip (samples,) to the rate and level of `windowing`; returns it and its rate."""
    waveform = np.asarray(waveform, dtype=np.float32)
    if waveform.ndim != 1 or not waveform.size:
        raise ValueError(f"a clip must be mono and not empty, shape (samples,), got {waveform.shape}.")
    if windowing.sampling_rate is not None:
        waveform, sampling_rate = resample(waveform, sampling_rate, windowing.sampling_rate), windowing.sampling_rate
    if windowing.level == "google_peak":
        waveform = waveform / max(GOOGLE_MIN_PEAK, float(waveform.max()))  # the largest value, not the largest |value|
    elif windowing.level is not None:
        raise ValueError(f"level is {windowing.level!r}; it must be None or 'google_peak'.")
    if windowing.int16:
        waveform = np.trunc(np.clip(waveform, -1.0, 1.0) * 32767.0).astype(np.float32) / np.float32(32767.0)
    return waveform, sampling_rate


def cut_windows(waveform: np.ndarray, sampling_rate: int, windowing: Windowing) -> list[np.ndarray]:
    """Cuts a clip (samples,) into windows.

    A clip weighs in a distance as much as it has windows, so a rest of a few samples must not make a window.

    Returns:
        Arrays (window,), all of one length unless `tail` is `keep`; none if the clip is too short for `tail="drop"`
        or for `min_tail_in_s`.
    """
    if windowing.window_in_s is None:
        return [waveform]
    window = round(windowing.window_in_s * sampling_rate)
    hop = round((windowing.hop_in_s or windowing.window_in_s) * sampling_rate)
    if window < 1 or hop < 1:
        raise ValueError(
            f"window {windowing.window_in_s} s and hop {windowing.hop_in_s} s must be at least one sample."
        )
    if windowing.tail == "back":
        return _windows_moved_back(waveform, window, hop)
    last_start = (
        max(len(waveform) - 1, 0) if windowing.starts == "all" else max(-(-(len(waveform) - window) // hop) * hop, 0)
    )
    windows = []
    for start in range(0, last_start + 1, hop):
        piece = waveform[start : start + window]
        if len(piece) < window:
            if windowing.tail == "drop" or len(piece) <= windowing.min_tail_in_s * sampling_rate:
                continue
            piece = _fill(piece, window, windowing.tail)
        windows.append(piece)
    return windows


def _windows_moved_back(waveform: np.ndarray, window: int, hop: int) -> list[np.ndarray]:
    """Whole windows; the rest counts as one if it is at least half a hop long."""
    beyond = len(waveform) - window
    if beyond < 0:  # whole repeats, then zeros: the `repeatpad` of CLAP's feature extractor
        repeated = np.tile(waveform, window // len(waveform))
        return [np.pad(repeated, (0, window - len(repeated)))]
    starts = list(range(0, beyond + 1, hop))
    if 2 * (beyond - starts[-1]) >= hop:
        starts.append(beyond)
    return [waveform[start : start + window] for start in starts]


def _fill(piece: np.ndarray, window: int, tail: str) -> np.ndarray:
    if tail == "keep":
        return piece
    if tail != "zero":
        raise ValueError(f"tail is {tail!r}; it must be 'back', 'drop', 'zero' or 'keep'.")
    return np.pad(piece, (0, window - len(piece)))
