"""Tempo of a clip from the periodicity of its onsets, and whether it is the one that was asked for."""

from __future__ import annotations

import numpy as np

from .spectrum import power_spectrogram

__all__ = ["estimate_tempo", "tempo_agreement", "tempo_and_strength"]

N_FFT = 2048
HOP_IN_S = 0.01
NUM_BANDS = 40
MIN_TEMPO, MAX_TEMPO = 40.0, 240.0
PRIOR_TEMPO, PRIOR_OCTAVES = 120.0, 1.0  # log-normal preference that settles octaves (Ellis 2007)


def estimate_tempo(waveform: np.ndarray, sampling_rate: int) -> float | None:
    """Beats a minute, or None when nothing repeats (silence, a clip shorter than three seconds).

    Onset strength is the positive change of log energy summed over bands; its autocorrelation, weighted by a
    log-normal prior around 120 beats a minute (Ellis 2007, "Beat Tracking by Dynamic Programming"), is searched from
    40 to 240 and its peak is refined on the multiples of the period.

    Args:
        waveform: (samples,).
    """
    found = tempo_and_strength(waveform, sampling_rate)
    return None if found is None else found[0]


def tempo_and_strength(waveform: np.ndarray, sampling_rate: int) -> tuple[float, float] | None:
    """[`estimate_tempo`], and how periodic the onsets are at it: their autocorrelation there over that at no lag."""
    hop_length = max(round(sampling_rate * HOP_IN_S), 1)
    frame_rate = sampling_rate / hop_length
    if len(waveform) < 3 * sampling_rate:
        return None
    onsets = _onset_strength(waveform, sampling_rate, hop_length)
    onsets = onsets - onsets.mean()
    if not onsets.std() > 1e-6:
        return None
    size = 2 ** int(np.ceil(np.log2(2 * len(onsets))))
    correlation = np.fft.irfft(np.abs(np.fft.rfft(onsets, size)) ** 2)[: len(onsets)]
    correlation /= np.arange(len(onsets), 0, -1)  # the same weight for long lags as for short ones
    lags = np.arange(max(int(frame_rate * 60 / MAX_TEMPO), 2), int(frame_rate * 60 / MIN_TEMPO) + 1)
    lags = lags[lags < len(correlation) - 1]
    prior = np.exp(-0.5 * (np.log2(frame_rate * 60 / lags / PRIOR_TEMPO) / PRIOR_OCTAVES) ** 2)
    best = int(lags[np.argmax(correlation[lags] * prior)])
    return float(60.0 * frame_rate / _refine(correlation, best)), float(correlation[best] / correlation[0])


def tempo_agreement(estimated: float | None, asked: float, tolerance: float = 0.04, octaves: bool = True) -> float:
    """1 if the estimate is within `tolerance` (a share) of what was asked, else 0.

    With `octaves`, a half, a third, double and triple count too: MIREX "Accuracy 2" (Gouyon et al. 2006).
    """
    if estimated is None:
        return 0.0
    factors = (1.0, 2.0, 3.0, 1 / 2, 1 / 3) if octaves else (1.0,)
    return float(any(abs(estimated - asked * factor) <= tolerance * asked * factor for factor in factors))


def _onset_strength(waveform: np.ndarray, sampling_rate: int, hop_length: int) -> np.ndarray:
    power = power_spectrogram(waveform, N_FFT, hop_length)
    top = min(sampling_rate / 2, 8000.0)
    edges = np.searchsorted(np.linspace(0, sampling_rate / 2, power.shape[1]), np.geomspace(40.0, top, NUM_BANDS + 1))
    edges = np.unique(edges)
    bands = np.add.reduceat(power, edges[:-1], axis=1)
    bands = 10.0 * np.log10(np.maximum(bands, 1e-8 * max(power.max(), 1e-12)))
    return np.maximum(np.diff(bands, axis=0), 0.0).sum(axis=1)


def _refine(correlation: np.ndarray, lag: int) -> float:
    """Follows the peak at `lag` to its multiples, where a frame's error weighs less."""
    period = _parabola(correlation, lag)
    for multiple in (2, 4, 8):
        near = round(period * multiple)
        if near + 3 >= len(correlation) * 3 // 4:
            break
        around = np.arange(near - 2, near + 3)
        peak = int(around[np.argmax(correlation[around])])
        period = _parabola(correlation, peak) / multiple
    return period


def _parabola(values: np.ndarray, peak: int) -> float:
    left, middle, right = values[peak - 1 : peak + 2]
    bend = left - 2 * middle + right
    return peak + (0.5 * (left - right) / bend if bend < 0 else 0.0)
