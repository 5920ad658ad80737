"""A codec in pieces gives the samples of transformers' own whole decoding."""

import pytest
import torch
from tiny import tiny_codec
from transformers import EncodecConfig, EncodecModel

from open_musiclm.tokenizers.codec_streaming import CodecStream, can_decode_in_pieces, decode_in_pieces, frames_a_piece
from open_musiclm.tokenizers.networks import acoustic_waveform


def published_shape(seed=0, **overrides):
    """EnCodec 24 kHz's own decoder, thinner."""
    torch.manual_seed(seed)
    codec = EncodecModel(EncodecConfig(num_filters=4, hidden_size=16, codebook_dim=16, **overrides)).eval()
    with torch.no_grad():
        for layer in codec.quantizer.layers:
            layer.codebook.embed.normal_()
    return codec


CODECS = {
    "published": published_shape,
    "tiny": tiny_codec,
    "deeper": lambda: published_shape(num_residual_layers=3, dilation_growth_rate=3, num_lstm_layers=1),
    "zeros around": lambda: published_shape(
        pad_mode="constant", upsampling_ratios=[4, 2], sampling_rate=600, last_kernel_size=5
    ),
}


def random_codes(codec, num_frames, batch_size=2, num_codebooks=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(codec.config.codebook_size, (batch_size, num_frames, num_codebooks), generator=generator)


@pytest.mark.parametrize("name", CODECS)
class TestPieces:
    @pytest.mark.parametrize("sizes", [(9, 1, 1, 2, 30), (20, 23), (43,)])
    def test_any_pieces_are_the_whole(self, name, sizes):
        codec = CODECS[name]()
        codes = random_codes(codec, 43)
        stream = CodecStream(codec)
        made = torch.cat([stream.decode(piece) for piece in codes.split(list(sizes), dim=1)], dim=-1)
        whole = acoustic_waveform(codec, codes)
        assert made.shape == whole.shape
        torch.testing.assert_close(made, whole, atol=1e-5 * float(whole.abs().max()), rtol=1e-5)

    def test_the_past_matters_here(self, name):
        """Without what is carried over the pieces would differ: the test above can fail."""
        codec = CODECS[name]()
        codes = random_codes(codec, 43)
        apart = torch.cat([CodecStream(codec).decode(piece) for piece in codes.split([20, 23], dim=1)], dim=-1)
        whole = acoustic_waveform(codec, codes)
        assert (apart - whole).abs().max() > 1e-2 * whole.abs().max()

    def test_decode_in_pieces(self, name):
        codec = CODECS[name]()
        frames = frames_a_piece(codec)
        codes = random_codes(codec, 2 * frames + 7, batch_size=1)
        whole = acoustic_waveform(codec, codes)
        made = decode_in_pieces(codec, codes)
        torch.testing.assert_close(made, whole, atol=1e-5 * float(whole.abs().max()), rtol=1e-5)
        stream = CodecStream(codec)
        by_hand = [stream.decode(codes[:, first : first + frames]) for first in range(0, codes.shape[1], frames)]
        assert torch.equal(torch.cat(by_hand, dim=-1), made)

    def test_shorter_than_a_kernel(self, name):
        codec = CODECS[name]()
        for num_frames in (1, 3):
            codes = random_codes(codec, num_frames)
            torch.testing.assert_close(decode_in_pieces(codec, codes), acoustic_waveform(codec, codes))


def test_a_codec_that_looks_ahead_is_decoded_whole():
    codec = published_shape(use_causal_conv=False)
    codes = random_codes(codec, 100)
    assert not can_decode_in_pieces(codec)
    assert torch.equal(decode_in_pieces(codec, codes), acoustic_waveform(codec, codes))
    with pytest.raises(ValueError, match="look ahead"):
        CodecStream(codec)
