"""This package's own codec of spectra (models/spectral_codec.py): its model decodes in pieces by itself."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from .codec import Codec, CodecStream


class SpectralCodec(Codec):
    """A `SpectralCodecModel`."""

    def __init__(self, model: Any):
        super().__init__(model)
        config = model.config
        self.sampling_rate, self.channels = config.sampling_rate, config.audio_channels
        self.hop_length, self.codebook_size = config.hop_length, config.codebook_size
        self.num_codebooks = config.num_codebooks
        own = self._own_stream()
        self.block, self.lookahead = own.block, own.num_frames_ahead

    @property
    def frames_a_piece(self) -> int:
        """The block in which the model looks for phases."""
        return self.block

    def codebooks(self) -> list[torch.Tensor]:
        return [layer.codebook.embed for layer in self.model.quantizer.layers]

    def _encode(self, audio: torch.Tensor, num_codebooks: int) -> torch.Tensor:
        audio = F.pad(audio, (0, -audio.shape[-1] % self.hop_length))
        bandwidth = self.model.config.target_bandwidths[num_codebooks - 1]
        return self.model.encode(audio, bandwidth=bandwidth).audio_codes[0].transpose(1, 2)

    def _own_stream(self) -> Any:
        from ..models.spectral_codec import SpectralCodecStream

        return SpectralCodecStream(self.model)

    def stream(self) -> CodecStream:
        return SpectralStream(self._own_stream())


class SpectralStream(CodecStream):
    def __init__(self, stream: Any):
        self.own = stream

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, last: bool = False) -> torch.Tensor:
        audio = self.own.push(codes)
        return torch.cat([audio, self.own.finish()], dim=-1) if last else audio
