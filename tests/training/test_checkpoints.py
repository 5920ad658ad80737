import json

import pytest

from open_musiclm.training import last_complete_checkpoint


@pytest.fixture
def folder(tmp_path):
    for step in (5, 10, 20):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        for rank in range(2):
            (checkpoint / f"rng_state_{rank}.pth").write_bytes(b"state")
    (tmp_path / "checkpoint-old").mkdir()
    (tmp_path / "run.json").write_text("{}")
    return tmp_path


def test_the_newest_is_taken_by_number(folder):
    assert last_complete_checkpoint(folder).name == "checkpoint-20"
    assert last_complete_checkpoint(folder, num_processes=2).name == "checkpoint-20"


@pytest.mark.parametrize("state", [None, "", '{"global_step": 2'])
def test_one_that_was_being_written_is_passed_over(folder, state):
    path = folder / "checkpoint-20" / "trainer_state.json"
    path.unlink() if state is None else path.write_text(state)
    assert last_complete_checkpoint(folder).name == "checkpoint-10"


def test_every_process_must_have_saved(folder):
    (folder / "checkpoint-20" / "rng_state_1.pth").unlink()
    assert last_complete_checkpoint(folder, num_processes=2).name == "checkpoint-10"


def test_there_may_be_none(tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    assert last_complete_checkpoint(tmp_path / "nothing") is None
