"""The examples run as they stand, here on a tiny pipeline of random weights instead of the one in the box."""

import json
import os
import runpy
import subprocess
import sys
import types
from pathlib import Path

import pytest

from open_musiclm import MusicLMPipeline

ROOT = Path(__file__).parents[2]


@pytest.fixture
def example(monkeypatch, tmp_path):
    """Runs one of the examples in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")

    return run


def test_fine_tuning_a_stage(example, pipeline_folder, tmp_path):
    for _ in range(2):  # an example can be run again
        example("finetune_stage.py", "--model", pipeline_folder, "--steps", 4, "--duration", 1)
    assert (tmp_path / "finetuned" / "before.wav").read_bytes() != (tmp_path / "finetuned" / "after.wav").read_bytes()
    MusicLMPipeline.from_pretrained(tmp_path / "finetuned" / "pipeline")


def test_adapters(example, pipeline_folder, tmp_path):
    for _ in range(2):
        example("finetune_lora.py", "--model", pipeline_folder, "--steps", 2)
    tuned = MusicLMPipeline.from_pretrained(tmp_path / "adapters" / "pipeline").semantic_model
    before = MusicLMPipeline.from_pretrained(pipeline_folder).semantic_model
    name = "decoder.layers.0.self_attn.q_proj.weight"
    assert not tuned.state_dict()[name].equal(before.state_dict()[name])


def test_fma(example, pipeline_folder, tmp_path, capsys):
    for _ in range(2):
        example("finetune_fma.py", "--model", pipeline_folder, "--steps", 2)
    printed = capsys.readouterr().out
    assert "found the audio of 10 of 10 clips" in printed
    assert "validation: 2 tracks" in printed
    MusicLMPipeline.from_pretrained(tmp_path / "fma-finetuned" / "run")


def test_the_wrong_codebook(example, pipeline_folder, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    for _ in range(2):
        example("wrong_codebook.py", "--model", pipeline_folder, "--steps", 4, "--output", "plot.png")
    assert "refused: Codebooks differ" in capsys.readouterr().out
    assert (tmp_path / "plot.png").stat().st_size > 5000
    curves = json.loads((tmp_path / "plot.json").read_text())
    assert [step for step, _ in curves["right"]] == [step for step, _ in curves["wrong"]] == [1, 2, 3, 4]


def test_the_notebook(pipeline_folder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    played = []
    display = types.ModuleType("IPython.display")
    display.Audio, display.display = lambda audio, rate: (audio, rate), played.append
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    notebook = json.loads((ROOT / "examples" / "finetune.ipynb").read_text())
    assert notebook["nbformat"] == 4
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    monkeypatch.setattr("open_musiclm.mini_checkpoint", lambda: str(pipeline_folder), raising=False)
    names: dict = {"__name__": "notebook"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"]).replace("max_steps=20", "max_steps=2").replace("in_s=4.0", "in_s=1.0")
            exec(compile(source, "notebook", "exec"), names)
    assert len(played) == 2
    assert all(rate == 8000 and audio.shape == (1, 8000) for audio, rate in played)


@pytest.mark.slow
def test_from_nothing(pipeline_folder, tmp_path):
    """The shell script: seven commands, each a process of its own."""
    command = tmp_path / "bin" / "open-musiclm"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m open_musiclm "$@"\n')
    command.chmod(0o755)
    python = command.with_name("python")
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "MODEL": str(pipeline_folder),
        "SEMANTIC_CODES": "16",
    }
    subprocess.run(
        ["bash", str(ROOT / "examples" / "train_from_scratch.sh")], cwd=tmp_path, env=environment, check=True
    )
    assert (tmp_path / "from-scratch" / "song.wav").is_file()
