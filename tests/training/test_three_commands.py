"""From a folder of mixed files to music of one's own: three commands, on the model in the box."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from music import write_music

from open_musiclm.audio import read_audio


def write_mixed_music(music):
    """36 files of four formats and four rates, mono and stereo, in three folders, and four broken in different ways."""
    endings, rates = ("wav", "flac", "mp3", "ogg"), (8000, 22050, 44100, 48000)
    folders = ("", "album/", "album/b-sides/")
    for index in range(36):
        name = f"{folders[index % 3]}{index:02d}.{endings[index % 4]}"
        write_music(music, {name: 3.0 + index % 9}, rate=rates[index // 9], channels=1 + index % 2)
    whole = (music / "album" / "01.flac").read_bytes()
    (music / "damaged.flac").write_bytes(whole[: len(whole) // 2] + bytes(999) + whole[len(whole) // 2 + 999 :])
    (music / "empty.wav").write_bytes(b"")
    soundfile.write(music / "album" / "silent.ogg", np.zeros(99_999), 22050)
    soundfile.write(music / "album" / "b-sides" / "nan.wav", np.full(99_999, np.nan), 22050, subtype="FLOAT")


@pytest.mark.slow
def test_forty_files_four_broken_three_commands(tmp_path):
    write_mixed_music(tmp_path / "music")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}

    def command(*arguments):
        print("$ open-musiclm", *arguments)
        run = [sys.executable, "-m", "open_musiclm", *arguments]
        result = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
        print(result.stdout)
        assert result.returncode == 0, result.stderr
        return result.stdout

    printed = command("tokenize", "music", "--model", "mini", "--output", "tokens")
    few_steps = ["--steps", "20", "--accumulate", "1"]
    command("train", "--stage", "semantic", "--tokens", "tokens", "--from", "mini", "--output", "tuned", *few_steps)
    command("generate", "a calm piano melody", "--model", "tuned", "--duration", "3", "--output", "song.wav")

    report = json.loads((tmp_path / "tokens" / "report.json").read_text())
    assert (report["num_files"], report["num_tokenized"]) == (40, 36)
    assert {row["path"]: row["reason"] for row in report["skipped"]} == {
        "damaged.flac": "unreadable",
        "empty.wav": "empty",
        "album/silent.ogg": "silent",
        "album/b-sides/nan.wav": "not finite",
    }
    assert all(f"left out {row['path']}: {row['reason']}" in printed for row in report["skipped"])
    audio, rate = read_audio(tmp_path / "song.wav")
    assert audio.shape == (1, 3 * rate)
    assert np.abs(audio).max() > 0.005
