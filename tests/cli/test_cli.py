import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

from open_musiclm.audio import read_audio, read_metadata
from open_musiclm.cli import COMMANDS, main, one_line


def test_generate_writes_what_was_asked(pipeline_folder, tmp_path, capsys):
    output = tmp_path / "song.wav"
    command = ["generate", "a calm piano", "--model", str(pipeline_folder), "--duration", "1.5", "--seed", "7"]
    assert main([*command, "--output", str(output)]) == 0
    audio, rate = read_audio(output)
    assert audio.shape == (1, 12_000)
    assert rate == 8000
    metadata = read_metadata(output)
    assert metadata["prompt"] == "a calm piano"
    assert metadata["seed"] == 7
    assert metadata["model"] == str(pipeline_folder)
    assert set(metadata["versions"]) == {"torch", "transformers", "diffusers"}
    assert str(output) in capsys.readouterr().out

    assert main([*command, "--output", str(tmp_path / "again.flac")]) == 0
    np.testing.assert_allclose(read_audio(tmp_path / "again.flac")[0], audio, atol=1e-4)


def test_several_prompts_and_samples_make_several_files(pipeline_folder, tmp_path):
    command = ["generate", "a", "b", "--num-samples", "2", "--model", str(pipeline_folder), "--duration", "1"]
    assert main([*command, "--seed", "1", "-o", str(tmp_path / "x.wav")]) == 0
    files = sorted(tmp_path.iterdir())
    assert [each.name for each in files] == ["x-1.wav", "x-2.wav", "x-3.wav", "x-4.wav"]
    assert [read_metadata(each)["prompt"] for each in files] == ["a", "a", "b", "b"]
    assert len({read_audio(each)[0].tobytes() for each in files}) == 4
    # each file's own seed makes it again
    seed = str(read_metadata(files[2])["seed"])
    single = ["generate", "b", "--model", str(pipeline_folder), "--duration", "1", "--seed", seed]
    assert main([*single, "-o", str(tmp_path / "y.wav")]) == 0
    np.testing.assert_allclose(read_audio(tmp_path / "y.wav")[0], read_audio(files[2])[0], atol=2e-4)


def test_a_file_is_not_overwritten_unless_asked(pipeline_folder, tmp_path, capsys):
    path = tmp_path / "song.wav"
    path.write_bytes(b"mine")
    command = ["generate", "a", "--model", str(pipeline_folder), "--duration", "1", "--output", str(path)]
    assert main(command) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert path.read_bytes() == b"mine"
    assert main([*command, "--overwrite"]) == 0
    assert read_audio(path)[0].shape == (1, 8000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--duration", "0"], "--duration"),
        (["--duration", "nan"], "--duration"),
        (["--duration", "1e308"], "--duration must be a number of seconds above 0 and up to 86400"),
        (["--num-samples", "0"], "--num-samples"),
        (["--seed", "-1"], "--seed"),
        (["--temperature", "0"], "--temperature"),
        (["--output", "song.mp3"], ".wav or .flac"),
        (["--output", "/proc/song.wav"], "Nothing can be written to '/proc'"),
        (["--output", "/proc/self/status/song.wav"], "Nothing can be written to '/proc/self/status'"),
        (["--num-samples", "100000000"], "100000000 files are more than one command makes"),
        (["--num-candidates", "100000000"], "--num-candidates must be at most"),
        (["--threads", "0"], "--threads"),
        (["--revision", "main"], "has no revisions"),
        (["--model", "/does/not/exist"], "/does/not/exist"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_errors_are_one_line(pipeline_folder, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "a", "--model", str(pipeline_folder), "--duration", "1", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("open-musiclm generate: ")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_empty_prompt_and_a_folder_that_is_no_pipeline(tmp_path, capsys):
    assert main(["generate", " ", "-o", str(tmp_path / "a.wav")]) == 1
    assert "prompt is empty" in capsys.readouterr().err
    assert main(["generate", "a", "--model", str(tmp_path), "-o", str(tmp_path / "a.wav")]) == 1
    assert "model_index.json" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"open-musiclm {command} " in capsys.readouterr().out.split("examples:")[1]


def test_wrong_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2


def test_importing_is_light_and_quiet():
    """Neither the forbidden audio packages nor optional ones, and no socket."""
    code = """
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("network")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
import open_musiclm
heavy = {"torchaudio", "torchvision", "torchcodec", "datasets", "gradio", "sklearn", "matplotlib", "diffusers",
         "peft", "datatrove"}
print(sorted(heavy & set(sys.modules)))
print(open_musiclm.MusicLMPipeline.__name__, "mini_checkpoint" in dir(open_musiclm))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:2] == ["[]", "MusicLMPipeline True"]
    assert result.stderr == ""


def test_a_long_prompt_is_said_to_be_cut_once(pipeline_folder, tmp_path):
    prompt = "slow strings " * 6 + "and the end"  # the encoder of the tests reads 77 letters
    command = [
        "generate",
        prompt,
        "-n",
        "2",
        "--model",
        str(pipeline_folder),
        "-d",
        "0.5",
        "-o",
        str(tmp_path / "a.wav"),
    ]
    with pytest.warns(UserWarning, match="CLAP reads 77 tokens of a text") as caught:
        assert main(command) == 0
    assert len([each for each in caught if "CLAP reads" in str(each.message)]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert main([*command[:1], "slow strings", *command[2:], "--overwrite"]) == 0


def test_a_warning_of_a_command_is_one_line(capsys):
    as_before = warnings.formatwarning
    assert one_line(lambda: print(warnings.formatwarning("two\nlines", UserWarning, "file.py", 3)) or 0, "name") == 0
    assert capsys.readouterr().out == "name: two lines\n\n"
    assert warnings.formatwarning is as_before


@pytest.mark.parametrize("wait", [0.1, 0.6, 2.5])
def test_interrupted_at_any_moment_it_is_one_line(pipeline_folder, tmp_path, wait):
    """Ctrl-C while Python imports, while the model is loaded, while it plays."""
    script = "import sys; from open_musiclm.cli import main; print(1, flush=True); sys.exit(main(sys.argv[1:]))"
    command = ["generate", "a", "-n", "500", "--model", str(pipeline_folder), "-d", "9", "-o", str(tmp_path / "a.wav")]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "1\n"
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert error.splitlines()[-1].endswith("interrupted")
    assert "Traceback" not in error
    assert not list(tmp_path.glob(".*"))
