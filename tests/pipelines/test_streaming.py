"""A stream is the whole call, piece by piece."""

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline
from transformers import EncodecConfig, EncodecModel

from open_musiclm import MusicLMPipeline


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def joined(stream):
    return np.concatenate(list(stream), axis=-1)


class TestTheWholeCall:
    @pytest.mark.parametrize("length", [0.3, 1.0, 2.35, 7.0, 9.61])
    def test_same_audio(self, pipe, length):
        stream = pipe.stream("a calm piano", length, generator=seeded(4))
        pieces = list(stream)
        whole = pipe("a calm piano", length, generator=seeded(4)).audios
        audio = np.concatenate(pieces, axis=-1)
        assert audio.shape == whole.shape
        assert (audio == whole).all()
        assert len(pieces) == -(-length // 1)

    def test_same_audio_of_a_batch(self, pipe):
        arguments = {"audio_length_in_s": 4.2, "num_waveforms_per_prompt": 2, "coarse_settings": {"temperature": 0.7}}
        audio = joined(pipe.stream(["a", "b"], generator=[seeded(i) for i in range(4)], **arguments))
        whole = pipe(["a", "b"], generator=[seeded(i) for i in range(4)], **arguments).audios
        np.testing.assert_allclose(audio, whole, atol=1e-6)
        assert len({row.tobytes() for row in audio}) == 4

    def test_without_end(self, pipe):
        """Until its last windows a finite piece is the beginning of the endless one."""
        stream = pipe.stream("a", None, generator=seeded(1))
        audio = np.concatenate([next(stream) for _ in range(9)], axis=-1)
        assert audio.shape == (1, 1, 9 * pipe.sampling_rate)
        whole = pipe("a", 10.0, generator=seeded(1)).audios
        assert (audio == whole[..., : audio.shape[-1]]).all()
        assert np.abs(audio[..., -8000:]).max() > 0

    def test_tensors(self, pipe):
        piece = next(pipe.stream("a", 1.0, output_type="pt"))
        assert isinstance(piece, torch.Tensor)
        assert piece.dtype == torch.float32


class TestAShortFirstWindow:
    def test_the_first_audio_needs_less_of_every_stage(self, pipe):
        made = []
        for settings in ({}, {"first_window_in_s": 1.0}):
            stream = pipe.stream("a", 5.0, generator=seeded(), **settings)
            pieces = [next(stream)]
            made.append({stage: piece.num_frames for stage, piece in stream._pieces.items()})
            pieces += list(stream)
            assert np.concatenate(pieces, axis=-1).shape == (1, 1, 5 * pipe.sampling_rate)
        assert all(made[1][stage] <= made[0][stage] for stage in made[0])
        assert sum(made[1].values()) < sum(made[0].values())

    def test_a_length_that_is_none_is_refused(self, pipe):
        with pytest.raises(ValueError, match="number of seconds above 0"):
            pipe.stream("a", 5.0, first_window_in_s=0)


class TestOverlap:
    def test_a_stage_runs_no_further_ahead_than_needed(self, pipe):
        made = {}
        stream = pipe.stream("a", 20.0, generator=seeded())
        next(stream)
        for name in ("semantic", "coarse", "fine"):
            piece = stream._pieces[f"{name}_model"]
            made[name] = piece.num_frames / piece.stream.frame_rate
        # a fine window is 1 s, the coarse frames are its own, a coarse window needs 2 s of semantic tokens
        assert made == {"fine": 1.0, "coarse": 1.0, "semantic": pytest.approx(2.0, abs=0.05)}

    def test_time_to_first_audio(self, pipe):
        stream = pipe.stream("a", 3.0)
        assert stream.time_to_first_audio_in_s is None
        next(stream)
        first = stream.time_to_first_audio_in_s
        assert 0 < first < 60
        next(stream)
        assert stream.time_to_first_audio_in_s == first
        assert stream.sampling_rate == pipe.sampling_rate


class TestPrompt:
    def test_a_constant_function_is_a_constant(self, pipe):
        whole = pipe("a calm piano", 9.0, generator=seeded()).audios
        assert (joined(pipe.stream(lambda time: "a calm piano", 9.0, generator=seeded())) == whole).all()

    def test_a_function_is_asked_for_the_new_part_of_each_window(self, pipe):
        times = []

        def prompt(time):
            times.append(time)
            return "slow drums" if time < 6 else "fast guitar"

        audio = joined(pipe.stream(prompt, 10.0, generator=seeded()))
        # asked for the batch size, then for windows of 4 s that advance by 2 s; 25 Hz, one edge frame
        assert times[0] == 0.0
        assert times[1:] == [0.0, *(pytest.approx(time, abs=0.05) for time in (4.0, 6.0, 8.0))]
        before = joined(pipe.stream("slow drums", 10.0, generator=seeded()))
        turn = 6 * pipe.sampling_rate - 400
        assert (audio[..., : 5 * pipe.sampling_rate] == before[..., : 5 * pipe.sampling_rate]).all()
        assert (audio[..., turn:] != before[..., turn:]).any()

    def test_a_prompt_may_change_on_the_way(self, pipe):
        stream = pipe.stream("slow drums", 12.0, generator=seeded())
        pieces = [next(stream) for _ in range(2)]
        stream.prompt = "fast guitar"
        assert stream.prompt == "fast guitar"
        audio = np.concatenate([*pieces, *stream], axis=-1)
        before = pipe("slow drums", 12.0, generator=seeded()).audios
        assert audio.shape == before.shape
        assert (audio[..., :24000] == before[..., :24000]).all()
        assert (audio != before).any()
        # the old prompt is heard to the end of the window under way (4 s), and no longer
        first_change = int((audio != before)[0, 0].argmax()) / pipe.sampling_rate
        assert 2.0 <= first_change < 6.0

    def test_another_number_of_prompts_is_refused(self, pipe):
        stream = pipe.stream("a", 3.0)
        with pytest.raises(ValueError, match="1 waveforms"):
            stream.prompt = ["a", "b"]
        with pytest.raises(ValueError, match="says something"):
            stream.prompt = " "
        changing = pipe.stream(lambda time: "a" if time < 1 else ["a", "b"], 9.0)
        with pytest.raises(ValueError, match="from 1 waveforms to 2"):
            list(changing)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": ""}, "says something"),
        ({"audio_length_in_s": 0}, "audio_length_in_s"),
        ({"num_waveforms_per_prompt": 0}, "num_waveforms_per_prompt"),
        ({"output_type": "mp3"}, "output_type"),
    ],
)
def test_bad_input_is_refused_at_once(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe.stream(**{"prompt": "a", **arguments})


@pytest.mark.parametrize("length", [0.3, 2.35])
def test_a_codec_that_looks_ahead_streams_too(length):
    """A piece is final when as many frames behind it are known as the codec looks ahead."""
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    config = EncodecConfig(**{**pipe.codec.config.to_dict(), "use_causal_conv": False})
    codec = EncodecModel(config).eval()
    codec.quantizer.load_state_dict(pipe.codec.quantizer.state_dict())
    other = MusicLMPipeline(**{**pipe.components, "codec": codec})
    other.set_progress_bar_config(disable=True)
    pieces = list(other.stream("a", length, generator=seeded()))
    audio = np.concatenate(pieces, axis=-1)
    assert (audio == other("a", length, generator=seeded()).audios).all()
    assert audio.shape[-1] == round(length * other.sampling_rate)
    assert len(pieces) == -(-length // 1)
