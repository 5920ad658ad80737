"""What can be measured on a clip's samples alone: lines of a buzz, energy above 2 kHz, level."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def mean_spectrum(audio: np.ndarray, sampling_rate: int) -> np.ndarray:
    """(samples,) → mean power (bins,) of half overlapping windows of a second: a bin a hertz.

    A clip shorter than a second is taken as if silence followed.
    """
    audio = np.pad(audio, (0, max(sampling_rate - len(audio), 0)))
    window = np.hanning(sampling_rate + 1)[:-1]
    starts = range(0, len(audio) - sampling_rate + 1, sampling_rate // 2)
    return np.mean([np.abs(np.fft.rfft(audio[s : s + sampling_rate] * window)) ** 2 for s in starts], axis=0) + 1e-9


def line_height(spectrum: np.ndarray, spacing: int, highest: int = 10_000) -> float:
    """How many dB the bins at multiples of `spacing` Hz stand above those 6 to 20 Hz beside them, mean over them.

    Args:
        spectrum (bins,): power, a bin a hertz.
    """
    highest = min(highest, len(spectrum) - 22)
    lines = np.arange(spacing, highest + 1, spacing)
    beside = np.concatenate([np.arange(-20, -5), np.arange(6, 21)])
    around = np.median(spectrum[lines[:, None] + beside], axis=1)
    return float(np.mean(10 * np.log10(spectrum[lines] / around)))


def high_share(spectrum: np.ndarray, above: int = 2000) -> float:
    """Energy above a frequency in Hz, in dB of the whole."""
    return float(10 * np.log10(spectrum[above:].sum() / spectrum.sum()))


def figures(audio: np.ndarray, sampling_rate: int) -> dict[str, float]:
    """All of them, by name."""
    spectrum = mean_spectrum(audio, sampling_rate)
    return {
        "lines at 50 Hz": line_height(spectrum, 50),
        "lines at 250 Hz": line_height(spectrum, 250),
        "above 2 kHz": high_share(spectrum),
        "level": float(10 * np.log10(np.mean(audio**2) + 1e-12)),
        "seconds silent": float(np.mean(_levels(audio, sampling_rate) < -60) * len(audio) / sampling_rate),
    }


def mean_figures(clips: Iterable) -> dict[str, float]:
    """Of each figure the mean over clips, whose `audio()` gives samples and their rate."""
    measured = [figures(*clip.audio()) for clip in clips]
    return {name: float(np.mean([one[name] for one in measured])) for name in measured[0]}


def _levels(audio: np.ndarray, sampling_rate: int) -> np.ndarray:
    """dBFS of each tenth of a second."""
    hop = sampling_rate // 10
    frames = audio[: len(audio) // hop * hop].reshape(-1, hop)
    return 10 * np.log10(np.mean(frames**2, axis=1) + 1e-12) if len(frames) else np.array([-120.0])
