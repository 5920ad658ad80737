"""Power spectrogram of a waveform in NumPy; what chroma, tempo and the report's pictures are made of."""

from __future__ import annotations

import numpy as np

__all__ = ["power_spectrogram"]


def power_spectrogram(waveform: np.ndarray, n_fft: int, hop_length: int) -> np.ndarray:
    """Power of a periodic-Hann STFT with centred frames and reflected edges, as torchaudio's and librosa's defaults.

    Args:
        waveform: (samples,); shorter than `n_fft` it is padded with zeros on both sides.

    Returns:
        (samples // hop_length + 1, n_fft // 2 + 1), not normalised.
    """
    waveform = np.asarray(waveform, dtype=np.float64)
    if waveform.ndim != 1:
        raise ValueError(f"waveform must be mono, shape (samples,), got {waveform.shape}.")
    missing = n_fft - len(waveform)
    if missing > 0:
        waveform = np.pad(waveform, (missing // 2, missing - missing // 2))
    padded = np.pad(waveform, n_fft // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(n_fft) / n_fft)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length]
    blocks = [np.abs(np.fft.rfft(frames[i : i + 256] * window, axis=1)) ** 2 for i in range(0, len(frames), 256)]
    return np.concatenate(blocks)
