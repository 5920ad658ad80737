"""From a folder of mixed files to music of one's own: three commands."""

import json

import numpy as np
import pytest
import soundfile
from music import write_music

from open_musiclm.audio import read_audio
from open_musiclm.cli import main


@pytest.mark.slow
def test_forty_files_four_broken_three_commands(pipeline_folder, tmp_path, capsys):
    music = tmp_path / "music"
    endings, rates = ("wav", "flac", "mp3", "ogg"), (8000, 22050, 44100, 48000)
    for index in range(36):
        name = f"{'album/' * (index % 3)}{index:02d}.{endings[index % 4]}"
        write_music(music, {name: 3.0 + index % 9}, rate=rates[index // 9], channels=1 + index % 2)
    (music / "garbage.mp3").write_bytes(b"not music at all" * 99)
    (music / "empty.wav").write_bytes(b"")
    soundfile.write(music / "silent.flac", np.zeros(99_999), 22050)
    soundfile.write(music / "nan.wav", np.full(99_999, np.nan), 22050, subtype="FLOAT")
    tokens, tuned, song = tmp_path / "tokens", tmp_path / "tuned", tmp_path / "song.wav"

    assert main(["tokenize", str(music), "--model", str(pipeline_folder), "--output", str(tokens)]) == 0
    train = ["train", "--stage", "semantic", "--tokens", str(tokens), "--from", str(pipeline_folder)]
    assert main([*train, "--output", str(tuned), "--steps", "20", "--accumulate", "1", "--device", "cpu"]) == 0
    assert main(["generate", "a calm piano", "--model", str(tuned), "--duration", "3", "--output", str(song)]) == 0

    report = json.loads((tokens / "report.json").read_text())
    assert report["num_tokenized"] == 36
    assert {row["path"]: row["reason"] for row in report["skipped"]} == {
        "garbage.mp3": "unreadable",
        "empty.wav": "empty",
        "silent.flac": "silent",
        "nan.wav": "not finite",
    }
    assert all(f"left out {row['path']}: {row['reason']}" in capsys.readouterr().out for row in report["skipped"][:1])
    audio, rate = read_audio(song)
    assert audio.shape == (1, 3 * rate)
