"""CLAP's log-mel spectrogram on the device, for a batch at once.

transformers' feature extractor computes it frame by frame in NumPy, one window at a time; with a window every second that
is most of the time that tokenizing takes. The values here are the extractor's (float64 inside, as there).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .clap import clap_audio_embeddings

#: powers below this are this, before the logarithm
FLOOR = 1e-10


def can_compute(extractor: Any) -> bool:
    """Whether an extractor is of the plain kind: one spectrogram a window, short ones repeated and padded."""
    return extractor.truncation == "rand_trunc" and extractor.padding == "repeatpad" and extractor.top_db is None


@torch.no_grad()
def clap_spectrograms(extractor: Any, windows: torch.Tensor) -> torch.Tensor:
    """Windows (batch, samples), at most `max_length_s` long → `input_features` (batch, 1, frames, mel bins) float32."""
    length = windows.shape[1]
    if length < extractor.nb_max_samples:
        windows = windows.repeat(1, extractor.nb_max_samples // length)
        windows = torch.nn.functional.pad(windows, (0, extractor.nb_max_samples - windows.shape[1]))
    size = extractor.fft_window_size
    window = torch.hann_window(size, dtype=torch.float64, device=windows.device)
    spectrum = torch.stft(
        windows.double(),
        size,
        extractor.hop_length,
        window=window,
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    filters = torch.from_numpy(extractor.mel_filters_slaney).to(windows.device, torch.float64)  # (bins, mel bins)
    power = spectrum.abs().square().transpose(1, 2) @ filters
    return (10 * power.clamp(min=FLOOR).log10()).float().unsqueeze(1)


@torch.no_grad()
def clap_embeddings(clap: Any, processor: Any, windows: np.ndarray) -> torch.Tensor:
    """As `clap_audio_embeddings`, with the spectrograms made on CLAP's device."""
    extractor = processor.feature_extractor
    if not can_compute(extractor) or windows.shape[1] > extractor.nb_max_samples:
        return clap_audio_embeddings(clap, processor, windows)
    device = torch.device("cpu") if clap.device.type == "mps" else clap.device  # which has no float64
    audio = (np.clip(windows, -1.0, 1.0) * 32767.0).astype(np.int16).astype(np.float32) / 32767.0
    features = clap_spectrograms(extractor, torch.from_numpy(audio).to(device))
    is_longer = torch.zeros(len(windows), 1, dtype=torch.bool, device=clap.device)
    return clap.get_audio_features(
        input_features=features.to(clap.device, clap.dtype), is_longer=is_longer
    ).pooler_output
