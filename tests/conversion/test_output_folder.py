"""The command's output: nothing that it did not write is ever removed, and being killed loses no model."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from original_files import write_checkpoint_folder

from open_musiclm.conversion.checkpoint_error import CheckpointError
from open_musiclm.conversion.output_folder import CONVERSION_MARKER, tidy, whole_folder


def write(folder, text="new", **options):
    with whole_folder(folder, **options) as partial:
        (partial / "part").mkdir()
        (partial / "part" / "model.txt").write_text(text)


def names(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def checkpoints(tmp_path):
    folder = tmp_path / "home" / "checkpoints"
    folder.mkdir(parents=True)
    for name in ("a.pt", "b.pt"):
        (folder / name).write_text("precious")
    (tmp_path / "home" / "letters.txt").write_text("precious")
    return folder


@pytest.mark.parametrize(
    ("output", "relation"),
    [
        ("home/checkpoints", "is"),
        ("home", "holds"),
        ("home/checkpoints/out", "lies in"),
        ("home/checkpoints/../checkpoints", "is"),
        ("link", "is"),
        ("link/out", "lies in"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_that_is_holds_or_lies_in_an_input(tmp_path, checkpoints, output, relation, overwrite):
    (tmp_path / "link").symlink_to(checkpoints, target_is_directory=True)
    before = names(tmp_path)
    with pytest.raises(CheckpointError, match=f"{relation} .*checkpoints, which is read"):
        write(tmp_path / output, overwrite=overwrite, inputs=[None, "some/hub-id", checkpoints])
    assert names(tmp_path) == before


def test_an_output_that_holds_a_file_that_is_read(tmp_path, checkpoints):
    with pytest.raises(CheckpointError, match=r"holds .*a\.pt"):
        write(checkpoints, overwrite=True, inputs=[checkpoints / "a.pt"])


def test_the_command_refuses_the_checkpoint_folder(tmp_path, convert):
    folder = write_checkpoint_folder(tmp_path / "in", stages=("fine",))
    before = names(tmp_path)
    for output in (folder, tmp_path, folder / "converted"):
        with pytest.raises(CheckpointError, match="which is read"):
            convert("--checkpoint-dir", folder, "--output-dir", output, "--overwrite")
        assert names(tmp_path) == before


def test_only_a_conversion_is_replaced(tmp_path):
    write(tmp_path / "out", "old")
    with pytest.raises(CheckpointError, match="is not empty"):
        write(tmp_path / "out")
    write(tmp_path / "out", "new", overwrite=True)
    assert names(tmp_path) == [f"out/{CONVERSION_MARKER}", "out/part/model.txt"]
    assert (tmp_path / "out" / "part" / "model.txt").read_text() == "new"
    (tmp_path / "out" / "part" / "thesis.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"holds part/thesis\.txt, which no conversion wrote"):
        write(tmp_path / "out", overwrite=True)
    (tmp_path / "out" / "part" / "thesis.txt").unlink()
    (tmp_path / "out" / "music").symlink_to(tmp_path)
    with pytest.raises(CheckpointError, match="holds music, which no conversion wrote"):
        write(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("marker", ["", "{}", "[]", '{"files": 3}', '{"files": [[1]]}', "[" * 100_000])
def test_a_damaged_marker_proves_nothing(tmp_path, marker):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / CONVERSION_MARKER).write_text(marker)
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="no conversion wrote"):
        write(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "mine.txt").exists()


def test_a_failure_leaves_what_was_there(tmp_path):
    write(tmp_path / "out", "old")
    with pytest.raises(RuntimeError, match="on the way"), whole_folder(tmp_path / "out", overwrite=True):
        raise RuntimeError("on the way")
    assert (tmp_path / "out" / "part" / "model.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


SCRIPT = """
import os, sys, time
from open_musiclm.conversion import output_folder
output, moment = sys.argv[1:]
renames = []
rename = os.replace
def replace(source, target):
    rename(source, target)
    renames.append(target)
    if len(renames) == {"between": 1, "after": 2}.get(moment):
        os._exit(9)
output_folder.os.replace = replace
with output_folder.whole_folder(output, overwrite=True) as folder:
    (folder / "new.txt").write_text("new")
    if moment == "within":
        print("writing", flush=True)
        time.sleep(60)
"""


def killed(output, moment, number=signal.SIGKILL) -> int:
    """A conversion in a process of its own that dies at this moment; its exit code."""
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, output, moment], stdout=subprocess.PIPE, text=True)
    if moment == "within":
        assert process.stdout.readline() == "writing\n"
        process.send_signal(number)
    process.communicate(timeout=60)
    return process.returncode


def test_killed_between_the_renames(tmp_path, capsys):
    write(tmp_path / "out", "old")
    assert killed(tmp_path / "out", "between") == 9
    assert not (tmp_path / "out").exists()
    (aside,) = tmp_path.glob("out.*.replaced")
    assert (aside / "part" / "model.txt").read_text() == "old"
    with pytest.raises(CheckpointError, match="is not empty"):  # a rerun, without --overwrite
        write(tmp_path / "out")
    assert "put back" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "part" / "model.txt").read_text() == "old"


def test_killed_after_the_renames(tmp_path):
    write(tmp_path / "out", "old")
    assert killed(tmp_path / "out", "after") == 9
    assert len(list(tmp_path.glob("out.*.replaced"))) == 1
    write(tmp_path / "out", "newer", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert names(tmp_path / "out") == [CONVERSION_MARKER, "part/model.txt"]


def test_killed_while_writing(tmp_path):
    (tmp_path / "out.deadbeef.replaced").mkdir()
    (tmp_path / "out.deadbeef.replaced" / "mine.txt").write_text("not a conversion's")
    (tmp_path / ".other.deadbeef.partial").mkdir()
    assert killed(tmp_path / "out", "within") == -signal.SIGKILL
    assert len(list(tmp_path.glob(".out.*.partial"))) == 1
    write(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".other.deadbeef.partial",
        "out",
        "out.deadbeef.replaced",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asked_to_end_leaves_nothing(tmp_path, number):
    assert killed(tmp_path / "out", "within", number) != 0
    assert list(tmp_path.iterdir()) == []


def test_two_conversions_to_one_place(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, tmp_path / "out", "within"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "writing\n"
        with pytest.raises(CheckpointError, match="another conversion is writing to it"):
            write(tmp_path / "out")
        assert len(list(tmp_path.glob(".out.*.partial"))) == 1
    finally:
        process.kill()
        process.communicate()
    tidy(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_without_arrows(tmp_path):
    """What is printed never fails for its encoding, least of all after the work."""
    folder = write_checkpoint_folder(tmp_path / "in", stages=("fine",))
    run = "import sys; from open_musiclm.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", run, "convert", "--checkpoint-dir", folder, "--output-dir"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    started = time.time()
    result = subprocess.run([*command, tmp_path / "out"], capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert "fine.transformer.1000.pt \\u2192 fine_model" in result.stdout
    written = json.loads((tmp_path / "out" / CONVERSION_MARKER).read_text())
    assert "fine_model/model.safetensors" in written["files"]
    assert (tmp_path / "out").stat().st_mtime >= started - 1
