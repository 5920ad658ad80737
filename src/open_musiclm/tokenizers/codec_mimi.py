"""Mimi (Défossez et al. 2024, Moshi): 12.5 frames a second, causal, a transformer before the convolutions."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache

from .codec import Codec, CodecStream
from .codec_encodec import layers_of
from .codec_pieces import LayersInPieces, reach


class MimiCodec(Codec):
    """A [`~transformers.MimiModel`].

    In pieces its transformer keeps the keys and values of its window (10 s, of each layer), and its convolutions the
    frames that they reach back to.
    """

    def __init__(self, model: Any):
        super().__init__(model)
        config = model.config
        self.sampling_rate, self.channels = config.sampling_rate, config.audio_channels
        self.hop_length = round(config.sampling_rate / config.frame_rate)
        self.codebook_size, self.num_codebooks = config.codebook_size, config.num_quantizers
        # transformers up to 5.22 has the decoder's parts in the model itself
        half = model.decoder if hasattr(model.decoder, "decoder_seanet") else model
        self.upsample, self.transformer = half.upsample, half.decoder_transformer
        self.convolutions = getattr(model.decoder, "decoder_seanet", model.decoder)
        self.latent_ratio = 1 if self.upsample is None else self.upsample.conv.stride[0]
        self.front = (0, 0) if self.upsample is None else reach(layers_of([self.upsample]))
        self.tail = reach(layers_of(self.convolutions.layers))
        ahead = -(-self.tail[1] // self.latent_ratio)
        self.lookahead = self.front[1] + ahead
        self.shortest_piece = max(sum(self.front), -(-sum(self.tail) // self.latent_ratio)) + 1

    def codebooks(self) -> list[torch.Tensor]:
        quantizer = self.model.quantizer
        halves = quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer
        return [layer.codebook.embed for half in halves for layer in half.layers]

    def _encode(self, audio: torch.Tensor, num_codebooks: int) -> torch.Tensor:
        first = self.model.quantizer.num_semantic_quantizers  # fewer than these cannot be asked for
        codes = self.model.encode(audio, num_quantizers=max(num_codebooks, first)).audio_codes
        return codes.transpose(1, 2)[..., :num_codebooks]

    def stream(self) -> CodecStream:
        return MimiStream(self)


class MimiStream(CodecStream):
    def __init__(self, codec: MimiCodec):
        self.codec = codec
        self.front = LayersInPieces(codec.upsample or (lambda latents: latents), *codec.front, codec.latent_ratio)
        self.cache = DynamicCache(config=codec.transformer.config)
        self.tail = LayersInPieces(codec.convolutions, *codec.tail, codec.hop_length // codec.latent_ratio)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, last: bool = False) -> torch.Tensor:
        latents = self.codec.model.quantizer.decode(codes.transpose(1, 2))  # (batch, hidden_size, frames)
        features = self.front.push(latents, last)
        if features is not None:
            outputs = self.codec.transformer(features.transpose(1, 2), past_key_values=self.cache, use_cache=True)
            features = outputs.last_hidden_state.transpose(1, 2)
        audio = self.tail.push(features, last)
        return latents.new_empty(len(codes), self.codec.channels, 0) if audio is None else audio
