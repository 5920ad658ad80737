import json

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from open_musiclm.audio import read_audio, read_metadata, resample, write_audio


@pytest.mark.parametrize("ending", ["wav", "flac"])
@pytest.mark.parametrize("channels", [1, 2])
def test_write_and_read(tmp_path, ending, channels):
    audio = np.random.default_rng(0).uniform(-1, 1, (channels, 4000)).astype(np.float32)
    path = tmp_path / f"a.{ending}"
    metadata = {"prompt": 'naïve "piano" ♪', "seed": 3}
    write_audio(path, audio, 24_000, metadata)
    again, rate = read_audio(path, mono=False)
    assert rate == 24_000
    np.testing.assert_allclose(again, audio, atol=1 / 32_000)
    assert read_metadata(path) == metadata
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_clipping_does_not_wrap_around(tmp_path):
    write_audio(tmp_path / "a.wav", np.array([2.0, -2.0, 0.5]), 8000)
    audio, _ = read_audio(tmp_path / "a.wav")
    np.testing.assert_allclose(audio[0], [1.0, -1.0, 0.5], atol=1e-4)


def test_other_formats_are_read_and_mixed_down(tmp_path):
    audio = np.stack([np.full(4800, 0.5), np.full(4800, -0.1)], axis=1)
    for name in ("a.ogg", "a.mp3"):
        soundfile.write(tmp_path / name, audio, 48_000)
        read, rate = read_audio(tmp_path / name, sampling_rate=16_000)
        assert rate == 16_000
        assert read.shape[0] == 1
        assert abs(read[0, 400:1200].mean() - 0.2) < 0.02


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([8000, 16_000, 24_000, 44_100, 48_000]), st.sampled_from([8000, 16_000, 24_000, 48_000]))
def test_resampling_keeps_the_tone(before, after):
    time = np.arange(before) / before
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)[None]
    out = resample(tone, before, after)
    assert out.shape[0] == 1
    assert abs(out.shape[1] - after) <= 1
    assert out.dtype == np.float32
    assert np.abs(np.fft.rfft(out[0, :after])).argmax() == 440


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "missing"), (b"", "no bytes"), (b"RIFF not really", "text"), (b"RIFF\0\0\0\0WAVE", "No 'data' chunk")],
)
def test_what_is_not_audio_is_named(tmp_path, content, message):
    path = tmp_path / "broken.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_audio(path)
    assert "broken.wav" in str(error.value)


def test_empty_and_nan_audio_is_refused(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
    with pytest.raises(ValueError, match="no samples"):
        read_audio(tmp_path / "empty.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 8000, subtype="FLOAT")
    with pytest.raises(ValueError, match="not finite"):
        read_audio(tmp_path / "nan.wav")


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"\.wav or \.flac"):
        write_audio(tmp_path / "a.mp3", np.zeros(8), 8000)
    with pytest.raises(TypeError):
        write_audio(tmp_path / "a.wav", np.zeros(8), 8000, {"x": object()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["wav", "flac"])
@pytest.mark.parametrize("length", [0, 1, 2, 999, 4_000, 8_193, 200_000])
def test_metadata_of_any_length_is_kept(tmp_path, ending, length):
    metadata = {"prompt": "ü" * length, "seed": 7, "software": "open-musiclm test"}
    audio = np.linspace(-0.5, 0.5, 801, dtype=np.float32)[None].repeat(2, axis=0)
    path = tmp_path / f"song.{ending}"
    write_audio(path, audio, 8000, metadata)
    assert read_metadata(path) == metadata
    found, rate = read_audio(path, mono=False)  # which reads a file whole or refuses it
    assert rate == 8000
    np.testing.assert_allclose(found, audio, atol=1e-4)
    # players that know nothing of it read the samples, and short texts as ever
    samples, _ = soundfile.read(path)
    assert samples.shape == (801, 2)
    if length < 10:
        assert soundfile.SoundFile(path).comment == json.dumps(metadata, ensure_ascii=False)


def test_texts_that_libsndfile_wrote_are_read(tmp_path):
    with soundfile.SoundFile(tmp_path / "a.wav", "w", 8000, 1) as file:
        file.comment = '{"prompt": "a"}'
        file.write(np.zeros(9))
    assert read_metadata(tmp_path / "a.wav") == {"prompt": "a"}
    for comment in ("5", "[" * 1500, "9" * 1500, "null"):  # by other programs
        with soundfile.SoundFile(tmp_path / "c.wav", "w", 8000, 1) as file:
            file.comment = comment
            file.write(np.zeros(9))
        assert read_metadata(tmp_path / "c.wav") == {"comment": comment}
    soundfile.write(tmp_path / "b.wav", np.zeros(9), 8000)
    assert read_metadata(tmp_path / "b.wav") == {}
