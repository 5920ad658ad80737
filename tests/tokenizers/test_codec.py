"""Every codec: audio of any length there and back, pieces that are the whole, codebooks with an identity."""

import math

import pytest
import torch
from codecs_of_all_kinds import CODECS, dac, encodec, mimi
from tiny import tiny_codec

from open_musiclm.tokenizers.codec import Codec, as_codec, codec_fingerprint, register_codec
from open_musiclm.tokenizers.codec_pieces import Convolution, LayersInPieces, Upsampling, reach


@pytest.fixture(scope="module")
def codecs():
    return {name: as_codec(make()) for name, (make, *_) in CODECS.items()}


@pytest.fixture(params=CODECS)
def codec(request, codecs):
    return codecs[request.param]


def random_codes(codec, num_frames, batch_size=2):
    shape = (batch_size, num_frames, codec.num_codebooks)
    return torch.randint(codec.codebook_size, shape, generator=torch.Generator().manual_seed(0))


def noise(codec, num_samples, batch_size=1):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch_size, codec.channels, num_samples, generator=generator) * 0.1


@torch.no_grad()
def whole(codec, codes):
    """What transformers makes of them at once."""
    model = codec.model
    if type(codec).__name__ == "EncodecCodec":
        return model.decode(codes.transpose(1, 2)[None], [None]).audio_values
    audio = model.decode(audio_codes=codes.transpose(1, 2)).audio_values
    return audio.reshape(len(codes), codec.channels, -1)


def is_chunked(codec):
    return type(codec).__name__ == "ChunkedEncodecCodec"


@pytest.mark.parametrize("name", CODECS)
def test_rates(codecs, name):
    codec, (_, sampling_rate, channels, hop) = codecs[name], CODECS[name]
    assert (codec.sampling_rate, codec.channels, codec.hop_length) == (sampling_rate, channels, hop)
    assert codec.frame_rate == sampling_rate / hop


class TestThereAndBack:
    @pytest.mark.parametrize("hops", [0.3, 1, 3.01, 40.5])
    def test_audio_of_any_length(self, codec, hops):
        num_samples = max(round(hops * codec.hop_length), 1)
        codes = codec.encode(noise(codec, num_samples, batch_size=2))
        assert codes.shape == (2, math.ceil(num_samples / codec.hop_length), codec.num_codebooks)
        assert codes.dtype == torch.int64
        assert codes.min() >= 0
        assert codes.max() < codec.codebook_size
        assert codec.decode(codes, num_samples).shape == (2, codec.channels, num_samples)
        audio = codec.decode(codes)
        assert audio.shape == (2, codec.channels, codes.shape[1] * codec.hop_length)
        assert audio.isfinite().all()

    def test_fewer_codebooks_are_the_first_ones(self, codec):
        audio = noise(codec, 20 * codec.hop_length)
        codes = codec.encode(audio)
        assert len(codes.unique()) > 4
        assert torch.equal(codec.encode(audio, 2), codes[..., :2])
        assert (codec.decode(codes[..., :2]) != codec.decode(codes)).any()

    def test_what_it_cannot_encode(self, codec):
        with pytest.raises(ValueError, match="shape"):
            codec.encode(torch.zeros(1, 100))
        with pytest.raises(ValueError, match=f"has {codec.num_codebooks} codebooks"):
            codec.encode(noise(codec, 4 * codec.hop_length), codec.num_codebooks + 1)

    def test_mono_and_stereo(self, codecs):
        mono, stereo = codecs["encodec 24 kHz, tiny"], codecs["encodec 48 kHz"]
        audio = noise(stereo, 8000)
        assert torch.equal(mono.encode(audio), mono.encode(audio.mean(1, keepdim=True)))
        assert torch.equal(stereo.encode(audio[:, :1]), stereo.encode(audio[:, :1].expand(-1, 2, -1)))
        with pytest.raises(ValueError, match="has 2 channels; the audio has 3"):
            stereo.encode(torch.zeros(1, 3, 8000))


class TestPieces:
    def test_a_whole_decoding_is_transformers_own(self, codec):
        if is_chunked(codec):
            pytest.skip("its chunks are this package's: see TestChunks")
        codes = random_codes(codec, 2 * codec.frames_a_piece + 7)
        made, expected = codec.decode(codes), whole(codec, codes)
        difference = (made[..., : expected.shape[-1]] - expected).abs()
        if getattr(codec, "falls_short", False):  # the last frames are made with one more behind them
            assert 0 < made.shape[-1] - expected.shape[-1] < codec.hop_length
            difference = difference[..., : -(codec.lookahead + 1) * codec.hop_length]
        else:
            assert made.shape == expected.shape
        assert difference.max() < 1e-4 * expected.abs().max()

    @pytest.mark.parametrize("seed", range(3))
    def test_any_pieces_are_the_whole(self, codec, seed):
        num_frames = codec.frames_a_piece + codec.lookahead + 23
        codes = random_codes(codec, num_frames)
        sizes = torch.randint(1, max(num_frames // 3, 2), (num_frames,), generator=torch.Generator().manual_seed(seed))
        stream, made, first = codec.stream(), [], 0
        for size in sizes.tolist():
            stop = min(first + size, num_frames)
            made.append(stream.decode(codes[:, first:stop], last=stop == num_frames))
            if stop > codec.shortest_piece + codec.frames_a_piece:
                ready = sum(piece.shape[-1] for piece in made) // codec.hop_length
                assert ready >= stop - max(codec.lookahead, codec.frames_a_piece if is_chunked(codec) else 0) - 10
            first = stop
            if first == num_frames:
                break
        audio, expected = torch.cat(made, dim=-1), codec.decode(codes)
        assert audio.shape == expected.shape
        assert (audio - expected).abs().max() < 1e-4 * expected.abs().max()

    def test_a_stream_of_its_own_pieces_equals_the_whole_bit_for_bit(self, codec):
        num_frames = 3 * codec.frames_a_piece + codec.lookahead + 5
        codes, stream, made, first = random_codes(codec, num_frames, 1), codec.stream(), [], 0
        while first < num_frames:
            stop = first + codec.frames_a_piece + (0 if first else codec.lookahead)
            made.append(stream.decode(codes[:, first:stop], last=stop >= num_frames))
            first = stop
        assert [piece.shape[-1] for piece in made[:3]] == [codec.frames_a_piece * codec.hop_length] * 3
        assert torch.equal(torch.cat(made, dim=-1), codec.decode(codes))

    def test_the_past_matters_here(self, codec):
        """Without what is carried over the pieces would differ: the tests above can fail."""
        codes = random_codes(codec, 2 * codec.frames_a_piece)
        apart = torch.cat([codec.decode(part) for part in codes.split(codec.frames_a_piece, dim=1)], dim=-1)
        expected = codec.decode(codes)
        assert (apart - expected).abs().max() > 1e-2 * expected.abs().max()

    def test_memory_does_not_grow(self, codec):
        """What a stream holds after ten pieces is no more than after four."""
        held = []
        stream, codes = codec.stream(), random_codes(codec, 10 * codec.frames_a_piece + codec.lookahead, 1)
        first = 0
        for _ in range(10):
            stop = first + codec.frames_a_piece + (0 if first else codec.lookahead)
            stream.decode(codes[:, first:stop])
            first = stop
            held.append(sum(tensor.numel() for tensor in tensors_in(stream, set())))
        assert held[9] <= held[3]


def tensors_in(thing, seen):
    """Tensors that a stream holds, the codec's own weights left out."""
    if id(thing) in seen or isinstance(thing, Codec | torch.nn.Module | type):
        return
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, list | tuple):
        for each in thing:
            yield from tensors_in(each, seen)
    elif hasattr(thing, "__dict__"):
        for each in vars(thing).values():
            yield from tensors_in(each, seen)


class TestChunks:
    """EnCodec 48 kHz: chunks share frames, and all audio one level."""

    def test_no_click_between_chunks(self, codecs):
        codec = codecs["encodec 48 kHz"]
        step = codec.frames_a_piece
        codes = random_codes(codec, 3 * step, 1)
        audio = codec.decode(codes)
        jumps = audio.diff(dim=-1).abs()
        seams = [jumps[..., k * step * codec.hop_length - 1].max() for k in (1, 2)]
        assert max(seams) <= jumps.quantile(0.999)
        hard = torch.cat([codec.decode(codes[:, k * step : (k + 1) * step]) for k in range(3)], dim=-1)
        assert (hard - audio).abs().max() > 1e-3  # chunks side by side would not be this

    def test_a_chunk_is_transformers_own(self, codecs):
        codec = codecs["encodec 48 kHz"]
        codes = random_codes(codec, codec.chunk)
        with torch.no_grad():
            scale = torch.full((2, 1), codec.scale)
            expected = codec.model.decode(codes.transpose(1, 2)[None], [scale]).audio_values
        torch.testing.assert_close(codec.decode(codes), expected)

    def test_loudness_is_in_the_codes(self, codecs):
        """transformers divides each chunk by its level, so that loud and soft have one set of codes."""
        codec = codecs["encodec 48 kHz"]
        audio = noise(codec, codec.chunk * codec.hop_length)
        assert (codec.encode(audio) != codec.encode(audio * 0.1)).any()
        with torch.no_grad():
            theirs = [codec.model.encode(part, bandwidth=3.0).audio_codes for part in (audio, audio * 0.1)]
        assert (theirs[0] != theirs[1]).float().mean() < 0.05

    def test_shared_frames_are_of_the_chunk_in_whose_middle_they_are(self, codecs):
        codec = codecs["encodec 48 kHz"]
        audio = noise(codec, (codec.frames_a_piece + codec.chunk) * codec.hop_length)
        codes = codec.encode(audio)
        first = codec.encode(audio[..., : codec.chunk * codec.hop_length])
        second = codec.encode(audio[..., codec.frames_a_piece * codec.hop_length :])
        turn = codec.frames_a_piece + codec.overlap // 2
        assert torch.equal(codes[:, :turn], first[:, :turn])
        assert torch.equal(codes[:, turn:], second[:, codec.overlap // 2 :])


class TestFingerprints:
    def test_each_codec_has_its_own(self, codecs):
        found = [codec.fingerprint() for codec in codecs.values()]
        assert all(one.startswith("sha256:") for one in found)
        assert len(set(found)) >= len(found) - 2  # two DACs and two EnCodecs differ in their rates only

    def test_of_the_codebooks_asked_for(self, codec):
        first, rest = codec.fingerprint(0, 2), codec.fingerprint(2, 4)
        assert first != rest
        assert codec.fingerprint(0, 2) == first
        with pytest.raises(ValueError, match=f"{codec.num_codebooks} codebooks; asked for 3 to 99"):
            codec.fingerprint(3, 99)

    @pytest.mark.parametrize("make", [tiny_codec, dac, mimi])
    def test_another_seed_is_another_codebook(self, make):
        assert codec_fingerprint(make(0), 0, 2) == codec_fingerprint(make(0), 0, 2)
        assert codec_fingerprint(make(0), 0, 2) != codec_fingerprint(make(1), 0, 2)

    def test_a_rounded_codec_has_none(self):
        assert codec_fingerprint(tiny_codec().half(), 0, 2) is None


def test_bandwidth_is_the_smallest_that_has_the_codebooks():
    codec = as_codec(encodec())  # 24 kHz: 1.5, 3, 6, 12, 24 kbit/s
    assert [codec.bandwidth(n) for n in (1, 2, 3, 8, 9)] == [1.5, 1.5, 3.0, 6.0, 12.0]
    with pytest.raises(ValueError, match="33 codebooks"):
        codec.bandwidth(33)


class TestChoosing:
    def test_an_adapter_is_its_own(self, codec):
        assert as_codec(codec) is codec

    def test_an_unknown_codec_is_refused(self):
        with pytest.raises(ValueError, match=r"type None; there are encodec, dac, mimi.*register_codec"):
            as_codec(torch.nn.Linear(1, 1))

    def test_another_codec_plugs_in(self, monkeypatch):
        from open_musiclm.tokenizers import codec as module

        monkeypatch.setattr(module, "ADAPTERS", dict(module.ADAPTERS))
        model = dac()
        model.config.model_type = "dac_of_my_own"
        with pytest.raises(ValueError, match="dac_of_my_own"):
            as_codec(model)
        register_codec("dac_of_my_own", type(as_codec(dac())))
        assert as_codec(model).fingerprint() == as_codec(dac()).fingerprint()


class TestReach:
    def test_by_trying(self):
        """A change of one input reaches as far as the arithmetic says, which rounds up to whole frames."""
        torch.manual_seed(0)
        layers = torch.nn.Sequential(
            torch.nn.Conv1d(1, 4, 5, padding=2),
            torch.nn.ConvTranspose1d(4, 4, 6, stride=3, padding=2),
            torch.nn.Conv1d(4, 1, 3, dilation=2, padding=2),
        )
        before, after = reach([Convolution(2, 2), Upsampling(6, 3, 2), Convolution(2, 2)])
        inputs = torch.randn(1, 1, 40)
        changed = inputs.clone()
        changed[..., 20] += 1
        with torch.no_grad():
            outputs = (layers(changed) != layers(inputs))[0, 0].nonzero()[:, 0]
        # the frame 20 counts in outputs from (20 - after) to (20 + before), in frames of three outputs
        assert outputs.min() // 3 == 20 - after
        assert 20 + before - 1 <= outputs.max() // 3 <= 20 + before

    def test_nothing_is_given_away_too_early(self):
        layers = LayersInPieces(torch.nn.Conv1d(1, 1, 5, padding=2), 2, 2)
        assert layers.push(None) is None
        assert layers.push(torch.zeros(1, 1, 3)) is None
        assert layers.push(torch.zeros(1, 1, 3)).shape[-1] == 4
        assert layers.push(torch.zeros(1, 1, 0)) is None
        assert layers.push(None, last=True).shape[-1] == 2
