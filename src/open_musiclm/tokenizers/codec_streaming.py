"""A codec's decoder in pieces: the samples of one whole decoding, in the memory of a second of audio.

EnCodec's decoder is a causal convolution, an LSTM, and causal (transposed) convolutions up to the sampling rate. What a
piece needs of the frames before it is therefore little: the latents under the first convolution's kernel, the LSTM's
state, and as many of the LSTM's outputs as the convolutions behind it reach back, recomputed with each piece.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import nn

from .networks import acoustic_waveform, codec_frame_rate

#: length of the pieces that `decode_in_pieces` makes, in seconds
PIECE_IN_S = 1


def can_decode_in_pieces(codec) -> bool:
    """Whether a frame's samples depend on earlier frames alone: a causal EnCodec without norms over time."""
    config = codec.config
    return (
        getattr(config, "model_type", None) == "encodec"
        and bool(config.use_causal_conv)
        and config.trim_right_ratio == 1.0
        and config.norm_type == "weight_norm"
    )


def frames_a_piece(codec) -> int:
    """Frames of each piece but the last; a whole decoding uses the same ones, so that a stream equals it bit for bit."""
    return max(math.ceil(PIECE_IN_S * codec_frame_rate(codec)), _shortest_piece(codec))


def decode_in_pieces(codec, codes: torch.Tensor) -> torch.Tensor:
    """Codes (batch, frames, codebooks) → audio (batch, channels, frames · hop)."""
    if not can_decode_in_pieces(codec):
        return acoustic_waveform(codec, codes)
    stream, size = CodecStream(codec), frames_a_piece(codec)
    decoded = stream.decode(codes[:, :size])
    hop = decoded.shape[-1] // min(size, codes.shape[1])
    # of its final length from the start: a long piece stands in memory once
    audio = decoded.new_empty(*decoded.shape[:-1], codes.shape[1] * hop)
    audio[..., : decoded.shape[-1]] = decoded
    for first in range(size, codes.shape[1], size):
        audio[..., first * hop : (first + size) * hop] = stream.decode(codes[:, first : first + size])
    return audio


class CodecStream:
    """Decodes a piece of codes after another.

    Args:
        codec: an [`~transformers.EncodecModel`] for which [`can_decode_in_pieces`] holds.

    Raises:
        ValueError: a codec that looks ahead.
    """

    def __init__(self, codec):
        if not can_decode_in_pieces(codec):
            raise ValueError(
                "This codec cannot decode in pieces: its convolutions look ahead or are normed over time. Use a causal "
                "one, like `facebook/encodec_24khz`, or decode the whole piece."
            )
        self.codec = codec
        self.first_conv, self.lstm, *self.tail = codec.decoder.layers
        self.reach = tail_reach(self.tail)
        self.latents: torch.Tensor | None = None  # (batch, hidden_size, kernel - 1): the last ones
        self.lstm_state: tuple[torch.Tensor, torch.Tensor] | None = None
        self.features: torch.Tensor | None = None  # (batch, channels, ≤ reach): the LSTM's last outputs

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """The next codes (batch, frames, codebooks) → their audio (batch, channels, frames · hop).

        The first piece must be longer than the convolutions' kernels, since their padding mirrors it.
        """
        num_frames = codes.shape[1]
        latents = self.codec.quantizer.decode(codes.permute(2, 0, 1))  # (batch, hidden_size, frames)
        kernel = _kernel_reach(self.first_conv)
        known = self.latents if self.latents is not None else latents[..., :0]
        joined = torch.cat([known, latents], dim=-1)
        self.latents = joined[..., joined.shape[-1] - kernel :] if kernel else joined[..., :0]
        inputs = self.first_conv(joined)[..., -num_frames:].permute(2, 0, 1)

        outputs, self.lstm_state = self.lstm.lstm(inputs, self.lstm_state)
        features = (outputs + inputs).permute(1, 2, 0)  # (batch, channels, frames)
        known = self.features if self.features is not None else features[..., :0]
        joined = torch.cat([known, features], dim=-1)
        self.features = joined[..., max(joined.shape[-1] - self.reach, 0) :]

        audio = joined
        for layer in self.tail:
            audio = layer(audio)
        return audio[..., audio.shape[-1] // joined.shape[-1] * known.shape[-1] :]


def tail_reach(layers) -> int:
    """How many earlier frames the output of causal layers at a frame depends on, a transposed one's stride counted."""
    reach = Fraction(0)  # in frames of the layer's output
    for layer in reversed(list(layers)):
        if hasattr(layer, "block"):
            reach += sum(_kernel_reach(inner) for inner in layer.block if hasattr(inner, "conv"))
        elif hasattr(layer, "conv") and isinstance(layer.conv, nn.ConvTranspose1d):
            reach = Fraction(math.ceil((reach + layer.conv.kernel_size[0] - 1) / layer.conv.stride[0]))
        elif hasattr(layer, "conv"):
            reach += _kernel_reach(layer)
    return math.ceil(reach)


def _kernel_reach(layer) -> int:
    return (layer.conv.kernel_size[0] - 1) * layer.conv.dilation[0]


def _shortest_piece(codec) -> int:
    """Frames that a first piece needs so that no padding mirrors more than there is."""
    first_conv, _, *tail = codec.decoder.layers
    return max(_kernel_reach(first_conv), tail_reach(tail)) + 1
