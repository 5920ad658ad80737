"""EnCodec (Défossez et al. 2022): 24 kHz (causal), 32 kHz (looks ahead), 48 kHz stereo (in chunks, at a level of its own).

The decoder is a convolution, an LSTM, and transposed convolutions up to the sampling rate. In pieces it needs the latents
around a piece, the LSTM's state, and the LSTM's outputs around the piece, recomputed with each piece.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .codec import Codec, CodecStream
from .codec_pieces import Convolution, LayersInPieces, Upsampling, reach

#: what the 48 kHz codec divides audio by, in place of each chunk's own level (root mean square)
FIXED_SCALE = 0.1
#: share of a chunk that it has in common with the next
CHUNK_OVERLAP = 1 / 15


def make_encodec(model: Any) -> Codec:
    """The adapter of an [`~transformers.EncodecModel`]."""
    config = model.config
    in_chunks = config.normalize or config.chunk_length_s is not None or config.norm_type != "weight_norm"
    return ChunkedEncodecCodec(model) if in_chunks else EncodecCodec(model)


class EncodecCodec(Codec):
    """An [`~transformers.EncodecModel`] without chunks: 24 and 32 kHz."""

    def __init__(self, model: Any):
        super().__init__(model)
        config = model.config
        self.sampling_rate, self.channels = config.sampling_rate, config.audio_channels
        self.hop_length, self.codebook_size = config.hop_length, config.codebook_size
        self.num_codebooks = len(model.quantizer.layers)
        first_conv, _, *tail = model.decoder.layers
        self.front, self.tail = reach(layers_of([first_conv])), reach(layers_of(tail))
        self.lookahead = self.front[1] + self.tail[1]
        self.shortest_piece = max(sum(self.front), sum(self.tail)) + 1

    def codebooks(self) -> list[torch.Tensor]:
        return [layer.codebook.embed for layer in self.model.quantizer.layers]

    def _encode(self, audio: torch.Tensor, num_codebooks: int) -> torch.Tensor:
        codes = self.model.encode(audio, bandwidth=self.bandwidth(num_codebooks)).audio_codes
        return codes[0].transpose(1, 2)[..., :num_codebooks]  # of (chunks, batch, codebooks, frames)

    def bandwidth(self, num_codebooks: int) -> float:
        """The smallest bandwidth, in kbit/s, that has so many codebooks."""
        bandwidths = sorted(self.model.config.target_bandwidths)
        for bandwidth in bandwidths:
            if self.model.quantizer.get_num_quantizers_for_bandwidth(bandwidth) >= num_codebooks:
                return bandwidth
        raise ValueError(f"The codec has no bandwidth with {num_codebooks} codebooks (it has {bandwidths} kbit/s).")

    def stream(self) -> CodecStream:
        return EncodecStream(self)


class EncodecStream(CodecStream):
    def __init__(self, codec: EncodecCodec):
        self.codec = codec
        first_conv, self.lstm, *tail = codec.model.decoder.layers
        self.front = LayersInPieces(first_conv, *codec.front)
        self.tail = LayersInPieces(nn.Sequential(*tail), *codec.tail, ratio=codec.hop_length)
        self.lstm_state: tuple[torch.Tensor, torch.Tensor] | None = None

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, last: bool = False) -> torch.Tensor:
        latents = self.codec.model.quantizer.decode(codes.permute(2, 0, 1))  # (batch, hidden_size, frames)
        features = self.front.push(latents, last)
        if features is not None:
            inputs = features.permute(2, 0, 1)
            outputs, self.lstm_state = self.lstm.lstm(inputs, self.lstm_state)
            features = (outputs + inputs).permute(1, 2, 0)
        audio = self.tail.push(features, last)
        return latents.new_empty(len(codes), self.codec.channels, 0) if audio is None else audio


class ChunkedEncodecCodec(EncodecCodec):
    """The 48 kHz EnCodec: norms over time, so it reads and writes chunks of a second.

    transformers' own chunks share 1 % of their length, 1.5 frames, so no stream of frames runs through them; and each
    chunk carries its level beside its codes, which tokens cannot. Here chunks share whole frames (10 of 150), whose codes
    are those of the chunk in whose middle they are nearer, and whose audio is faded from one chunk to the next; and all
    audio is divided by one level, `FIXED_SCALE`, so that a quiet passage has the codes of a quiet passage.
    """

    def __init__(self, model: Any):
        super().__init__(model)
        length = model.config.chunk_length or self.sampling_rate
        self.chunk = max(length // self.hop_length, 2)
        self.overlap = min(max(round(self.chunk * CHUNK_OVERLAP), 1), self.chunk - 1)
        self.lookahead = self.overlap
        self.scale = FIXED_SCALE if model.config.normalize else 1.0

    @property
    def frames_a_piece(self) -> int:
        """A chunk without what it shares with the next."""
        return self.chunk - self.overlap

    def chunks(self, num_frames: int) -> Iterator[tuple[int, int]]:
        """Frames at which each chunk starts and stops: one more only where the last ones do not cover the end."""
        step, start = self.frames_a_piece, 0
        while start == 0 or start + self.overlap < num_frames:
            yield start, min(start + self.chunk, num_frames)
            start += step

    def _encode(self, audio: torch.Tensor, num_codebooks: int) -> torch.Tensor:
        model, bandwidth = self.model, self.bandwidth(num_codebooks)
        codes: list[torch.Tensor] = []
        for start, stop in self.chunks(math.ceil(audio.shape[-1] / self.hop_length)):
            embeddings = model.encoder(audio[..., start * self.hop_length : stop * self.hop_length] / self.scale)
            found = model.quantizer.encode(embeddings, bandwidth)[:num_codebooks].permute(1, 2, 0)
            if codes:
                half = self.overlap // 2
                codes[-1] = codes[-1][:, : codes[-1].shape[1] - self.overlap + half]
                found = found[:, half:]
            codes.append(found)
        return torch.cat(codes, dim=1)

    def stream(self) -> CodecStream:
        return ChunkedEncodecStream(self)


class ChunkedEncodecStream(CodecStream):
    def __init__(self, codec: ChunkedEncodecCodec):
        self.codec = codec
        self.codes: torch.Tensor | None = None  # from the next chunk's start on
        self.ending: torch.Tensor | None = None  # what the chunk before made of the frames it shares with the next

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, last: bool = False) -> torch.Tensor:
        codec = self.codec
        self.codes = codes if self.codes is None else torch.cat([self.codes, codes], dim=1)
        empty = torch.empty(len(codes), codec.channels, 0, device=codec.device, dtype=codec.model.dtype)
        ready = [empty]
        while self.codes.shape[1] >= codec.chunk:
            ready.append(self._chunk(self.codes[:, : codec.chunk], codec.frames_a_piece))
            self.codes = self.codes[:, codec.frames_a_piece :]
        if last:
            if self.ending is None or self.codes.shape[1] > codec.overlap:
                ready.append(self._chunk(self.codes, self.codes.shape[1]))
            else:
                ready.append(self.ending)
        return torch.cat(ready, dim=-1)

    def _chunk(self, codes: torch.Tensor, num_ready: int) -> torch.Tensor:
        """A chunk's audio, its beginning faded in over the end of the one before; its own end is put by."""
        codec = self.codec
        audio = codec.model.decoder(codec.model.quantizer.decode(codes.permute(2, 0, 1))) * codec.scale
        if self.ending is not None:
            length = self.ending.shape[-1]
            fade = (torch.arange(length, device=audio.device, dtype=audio.dtype) + 0.5) / length
            audio[..., :length] = audio[..., :length] * fade + self.ending * (1 - fade)
        ready, self.ending = audio.split(
            [num_ready * codec.hop_length, audio.shape[-1] - num_ready * codec.hop_length], -1
        )
        return ready


def layers_of(modules: Any) -> Iterator[Convolution | Upsampling]:
    """The convolutions of a SEANet decoder (EnCodec's and Mimi's), as far as they reach."""
    for module in modules:
        if hasattr(module, "block"):
            yield from layers_of(module.block)
        elif isinstance(getattr(module, "conv", None), nn.ConvTranspose1d):
            kernel, stride = module.conv.kernel_size[0], module.conv.stride[0]
            cut_right = (
                math.ceil((kernel - stride) * module.trim_right_ratio) if module.causal else (kernel - stride) // 2
            )
            yield Upsampling(kernel, stride, kernel - stride - cut_right)
        elif hasattr(module, "conv"):
            total = (module.conv.kernel_size[0] - 1) * module.conv.dilation[0]
            after = 0 if module.causal else total // 2
            yield Convolution(total - after, after)
