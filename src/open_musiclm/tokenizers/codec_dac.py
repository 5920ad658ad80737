"""DAC, the Descript Audio Codec (Kumar et al. 2023): convolutions that look both ways, one channel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .codec import Codec, CodecStream
from .codec_pieces import Convolution, LayersInPieces, Upsampling, reach


class DacCodec(Codec):
    """A [`~transformers.DacModel`].

    With an odd stride among its layers (the 24 kHz model) its decoder gives a few samples less than whole frames; those
    of the end are made with the last frame repeated.
    """

    def __init__(self, model: Any):
        super().__init__(model)
        config = model.config
        self.sampling_rate, self.hop_length = config.sampling_rate, config.hop_length
        self.codebook_size, self.num_codebooks = config.codebook_size, config.n_codebooks
        self.before, self.lookahead = reach(_layers(model.decoder))
        self.shortest_piece = self.before + self.lookahead + 1
        self.falls_short = any(stride % 2 for stride in config.upsampling_ratios)

    def codebooks(self) -> list[torch.Tensor]:
        return [quantizer.codebook.weight for quantizer in self.model.quantizer.quantizers]

    def _encode(self, audio: torch.Tensor, num_codebooks: int) -> torch.Tensor:
        audio = F.pad(audio, (0, -audio.shape[-1] % self.hop_length))
        return self.model.encode(audio, n_quantizers=num_codebooks).audio_codes.transpose(1, 2)

    def stream(self) -> CodecStream:
        return DacStream(self)


class DacStream(CodecStream):
    def __init__(self, codec: DacCodec):
        self.codec = codec
        self.layers = LayersInPieces(codec.model.decoder, codec.before, codec.lookahead, codec.hop_length)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, last: bool = False) -> torch.Tensor:
        codec = self.codec
        repeated = last and codec.falls_short
        if repeated:
            codes = torch.cat([codes, codes[:, -1:]], dim=1)
        latents = codec.model.quantizer.from_codes(codes.transpose(1, 2))[0]
        audio = self.layers.push(latents, last)
        if audio is None:
            return latents.new_empty(len(codes), codec.channels, 0)
        if repeated:  # the frame's own samples, as far as there are any, go
            audio = audio[..., : audio.shape[-1] // codec.hop_length * codec.hop_length]
        return audio


def _layers(decoder: nn.Module) -> Iterator[Convolution | Upsampling]:
    for module in decoder.modules():  # in the order in which they follow one another
        if isinstance(module, nn.Conv1d):
            total = (module.kernel_size[0] - 1) * module.dilation[0]
            before = int(module.padding[0])
            yield Convolution(before, total - before)
        elif isinstance(module, nn.ConvTranspose1d):
            yield Upsampling(module.kernel_size[0], module.stride[0], int(module.padding[0]))
