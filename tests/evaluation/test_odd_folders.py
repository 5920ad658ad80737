"""The command on folders as people have them: names of any kind, clips without a prompt, prompts without a clip."""

import json
import os

import numpy as np
import soundfile
from evaluation_networks import chord

from open_musiclm.audio import write_audio
from open_musiclm.cli import main


def test_every_clip_is_measured_or_named(tmp_path, nets, capsys):
    for folder in ("reference/album 1", "reference/album 2", "clips"):
        (tmp_path / folder).mkdir(parents=True)
    for index in range(4):
        write_audio(
            tmp_path / "reference" / f"album {1 + index % 2}" / f"{index // 2}.wav", chord(110 + 30 * index, 4.0), 8000
        )
        write_audio(tmp_path / "clips" / f"song {index}.wav", chord(112 + 30 * index, 4.0), 8000)
    foreign = os.fsencode(tmp_path / "clips") + b"/caf\xe9.wav"
    soundfile.write(foreign, chord(300, 4.0), 8000)
    (tmp_path / "clips" / "page.mp3").write_text("<html>gone</html>")
    soundfile.write(tmp_path / "clips" / "flat.wav", np.zeros(32000), 8000)
    rows = ["id,prompt,reference"]
    rows += [f"song {index},take {index},album {1 + index % 2}/{index // 2}.wav" for index in range(4)]
    rows.append("song 9,take 9,album 3/0.wav")
    (tmp_path / "prompts.csv").write_text("\n".join(rows) + "\n")
    output = tmp_path / "report"
    command = ["evaluate", "--model", f"real={tmp_path / 'clips'}", "--prompts", str(tmp_path / "prompts.csv")]
    command += ["--reference", str(tmp_path / "reference"), "--clap", str(nets / "clap"), "--output", str(output)]
    command += ["--duration", "1", "--num-resamples", "50", "--num-set-resamples", "4", "--num-examples", "1"]
    assert main([*command, "--device", "cpu", "--no-noise"]) == 0
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert [clip["id"] for clip in report["systems"]["real"]["clips"]] == [
        "caf\N{REPLACEMENT CHARACTER}", "flat", *(f"song_{index}" for index in range(4)),
    ]  # fmt: skip
    assert report["reference"] == {"clips": 4, "paired": 4}
    assert [row["what"] for row in report["skipped"]] == ["real: page.mp3"]
    assert {row["what"] for row in report["unmatched"]} == {
        "real: caf\N{REPLACEMENT CHARACTER}.wav", "real: flat.wav", "real: prompt 'song_9'", "prompt 'song_9'",
    }  # fmt: skip
    infinity = next(r for r in report["results"] if r["metric"] == "FAD∞")
    assert infinity["value"] == max(infinity["settings"]["intercept"], 0.0)
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "Without a partner (4)" in page
    shown = capsys.readouterr().out
    assert "web page" in shown
    assert " nan" not in shown
