import json

import pytest
import torch
from safetensors.torch import save_file

from open_musiclm.training import last_complete_checkpoint
from open_musiclm.training.checkpoints import fault, seal_checkpoint


@pytest.fixture
def folder(tmp_path):
    """Three checkpoints of one process, as a Trainer leaves them; the newest has its files recorded."""
    for step in (5, 10, 20):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        save_file({"weight": torch.arange(64.0)}, checkpoint / "model.safetensors")
        for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
            torch.save({"state": torch.arange(64.0)}, checkpoint / name)
        (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    seal_checkpoint(tmp_path / "checkpoint-20")
    (tmp_path / "checkpoint-old").mkdir()
    (tmp_path / "run.json").write_text("{}")
    return tmp_path


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flipped":  # one bit of a tensor's values
        content[content.index(torch.tensor(8.0).numpy().tobytes())] ^= 1
        path.write_bytes(content)
    elif how == "zeroed":
        path.write_bytes(bytes(len(content)))
    elif how == "empty":
        path.write_bytes(b"")


def test_the_newest_is_taken_by_number(folder):
    lines = []
    assert last_complete_checkpoint(folder, passed_over=lines).name == "checkpoint-20"
    assert last_complete_checkpoint(folder, before=20).name == "checkpoint-10"
    assert lines == []


@pytest.mark.parametrize("state", [None, "", '{"global_step": 2'])
def test_one_that_was_being_written_is_passed_over(folder, state):
    path = folder / "checkpoint-20" / "trainer_state.json"
    path.unlink() if state is None else path.write_text(state)
    lines = []
    assert last_complete_checkpoint(folder, passed_over=lines).name == "checkpoint-10"
    assert lines == ["checkpoint-20 is passed over: it was not written to its end (trainer_state.json)"]


@pytest.mark.parametrize("how", ["missing", "cut", "flipped", "zeroed", "empty"])
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"])
def test_a_damaged_one_is_passed_over_by_name(folder, name, how):
    damage(folder / "checkpoint-20" / name, how)
    lines = []
    assert last_complete_checkpoint(folder, passed_over=lines).name == "checkpoint-10"
    (line,) = lines
    assert line.startswith("checkpoint-20 is passed over: ")
    assert name in line.replace("optimizer*", "optimizer.pt")


@pytest.mark.parametrize("how", ["missing", "cut", "zeroed", "empty"])
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_without_a_record_pytorchs_own_checksums_are_read(folder, name, how):
    (folder / "checkpoint-20" / "files.json").unlink()
    damage(folder / "checkpoint-20" / name, how)
    assert last_complete_checkpoint(folder).name == "checkpoint-10"


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_without_a_record_another_state_in_its_place_is_noticed(folder, name):
    newest = folder / "checkpoint-20"
    (newest / "files.json").unlink()
    other = "scheduler.pt" if name != "scheduler.pt" else "optimizer.pt"
    (newest / name).write_bytes((newest / other).read_bytes())
    assert fault(newest) == f"{name} is damaged"


def test_an_archive_that_only_pytorch_cannot_read_is_damaged(folder):
    """The end of a large zip says on which disk it is: Python passes over that."""
    newest = folder / "checkpoint-20"
    (newest / "files.json").unlink()
    content = bytearray((newest / "scheduler.pt").read_bytes())
    content[content.rindex(b"PK\x06\x06") + 16] ^= 1
    (newest / "scheduler.pt").write_bytes(content)
    with pytest.raises(RuntimeError):
        torch.load(newest / "scheduler.pt", weights_only=True)
    assert fault(newest) == "scheduler.pt is damaged"


@pytest.mark.parametrize("name", ["\x1b[2J", "a" * 300, "\x00", "a" * 5000])
def test_names_in_a_damaged_record_are_told_in_a_line(folder, name):
    (folder / "checkpoint-20" / "files.json").write_text(json.dumps({name: [1, 2]}))
    said = fault(folder / "checkpoint-20")
    assert said.endswith("is missing")
    assert said.isprintable()
    assert len(said) < 200


def test_a_folder_whose_number_is_no_number_is_no_checkpoint(folder):
    (folder / "checkpoint-²").mkdir()
    assert last_complete_checkpoint(folder).name == "checkpoint-20"


def test_a_damaged_record_is_no_reason_to_stop(folder):
    (folder / "checkpoint-20" / "files.json").write_text("{")
    assert fault(folder / "checkpoint-20") == "files.json is damaged"
    assert last_complete_checkpoint(folder).name == "checkpoint-10"


def test_every_process_must_have_saved(folder):
    assert last_complete_checkpoint(folder, num_processes=2) is None
    for step in (10, 20):
        state = folder / f"checkpoint-{step}" / "rng_state.pth"
        for rank in range(2 if step == 10 else 1):
            state.with_name(f"rng_state_{rank}.pth").write_bytes(state.read_bytes())
    assert last_complete_checkpoint(folder, num_processes=2).name == "checkpoint-10"


def test_there_may_be_none(tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    assert last_complete_checkpoint(tmp_path / "nothing") is None
