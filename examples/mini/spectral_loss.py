"""How far one waveform is from another to the ear: distances between spectrograms, to train on and to measure with."""

from __future__ import annotations

import torch
from transformers.audio_utils import mel_filter_bank


def relative_level(target: torch.Tensor) -> torch.Tensor:
    """What (batch, samples) are divided by before they are compared: the root mean square, a little more if silent."""
    return target.pow(2).mean(dim=1, keepdim=True).sqrt() + 0.01


def magnitudes(waveforms: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
    """(batch, samples) → (batch, bins, frames), about 1 in every bin for white noise of level 1."""
    size = len(window)
    stft = torch.stft(waveforms, size, size // 4, window=window, return_complex=True)
    return (stft.real.pow(2) + stft.imag.pow(2) + 1e-9).sqrt() / (0.4 * size**0.5)


class SpectralLoss(torch.nn.Module):
    """Mean L1 of log-mel spectrograms at several resolutions, plus L1 of the waveform over its own level."""

    def __init__(
        self, sampling_rate: int, resolutions: tuple[tuple[int, int], ...] = ((2048, 96), (512, 48), (128, 16))
    ):
        super().__init__()
        self.sizes = [size for size, _ in resolutions]
        for size, num_mels in resolutions:
            bank = mel_filter_bank(size // 2 + 1, num_mels, 0.0, sampling_rate / 2, sampling_rate, norm=None)
            self.register_buffer(f"bank_{size}", torch.tensor(bank, dtype=torch.float32))
            self.register_buffer(f"window_{size}", torch.hann_window(size))

    def forward(self, decoded: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, samples) twice → the spectral and the waveform term."""
        level = relative_level(target)
        decoded, target = decoded / level, target / level
        spectral = decoded.new_zeros(())
        for size in self.sizes:
            ours, true = self._log_mel(decoded, size), self._log_mel(target, size)
            spectral = spectral + (ours - true).abs().mean() / len(self.sizes)
        return spectral, (decoded - target).abs().mean()

    def _log_mel(self, waveforms: torch.Tensor, size: int) -> torch.Tensor:
        magnitude = magnitudes(waveforms, getattr(self, f"window_{size}"))
        return torch.log(torch.einsum("bft,fm->btm", magnitude, getattr(self, f"bank_{size}")) + 1e-2)
