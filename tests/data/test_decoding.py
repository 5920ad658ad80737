import threading

import numpy as np
import pytest
import soundfile
from music import notes

from open_musiclm.data.decoding import SkippedFile, decode, decode_ahead
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
    assert reasons == {
        "empty.wav": "empty",
        "no-samples.wav": "empty",
        "garbage.mp3": "unreadable",
        "text.flac": "unreadable",
        "short.wav": "too short",
        "silent.wav": "silent",
        "nan.wav": "not finite",
        "inf.wav": "not finite",
        "folder.wav": "missing",
        "gone.wav": "missing",
    }


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
