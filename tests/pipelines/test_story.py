"""Stories, mixtures and seams: what is read is what was meant, and a joint is no louder than the rest."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_clap

from open_musiclm.audio import write_audio
from open_musiclm.pipelines.mixtures import Mixture, Recording, mixture_embedding, parse_mixture, recording_embedding
from open_musiclm.pipelines.seams import (
    burg,
    even_level,
    extrapolate,
    join_after,
    join_before,
    match_level,
    seam_measure,
    usual_change,
)
from open_musiclm.pipelines.story import Story, clock, is_story, make_story, parse_story, read_story
from open_musiclm.tokenizers.clap import clap_audio_embeddings, clap_text_embeddings

RATE = 24_000


# ------------------------------------------------------------------- story


@pytest.mark.parametrize(
    ("text", "starts", "texts"),
    [
        ("0:00 calm piano | 0:15 add drums", (0, 15), ("calm piano", "add drums")),
        ("0 a|1.5 b | 1:02:03 c", (0, 1.5, 3723), ("a", "b", "c")),
        ("# comment\n0:00 calm\n\n1:00 4 on the floor\n", (0, 60), ("calm", "4 on the floor")),
        ("0:00 only one part", (0,), ("only one part",)),
        ("0s soft | 10s loud", (0, 10), ("soft", "loud")),
    ],
)
def test_a_story_is_read(text, starts, texts):
    story = parse_story(text)
    assert story is not None
    assert story.starts == starts
    assert story.texts == texts


@pytest.mark.parametrize("text", ["calm piano", "80s synth pop", "4 on the floor", "a | b", "120 bpm drums"])
def test_a_prompt_is_no_story(text):
    assert parse_story(text) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0:00 a | drums", "begins with its time"),
        ("0:00 a | 0:00 b", "must rise: 0:00 comes after 0:00"),
        ("0:10 a | 0:20 b", "begins at 0:00"),
        ("0:00 a | 0:30 b | 0:15 c", "0:15 comes after 0:30"),
    ],
)
def test_a_story_out_of_order_is_refused(text, says):
    with pytest.raises(ValueError, match=says):
        parse_story(text)


def test_a_story_from_a_file(tmp_path):
    (tmp_path / "story.txt").write_text("\ufeff0:00 calm\n0:30 wild\n", encoding="utf-8")
    assert read_story(tmp_path / "story.txt").starts == (0, 30)
    (tmp_path / "prompt.txt").write_text("calm piano", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no story"):
        read_story(tmp_path / "prompt.txt")


def test_what_is_a_story():
    assert is_story([(0, "a"), (5, "b")])
    assert not is_story(["a", "b"])
    assert not is_story("0:00 a")
    with pytest.raises(ValueError, match="number of seconds"):
        make_story([("0", "a")])


@given(st.floats(0, 60), st.floats(0, 10))
def test_weights_move_from_one_text_to_the_next_and_are_one_in_all(moment, transition):
    story = Story((0.0, 20.0, 40.0), ("a", "b", "c"), transition)
    weights = story.weights_at(moment)
    assert sum(weights) == pytest.approx(1.0)
    assert min(weights) >= 0
    if all(abs(moment - start) > transition / 2 for start in (20, 40)):
        assert weights[story.part_at(moment)] == 1.0


def test_half_way_through_a_transition_both_texts_hold():
    assert Story((0.0, 20.0), ("a", "b"), 4.0).weights_at(20.0) == (0.5, 0.5)
    with pytest.raises(ValueError, match="does not fit"):
        Story((0.0, 2.0), ("a", "b"), 4.0)


def test_clock():
    assert [clock(t) for t in (0, 15, 75, 3600, 1.5)] == ["0:00", "0:15", "1:15", "60:00", "0:01.5"]


# ---------------------------------------------------------------- mixtures


@pytest.fixture(scope="module")
def clap():
    return tiny_clap()


def noise(seconds, rate=8000, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate)).astype(np.float32)


def test_a_mixture_is_read(tmp_path):
    write_audio(tmp_path / "file.wav", noise(1.0)[None], 8000)
    mixture = parse_mixture(f"0.7 * warm strings + 0.3 * {tmp_path / 'file.wav'} - 0.5*hi-hats + 909")
    assert mixture.weights == (0.7, 0.3, -0.5)
    assert mixture.parts[0] == "warm strings"
    assert isinstance(mixture.parts[1], Recording)
    assert mixture.parts[2] == "hi-hats + 909"
    assert parse_mixture("drums + bass") is None
    assert parse_mixture("-1 * drums").weights == (-1.0,)
    with pytest.raises(ValueError, match="other than 0"):
        parse_mixture("0 * drums")


def test_a_mixture_is_the_weighted_direction(clap):
    a, b = clap_text_embeddings(*clap, ["calm piano", "fast drums"]).float()
    expected = torch.nn.functional.normalize(0.7 * a - 0.3 * b, dim=-1)
    mixed = mixture_embedding(*clap, Mixture(("calm piano", "fast drums"), (0.7, -0.3)))
    torch.testing.assert_close(mixed[0], expected)
    torch.testing.assert_close(mixture_embedding(*clap, Mixture(("calm piano",), (3.0,)))[0], a)
    with pytest.raises(ValueError, match="cancel"):
        mixture_embedding(*clap, Mixture(("calm piano", "calm piano"), (1.0, -1.0)))


def test_a_recording_is_the_mean_of_its_windows_a_second_apart(clap):
    rate, size = clap[1].feature_extractor.sampling_rate, clap[1].feature_extractor.nb_max_samples
    audio = noise(12.4, rate)
    windows = np.stack([audio[start : start + size] for start in (0, rate, 2 * rate)])
    mean = clap_audio_embeddings(*clap, windows).float().mean(dim=0)
    embedding = recording_embedding(*clap, Recording(audio, rate))
    torch.testing.assert_close(embedding[0], torch.nn.functional.normalize(mean, dim=-1), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("audio", "says"), [(np.zeros((1, 100)), "silent"), (np.zeros(0), "samples"), (np.array([np.nan]), "finite")]
)
def test_a_recording_that_says_nothing_is_refused(audio, says):
    with pytest.raises(ValueError, match=says):
        Recording(audio, 8000)


# ------------------------------------------------------------------- seams


def music(seconds, seed=0):
    time = np.arange(round(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * f * time + p) * a for f, p, a in [(220, 0, 0.2), (331, 1, 0.1), (554, 2, 0.05)])
    return (wave + np.random.default_rng(seed).normal(0, 0.002, len(time)))[None]


def test_burg_finds_the_recursion_of_a_sine():
    frequency = 0.1
    coefficients = burg(np.sin(2 * np.pi * frequency * np.arange(400)), 2)
    np.testing.assert_allclose(coefficients, [2 * np.cos(2 * np.pi * frequency), -1.0], atol=2e-3)


def test_a_sum_of_sines_goes_on_as_it_was():
    wave = music(1.0)[0]
    predicted = extrapolate(wave[:12_000], 480, 288)
    error = np.sqrt(np.mean((predicted - wave[12_000:12_480]) ** 2)) / np.sqrt(np.mean(wave**2))
    assert error < 0.2


def test_a_joint_to_another_version_of_the_signal_does_not_click():
    wave, joint = music(4.0), 2 * RATE
    other = np.roll(music(4.0, seed=1), 37, axis=1)  # another phase, as a codec gives
    cut = np.concatenate([wave[:, :joint], other[:, joint:]], axis=1)
    joined = np.concatenate([wave[:, :joint], join_after(wave[:, :joint], other[:, joint:], RATE)], axis=1)
    assert np.array_equal(joined[:, :joint], wave[:, :joint])
    assert seam_measure(joined[0], joint, RATE)["click"] < 1.5 < 3 < seam_measure(cut[0], joint, RATE)["click"]
    assert np.array_equal(joined[:, joint + RATE // 10 :], other[:, joint + RATE // 10 :])


def test_the_joint_before_a_recording_is_the_same_with_time_turned_round():
    wave, joint = music(2.0), RATE
    other = np.roll(wave, 37, axis=1)
    before = join_before(other[:, :joint], wave[:, joint:], RATE)
    joined = np.concatenate([before, wave[:, joint:]], axis=1)
    assert joined.shape == wave.shape
    assert seam_measure(joined[0], joint, RATE)["click"] < 1.5


def test_level_and_spectrum_at_a_joint_are_told_from_a_change():
    wave = music(4.0)
    steady = seam_measure(wave[0], 2 * RATE, RATE)
    changed = wave.copy()
    changed[:, 2 * RATE :] *= 0.2
    broken = seam_measure(changed[0], 2 * RATE, RATE)
    assert steady["level_in_db"] < 0.5
    assert broken["level_in_db"] == pytest.approx(14.0, abs=0.5)
    assert broken["level_elsewhere_in_db"] < 0.5
    assert match_level(wave * 0.8, wave) == pytest.approx(1.25)
    assert match_level(wave * 0.1, wave) == pytest.approx(10**0.3)
    assert match_level(np.zeros_like(wave), wave) == 1.0


@pytest.mark.parametrize("gain_in_db", [-30.0, -10.0, -2.0, 0.0, 8.0])
def test_a_jump_of_the_level_is_spread_over_two_seconds(gain_in_db):
    rate = 8000
    wave = 0.1 * np.sin(2 * np.pi * 330 * np.arange(4 * rate) / rate)[None].astype(np.float32)
    made = wave * np.float32(10 ** (gain_in_db / 20))
    even = even_level(wave, made, rate)
    assert np.array_equal(even[:, 2 * rate :], made[:, 2 * rate :])
    left = 20 * np.log10(np.std(even[:, : rate // 2]) / np.std(wave))
    assert abs(left) == pytest.approx(max(abs(gain_in_db) - 12, 0), abs=1.0)  # a held tone has no changes of its own
    changes = np.diff(20 * np.log10(np.array([np.std(even[0, i : i + 800]) for i in range(0, 4 * rate, 800)])))
    assert np.abs(changes).max() < 1.2


def test_a_jump_that_the_recording_makes_itself_is_left_as_it_is():
    """Half a second at full level, half a second 2 dB below: a jump of 1.5 dB is nothing new, one of 8 dB is."""
    rate = 8000
    seconds = np.arange(8 * rate) / rate
    gains = np.where(seconds % 1 < 0.5, 1.0, 10 ** (-2 / 20))
    wave = (0.1 * gains * np.sin(2 * np.pi * 330 * seconds))[None].astype(np.float32)
    steady = wave[:, : rate // 2].repeat(4, axis=0).reshape(1, -1)
    low = np.std(wave[:, -rate // 2 :]) / np.std(steady)
    near, far = (steady * np.float32(low * 10 ** (jump / 20)) for jump in (1.0, -8.0))
    assert usual_change(wave, rate // 2) == pytest.approx(2.0, abs=1.1)
    assert np.array_equal(even_level(wave, near, rate), near)
    assert not np.array_equal(even_level(wave, far, rate)[:, :rate], far[:, :rate])
    assert usual_change(wave[:, :rate], rate // 2) == 3.0  # too short to tell


def test_silence_on_either_side_of_a_joint_is_left_as_it_is():
    wave, silence = np.full((1, 8000), 0.1, np.float32), np.zeros((1, 8000), np.float32)
    assert np.array_equal(even_level(silence, wave, 8000), wave)
    assert np.array_equal(even_level(wave, silence, 8000), silence)
    assert even_level(silence[:, :0], wave, 8000) is wave


def test_short_and_silent_pieces_are_joined_too():
    assert join_after(np.zeros((1, 0)), np.ones((1, 10)), RATE).shape == (1, 10)
    joined = join_after(np.zeros((2, 5000)), np.ones((2, 5000)) * 0.1, RATE)
    assert np.isfinite(joined).all()
    assert abs(joined[0, 0]) < 0.01
