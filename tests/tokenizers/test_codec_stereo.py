"""Two channels from a mono codec: its codebooks twice, in turn."""

import pytest
import torch
from codecs_of_all_kinds import CODECS, encodec

from open_musiclm.tokenizers.codec import as_codec
from open_musiclm.tokenizers.codec_stereo import InterleavedStereo


def stereo(make):
    model = make()
    model.config.stereo = "interleaved"
    return as_codec(model)


def audio_of(codec, seconds=2.3, batch=2, channels=2):
    generator = torch.Generator().manual_seed(0)
    return 0.3 * torch.randn(batch, channels, round(seconds * codec.sampling_rate), generator=generator)


def codes_of(codec, num_frames=120, batch=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(codec.codebook_size, (batch, num_frames, codec.num_codebooks), generator=generator)


@pytest.mark.parametrize("name", ["encodec 24 kHz, tiny", "encodec 32 kHz", "dac 44.1 kHz", "dac 24 kHz", "mimi"])
def test_each_side_is_the_mono_codecs(name):
    make = CODECS[name][0]
    codec, mono = stereo(make), as_codec(make())
    audio = audio_of(codec)
    codes = codec.encode(audio)
    assert isinstance(codec, InterleavedStereo)
    assert (codec.channels, codec.num_codebooks) == (2, 2 * mono.num_codebooks)
    assert (codec.frame_rate, codec.sampling_rate, codec.codebook_size) == (mono.frame_rate, mono.sampling_rate, mono.codebook_size)  # fmt: skip
    assert codes.shape[-1] == codec.num_codebooks
    for side in range(2):
        own = mono.encode(audio[:, side : side + 1])
        assert (codes[..., side::2] == own).float().mean() > 0.999  # a batch of another size may round in another way
    made = codes_of(codec)
    decoded = codec.decode(made)
    for side in range(2):
        assert torch.allclose(decoded[:, side], mono.decode(made[..., side::2])[:, 0], atol=1e-5)
    assert not torch.allclose(decoded[:, 0], decoded[:, 1], atol=1e-3)
    # one channel stands for both, and both sides are then the same
    same = codec.encode(audio[:, :1])
    assert torch.equal(same[..., 0::2], same[..., 1::2])


@pytest.mark.parametrize("number", [1, 2, 3, 5, 10])
def test_the_first_codebooks_alone(number):
    codec = stereo(CODECS["encodec 24 kHz, tiny"][0])
    audio = audio_of(codec)
    assert torch.equal(codec.encode(audio, number), codec.encode(audio)[..., :number])
    decoded = codec.decode(codes_of(codec)[..., :number])
    assert decoded.shape[1] == 2
    assert torch.equal(decoded[:, 0], decoded[:, 1]) == (number == 1)


@pytest.mark.parametrize("name", ["encodec 32 kHz", "dac 44.1 kHz", "mimi"])
def test_a_stream_gives_the_samples_of_a_whole_decoding(name):
    codec = stereo(CODECS[name][0])
    codes = codes_of(codec, round(3.4 * codec.frame_rate), batch=1)
    stream, size = codec.stream(), codec.frames_a_piece
    first = size + codec.lookahead
    pieces = [stream.decode(codes[:, :first], last=codes.shape[1] <= first)]
    for start in range(first, codes.shape[1], size):
        pieces.append(stream.decode(codes[:, start : start + size], last=start + size >= codes.shape[1]))
    assert torch.equal(torch.cat(pieces, dim=-1), codec.decode(codes))


def test_the_setting_is_saved_with_the_codec(tmp_path):
    model = encodec()
    model.config.stereo = "interleaved"
    model.save_pretrained(tmp_path)
    codec = as_codec(type(model).from_pretrained(tmp_path))
    assert codec.channels == 2
    mono = as_codec(encodec())
    assert codec.fingerprint(0, 2) != mono.fingerprint(0, 2), "tokens of one are not the other's"
    assert codec.fingerprint(0, 1) == mono.fingerprint(0, 1)


def test_what_cannot_be_stereo_is_refused():
    two = CODECS["encodec 48 kHz"][0]()
    assert as_codec(two).channels == 2
    two.config.stereo = "interleaved"
    with pytest.raises(ValueError, match="made of a mono codec; this one has 2 channels"):
        as_codec(two)
    model = encodec()
    model.config.stereo = "wide"
    with pytest.raises(ValueError, match="may say `stereo` \"interleaved\" or nothing, got 'wide'"):
        as_codec(model)
