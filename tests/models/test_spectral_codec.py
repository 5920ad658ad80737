"""The codec of spectra: shapes, phases that fit, pieces that join to the whole."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoConfig, AutoModel

from open_musiclm import SpectralCodecConfig, SpectralCodecModel
from open_musiclm.models.spectral_codec import FLOOR, SpectralCodecStream

RATE = 24_000


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    config = SpectralCodecConfig(hidden_size=24, codebook_size=16, codebook_dim=8, num_codebooks=3)
    return SpectralCodecModel(config).eval()


class KnownMagnitudes(torch.nn.Module):
    """In place of a decoder: frame i's code is i, its spectra are those of a recording."""

    context_before, context_after = 6, 2

    def __init__(self, log_magnitudes: torch.Tensor):
        super().__init__()
        self.log_magnitudes = log_magnitudes

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        frames = latents[0, 0].long()
        return self.log_magnitudes[..., torch.stack([2 * frames, 2 * frames + 1], dim=1).flatten()]


def with_known_magnitudes(audio: torch.Tensor) -> SpectralCodecModel:
    codec = SpectralCodecModel(SpectralCodecConfig(hidden_size=8, codebook_size=4, codebook_dim=4, num_codebooks=1))
    codec.decoder = KnownMagnitudes(torch.log(codec.magnitudes(audio) + FLOOR))
    codec.quantizer.decode = lambda codes: codes[0].float()[:, None]
    return codec.eval()


def chord(duration_in_s: float) -> torch.Tensor:
    times = torch.arange(round(duration_in_s * RATE)) / RATE
    tones = [torch.sin(2 * math.pi * frequency * times) for frequency in (220.0, 277.18, 329.63, 1318.5)]
    strokes = torch.exp(-20 * (times % 0.5))
    return 0.2 * (sum(tones) * strokes)[None]


def test_codes_and_audio_have_whole_frames(codec):
    codes = codec.encode(torch.randn(2, 1, 2 * 960 + 500)).audio_codes
    assert codes.shape == (1, 2, 3, 2)
    assert codes.min() >= 0
    assert codes.max() < 16
    assert codec.decode(codes, [None]).audio_values.shape == (2, 1, 2 * 960)
    assert codec.config.frame_rate == 25
    assert codec.config.hop_length == 960


def test_a_bandwidth_is_so_many_first_codebooks(codec):
    audio = torch.randn(1, 1, 4800)
    assert codec.config.target_bandwidths == [0.1, 0.2, 0.3]
    whole, two = (codec.encode(audio, bandwidth=kbits).audio_codes for kbits in (0.3, 0.2))
    assert torch.equal(whole[:, :, :2], two)
    with pytest.raises(ValueError, match=r"\[0.1, 0.2, 0.3\]"):
        codec.encode(audio, bandwidth=6.0)


def test_phases_are_found():
    """Spectra of music → samples whose spectra are those: the error is 18 dB below them or less."""
    audio = chord(3.2)
    codec = with_known_magnitudes(audio)
    found = codec.decode(torch.arange(80)[None, None, None], [None]).audio_values[:, 0]
    assert found.shape == audio.shape
    true, ours = codec.magnitudes(audio), codec.magnitudes(found)
    assert 20 * math.log10((true - ours).norm() / true.norm()) < -18


@pytest.mark.parametrize("sizes", [[80], [1, 79], [30, 25, 25], [7] * 11 + [3]])
def test_pieces_join_to_the_whole(sizes):
    """Bit by bit, whatever the pieces are; and a piece's audio comes as soon as what it waits for is there."""
    codec = with_known_magnitudes(chord(3.2))
    codes = torch.arange(80)[None, :, None]
    whole = codec.decode(codes.transpose(1, 2)[None], [None]).audio_values
    stream, made, given = SpectralCodecStream(codec), [], 0
    for piece in codes.split(sizes, dim=1):
        made.append(stream.push(piece))
        given += piece.shape[1]
        ready = max((given - stream.num_frames_ahead) // 25 * 25, 0)
        assert sum(some.shape[-1] for some in made) == ready * 960
        assert stream.codes.shape[1] <= 25 + piece.shape[1] + 2 * stream.num_frames_ahead + 6, "memory grows"
    made.append(stream.finish())
    assert torch.equal(torch.cat(made, dim=-1), whole)


def test_a_batch_is_its_samples(codec):
    codes = torch.randint(16, (1, 3, 3, 40), generator=torch.Generator().manual_seed(0))
    together = codec.decode(codes, [None]).audio_values
    alone = codec.decode(codes[:, 1:2], [None]).audio_values
    torch.testing.assert_close(together[1:2, :, :960], alone[:, :, :960], atol=1e-4, rtol=1e-4)


def test_it_is_saved_and_found_by_its_type(codec, tmp_path):
    codec.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), SpectralCodecConfig)
    again = AutoModel.from_pretrained(tmp_path)
    assert isinstance(again, SpectralCodecModel)
    audio = torch.randn(1, 1, 9600, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.encode(audio).audio_codes, codec.encode(audio).audio_codes)


def test_refusals(codec):
    with pytest.raises(StrictDataclassClassValidationError, match="mono"):
        SpectralCodecConfig(audio_channels=2)
    with pytest.raises(StrictDataclassClassValidationError, match="a quarter"):
        SpectralCodecConfig(fft_size=1024, fft_hop=480)
    with pytest.raises(ValueError, match=r"\(batch, 1, samples\)"):
        codec.encode(torch.zeros(1, 2, 9600))
    with pytest.raises(ValueError, match="at least 960 samples"):
        codec.encode(torch.zeros(1, 1, 100))
    with pytest.raises(ValueError, match=r"\(1, batch, codebooks, frames\)"):
        codec.decode(torch.zeros(1, 3, 9, dtype=torch.long))
    with pytest.raises(ValueError, match="no codes"):
        SpectralCodecStream(codec).finish()


def test_no_peak_is_cut_off_and_what_is_within_the_knee_stays():
    from open_musiclm.models.spectral_codec import CEILING, KNEE, bend_peaks

    samples = torch.linspace(-3.0, 3.0, 6001)
    bent = bend_peaks(samples)
    within = samples.abs() <= KNEE
    assert torch.equal(bent[within], samples[within])
    assert bent.abs().max() <= CEILING
    assert (bent.diff() >= 0).all()
    assert bent.diff().max() < 1.01 * samples.diff().max()
