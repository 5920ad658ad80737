"""From magnitudes to samples: phases that fit, block after block.

At spectral peaks phases are carried on from frame to frame (single pass spectrogram inversion, Beauregard et al. 2015), and
a few rounds of the fast Griffin-Lim algorithm (Perraudin et al. 2013) make neighbouring frames agree. A block continues the
samples before it, which stay as they are.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

#: of the fast Griffin-Lim algorithm
ACCELERATION = 0.99


class PhaseFinder:
    """Samples of one piece after another.

    Args:
        fft_size, fft_hop: of the Hann-windowed STFT, in samples.
        num_iterations: rounds of the fast Griffin-Lim algorithm.
        device: where the magnitudes are.

    Attributes:
        num_spectra_around: spectra beside an edge whose windows cross it.
    """

    def __init__(self, fft_size: int, fft_hop: int, num_iterations: int, device: torch.device):
        self.hop, self.num_iterations = fft_hop, num_iterations
        self.window = torch.hann_window(fft_size, device=device)
        self.num_spectra_around = (fft_size // 2 - 1) // fft_hop
        self.past = fft_size  # samples known before a block
        self.audio: torch.Tensor | None = None  # (batch, past): the last samples
        self.phases: torch.Tensor | None = None  # (batch, bins) of the last spectrum before the block

    def find(self, magnitudes: torch.Tensor, num_spectra: int) -> torch.Tensor:
        """Magnitudes (batch, bins, around + num_spectra + around + 1) → audio (batch, num_spectra · fft_hop).

        The spectra around are those before and after the block's own.
        """
        hop, around = self.hop, self.num_spectra_around
        batch, bins, total = magnitudes.shape
        known = magnitudes.new_zeros(batch, self.past) if self.audio is None else self.audio
        phases_before = magnitudes.new_zeros(batch, bins) if self.phases is None else self.phases
        # the buffer: `past` known samples, then as far as the last window reaches
        first_start = self.past - around * hop - len(self.window) // 2
        size = first_start + (total - 1) * hop + len(self.window)
        silence = known.new_zeros(batch, size - self.past)
        weights = self._overlap_add(self.window.square()[None, :, None].expand(1, -1, total), first_start, size)
        weights = weights.clamp(min=1e-3)

        spectra = self._analyse(torch.cat([known, silence], dim=1), first_start, total)
        phases = torch.cat(
            [spectra[..., :around].angle(), self._carry(phases_before, magnitudes[..., around:])], dim=-1
        )
        estimate = torch.polar(magnitudes, phases)
        before: torch.Tensor | None = None
        for iteration in range(self.num_iterations + 1):
            frames = torch.fft.irfft(estimate, n=len(self.window), dim=1) * self.window[:, None]
            audio = self._overlap_add(frames, first_start, size) / weights
            audio = torch.cat([known, audio[:, self.past :]], dim=1)
            spectra = self._analyse(audio, first_start, total)
            if iteration == self.num_iterations:
                break
            moved = spectra if before is None else spectra + ACCELERATION * (spectra - before)
            before = spectra
            estimate = magnitudes * moved / moved.abs().clamp(min=1e-9)
        self.phases = spectra[..., around + num_spectra - 1].angle()
        end = self.past + num_spectra * hop
        self.audio = audio[:, end - self.past : end]
        return audio[:, self.past : end]

    def _analyse(self, audio: torch.Tensor, first_start: int, total: int) -> torch.Tensor:
        frames = audio[:, first_start:].unfold(1, len(self.window), self.hop)[:, :total]
        return torch.fft.rfft(frames * self.window, dim=2).transpose(1, 2)

    def _overlap_add(self, frames: torch.Tensor, first_start: int, size: int) -> torch.Tensor:
        """(batch, window, spectra) → (batch, size)."""
        total, hop = frames.shape[2], self.hop
        length = (total - 1) * hop + len(self.window)
        added = F.fold(frames, (1, length), (1, len(self.window)), stride=(1, hop))[:, 0, 0]
        return F.pad(added, (first_start, size - first_start - length))

    def _carry(self, current: torch.Tensor, magnitudes: torch.Tensor) -> torch.Tensor:
        """(batch, bins, spectra) → phases: each peak's goes on at the peak's frequency, its neighbours follow it."""
        _, bins, total = magnitudes.shape
        logs = torch.log(magnitudes + 1e-9)
        left, right = F.pad(logs[:, :-1], (0, 0, 1, 0), value=1e9), F.pad(logs[:, 1:], (0, 0, 0, 1), value=1e9)
        is_peak = (logs > left) & (logs >= right)
        curvature = left - 2 * logs + right
        shift = torch.where(is_peak, 0.5 * (left - right) / curvature.clamp(max=-1e-6), 0.0).clamp(-0.5, 0.5)
        index = torch.arange(bins, device=magnitudes.device)[None, :, None].expand_as(magnitudes)
        advance = 2 * math.pi * self.hop / len(self.window) * (index + shift)
        far = 2 * bins
        below = torch.where(is_peak, index, -far).cummax(dim=1).values
        above = torch.where(is_peak, index, 2 * far).flip(1).cummin(dim=1).values.flip(1)
        nearest = torch.where(index - below <= above - index, below, above)
        nearest = torch.where((nearest < 0) | (nearest >= bins), index, nearest)
        turn = math.pi * ((index - nearest) % 2)  # a centred Hann window: neighbours of a peak alternate in sign
        phases = []
        for i in range(total):
            at = nearest[..., i]
            current = torch.remainder((current + advance[..., i]).gather(1, at) + turn[..., i], 2 * math.pi)
            phases.append(current)
        return torch.stack(phases, dim=-1)
