"""Two channels from a mono codec: its codebooks twice, left and right in turn (Copet et al. 2023, MusicGen, appendix).

    left  ── codec ──→ l0 l1 … ┐
                               ├──→ l0 r0 l1 r1 …      2 · Q codebooks of one frame
    right ── codec ──→ r0 r1 … ┘

So the first codebooks of both channels come first, and a stage that predicts some of them has both. It is a setting of the
codec's config, `stereo="interleaved"`, and nothing else in a pipeline.
"""

from __future__ import annotations

import torch

from .codec import Codec, CodecStream


class InterleavedStereo(Codec):
    """A codec of one channel as one of two.

    Args:
        codec: the adapter of the mono codec.

    Raises:
        ValueError: it has two channels already.
    """

    channels = 2

    def __init__(self, codec: Codec):
        if codec.channels != 1:
            raise ValueError(f"Interleaved stereo is made of a mono codec; this one has {codec.channels} channels.")
        super().__init__(codec.model)
        self.mono = codec
        self.sampling_rate, self.hop_length = codec.sampling_rate, codec.hop_length
        self.num_codebooks, self.codebook_size = 2 * codec.num_codebooks, codec.codebook_size
        self.lookahead, self.shortest_piece = codec.lookahead, codec.shortest_piece

    @property
    def frames_a_piece(self) -> int:
        return self.mono.frames_a_piece

    def codebooks(self) -> list[torch.Tensor]:
        return [codebook for codebook in self.mono.codebooks() for _ in range(2)]

    def _encode(self, audio: torch.Tensor, num_codebooks: int) -> torch.Tensor:
        sides = audio.flatten(0, 1).unsqueeze(1)  # (2 · batch, 1, samples)
        codes = self.mono._encode(sides, -(-num_codebooks // 2)).unflatten(0, (len(audio), 2))
        return codes.permute(0, 2, 3, 1).flatten(2)[..., :num_codebooks]

    def stream(self) -> CodecStream:
        return InterleavedStream(self.mono)


class InterleavedStream(CodecStream):
    def __init__(self, mono: Codec):
        self.left, self.right = mono.stream(), mono.stream()

    def decode(self, codes: torch.Tensor, last: bool = False) -> torch.Tensor:
        left, right = codes[..., 0::2], codes[..., 1::2]
        # of a single codebook, which is the left one's, both are made; of an odd number the right has one less
        sides = [self.left.decode(left, last), self.right.decode(right if right.shape[-1] else left, last)]
        return torch.cat(sides, dim=1)
