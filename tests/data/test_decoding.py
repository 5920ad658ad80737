import os
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from music import notes

from open_musiclm.audio import SkippedFile
from open_musiclm.audio.reading import read_recording
from open_musiclm.data.decoding import decode, decode_ahead
from open_musiclm.data.discovery import AudioFile


def reason_of(path, **kwargs):
    with pytest.raises(SkippedFile) as error:
        decode(path, [8000], **{"min_length_in_s": 1.0, **kwargs})
    assert error.value.detail
    return error.value.reason


def test_every_way_to_be_unusable_has_its_reason(tmp_path):
    audio = notes(0, 2, 8000)
    (tmp_path / "empty.wav").write_bytes(b"")
    soundfile.write(tmp_path / "no-samples.wav", audio[:0], 8000)
    (tmp_path / "garbage.mp3").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "text.flac").write_text("this is not music")
    soundfile.write(tmp_path / "short.wav", audio[:7999], 8000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 8000)
    soundfile.write(tmp_path / "nan.wav", np.where(np.arange(16000) == 9, np.nan, audio), 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "inf.wav", np.where(np.arange(16000) == 9, np.inf, audio), 8000, subtype="FLOAT")
    (tmp_path / "folder.wav").mkdir()
    reasons = {path.name: reason_of(path) for path in tmp_path.iterdir()}
    reasons["gone.wav"] = reason_of(tmp_path / "gone.wav")
    reasons["too long"] = reason_of(tmp_path / f"{'x' * 300}.wav")  # the file system itself refuses
    assert reasons == {
        "empty.wav": "empty",
        "no-samples.wav": "empty",
        "garbage.mp3": "unreadable",
        "text.flac": "unreadable",
        "short.wav": "too short",
        "silent.wav": "silent",
        "nan.wav": "not finite",
        "inf.wav": "not finite",
        "folder.wav": "unreadable",
        "gone.wav": "missing",
        "too long": "unreadable",
    }


@pytest.mark.parametrize("ending", ["flac", "ogg", "mp3"])
def test_damage_in_the_middle_is_found(tmp_path, ending):
    """Ogg is decoded around the hole, so that everything after it would come too early."""
    path = tmp_path / f"a.{ending}"
    soundfile.write(path, notes(0, 20, 44100), 44100)
    whole = path.read_bytes()
    assert decode(path, [8000], 1.0).duration_in_s == pytest.approx(20, abs=0.1)
    half = len(whole) // 2
    noise = np.random.default_rng(0).integers(256, size=20_000, dtype=np.uint8).tobytes()
    path.write_bytes(whole[:half] + noise + whole[half + len(noise) :])
    assert reason_of(path) == "incomplete"


def test_names_need_not_be_unicode(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    soundfile.write(os.fsencode(path), notes(0, 2, 8000), 8000)
    assert decode(path, [8000], 1.0).duration_in_s == 2.0
    path.write_bytes(b"no music")
    with pytest.raises(SkippedFile, match="unreadable") as error:
        decode(path, [8000], 1.0)
    error.value.detail.encode()  # can be printed and written


def test_memory_is_that_of_one_channel(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros((200_000, 256), dtype=np.int16), 8000)  # 205 MB as float32, 0.8 MB as one channel
    tracemalloc.start()
    read_recording(path)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_channels_are_averaged_and_every_rate_is_given(tmp_path):
    left, right = notes(0, 2, 8000), notes(1, 2, 8000)
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([left, right, left], axis=1), 8000, subtype="FLOAT")
    audio = decode(path, [8000, 16000], min_length_in_s=1.0)
    assert audio.duration_in_s == 2.0
    np.testing.assert_allclose(audio.waveforms[8000], (2 * left + right) / 3, atol=1e-6)
    assert audio.waveforms[16000].shape == (32000,)


def test_files_come_in_order_and_only_a_few_are_held(tmp_path):
    files = []
    for index in range(8):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, notes(index, 1 + index % 3, 8000), 8000)
        files.append(AudioFile(path, path.name))
    started = []

    def listed():
        for file in files:
            started.append(file.name)
            yield file

    before = threading.active_count()
    seen = []
    for file, audio in decode_ahead(listed(), [8000], 1.0, num_threads=2):
        assert len(started) - len(seen) <= 3
        seen.append(file.name)
        assert audio.duration_in_s == 1 + int(file.name[0]) % 3
    assert seen == [file.name for file in files]
    assert threading.active_count() == before


def test_what_would_make_wrong_tokens_is_left_out(tmp_path):
    audio = notes(0, 2, 8000)
    click = np.zeros(80_000)
    click[40_000] = 0.9
    soundfile.write(tmp_path / "click.wav", click, 8000)
    soundfile.write(tmp_path / "constant.wav", np.full(80_000, 0.05), 8000)
    soundfile.write(tmp_path / "opposite.wav", np.stack([audio, -audio], axis=1), 8000)
    soundfile.write(tmp_path / "huge.wav", audio * 1e38, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "integers.wav", audio * 32767, 8000, subtype="FLOAT")
    (tmp_path / "page.mp3").write_text("<!DOCTYPE html>\n<html><body>404</body></html>")
    assert {path.name: reason_of(path) for path in tmp_path.iterdir()} == {
        "click.wav": "silent",
        "constant.wav": "silent",
        "opposite.wav": "channels cancel",
        "huge.wav": "too loud",
        "integers.wav": "too loud",
        "page.mp3": "unreadable",
    }
    with pytest.raises(SkippedFile, match=r"page\.mp3.*web page"):
        decode(tmp_path / "page.mp3", [8000], 1.0)


def test_quiet_music_is_no_silence_and_the_limit_can_be_set(tmp_path):
    audio = notes(0, 2, 8000)
    soundfile.write(tmp_path / "quiet.wav", audio / np.abs(audio).max() * 10 ** (-65 / 20), 8000, subtype="PCM_24")
    assert decode(tmp_path / "quiet.wav", [8000], 1.0).duration_in_s == 2.0
    assert reason_of(tmp_path / "quiet.wav", silence_in_db=-60.0) == "silent"


def test_an_offset_is_taken_out(tmp_path):
    audio = notes(0, 2, 8000)
    soundfile.write(tmp_path / "plain.wav", audio, 8000, subtype="FLOAT")
    soundfile.write(tmp_path / "offset.wav", audio + 0.05, 8000, subtype="FLOAT")
    plain, moved = (decode(tmp_path / f"{name}.wav", [8000], 1.0).waveforms[8000] for name in ("plain", "offset"))
    assert np.abs(plain - moved).max() < 1e-3
    np.testing.assert_array_equal(plain, audio)


def test_a_sample_too_few_is_said_to_be_too_few(tmp_path):
    soundfile.write(tmp_path / "a.wav", notes(0, 2, 48000)[:-1], 48000)
    with pytest.raises(SkippedFile, match=r"1\.9999792 s, at least 2 s") as error:
        decode(tmp_path / "a.wav", [8000], 2.0)
    assert error.value.reason == "too short"


def test_long_files_are_not_all_decoded_ahead(tmp_path):
    """Only the file at hand, the next one, and some seconds of what follows are held."""
    files = []
    for index in range(5):
        path = tmp_path / f"{index}.wav"
        soundfile.write(path, notes(index, 30, 8000), 8000)
        files.append(AudioFile(path, path.name))
    held: list[float] = []
    seen = []
    tracemalloc.start()
    for file, audio in decode_ahead(files, [8000], 1.0, num_threads=4, max_ahead_in_s=5.0):
        threading.Event().wait(0.2)  # the threads have all the time there is
        held.append(tracemalloc.get_traced_memory()[0])
        seen.append((file.name, audio.duration_in_s))
    tracemalloc.stop()
    assert seen == [(f"{index}.wav", 30.0) for index in range(5)]
    assert max(held) < 3 * 30 * 8000 * 4


def test_a_listed_file_that_is_not_there_says_why(tmp_path):
    file = AudioFile(tmp_path / "a.wav", "a.wav", problem="row 3 of metadata.csv names it")
    ((_, skipped),) = decode_ahead([file], [8000], 1.0)
    assert (skipped.reason, skipped.detail) == ("missing", "row 3 of metadata.csv names it")
