"""Item 7: a run goes on from a checkpoint that is as it was written, or from the one before; one run writes to an output."""

import json
import os
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from tally import Tally, damaged, damaged_json, forked, pick, seeded

from open_musiclm.outputs import sole_writer
from open_musiclm.training import last_complete_checkpoint
from open_musiclm.training.checkpoints import seal_checkpoint

STATES = ("optimizer.pt", "scheduler.pt", "rng_state.pth")


def write_checkpoints(folder, random) -> None:
    """Three checkpoints as a Trainer leaves them; one whose run was killed before the record of its files has none."""
    for step in (5, 10, 20):
        checkpoint = folder / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        save_file({"weight": torch.arange(64.0) + step}, checkpoint / "model.safetensors")
        (checkpoint / "config.json").write_text(json.dumps({"step": step}))
        for name in STATES:
            torch.save({"state": torch.arange(64.0) + step}, checkpoint / name)
        (checkpoint / "trainer_state.json").write_text(
            json.dumps({"global_step": step, "log_history": [{"loss": 1.0}]})
        )
        if random.random() < 0.7:
            seal_checkpoint(checkpoint)


def spoil(folder, random) -> None:
    for _ in range(random.integers(1, 5)):
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        path, chance = pick(random, paths), random.random()
        if chance < 0.2:
            path.unlink()
        elif chance < 0.3:
            path.write_bytes(pick(random, paths).read_bytes())
        elif chance < 0.35:
            (path.parent / "checkpoint-30").mkdir(exist_ok=True)
        elif path.suffix == ".json" and not (path.parent / "files.json").exists():
            # without a record of checksums, JSON that another value stands in looks as if it was meant
            path.write_bytes(path.read_bytes()[: int(random.integers(8))])
        else:
            path.write_bytes((damaged_json if path.suffix == ".json" else damaged)(path.read_bytes(), random))


def resume(folder, seed) -> None:
    random = seeded(seed)
    write_checkpoints(folder, random)
    spoil(folder, random)
    lines: list[str] = []
    found = last_complete_checkpoint(folder, passed_over=lines)
    assert all(line.startswith("checkpoint-") and "\n" not in line and line.isprintable() for line in lines), lines
    if found is None:
        raise ValueError("no checkpoint is whole")
    step = int(found.name.removeprefix("checkpoint-"))
    for name in STATES:
        state = torch.load(found / name, weights_only=True)
        assert torch.equal(state["state"], torch.arange(64.0) + step), f"{name} of {found.name} is another"
    weights = load_file(found / "model.safetensors")
    if (found / "files.json").exists():  # the format has no checksums of its own
        assert torch.equal(weights["weight"], torch.arange(64.0) + step), f"weights of {found.name} are others"
    assert json.loads((found / "trainer_state.json").read_text())["global_step"] == step


def test_damaged_checkpoints_of_a_training(tmp_path, number):
    tally = Tally("7 resuming from what is damaged")
    for seed in range(number(60, 4000)):
        tally.attempt(seed, lambda seed=seed: resume(tmp_path / str(seed), seed))
    tally.finish()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts processes by fork")
def test_two_runs_on_one_output(tmp_path, number):
    """Of processes that begin together one holds the output, also where holders are killed."""
    tally = Tally("7 two runs on one output")

    def hold(folder, kill, pause):
        with sole_writer(folder):
            inside = os.open(folder / "inside", os.O_CREAT | os.O_EXCL)  # fails where another is inside
            time.sleep(pause)
            os.close(inside)
            (folder / "inside").unlink()
            if kill:
                os._exit(9)

    def race(seed):
        random = seeded(seed)
        folder = tmp_path / str(seed)
        if random.random() < 0.5:
            folder.mkdir()
        children = []
        for _ in range(4):
            kill, pause = random.random() < 0.3, random.random() * 0.01
            child = os.fork()
            if not child:
                ended = forked(lambda kill=kill, pause=pause: hold(folder, kill, pause))
                os._exit({"done": 0, "refused": 1, "killed": 2}.get(ended, 3))
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert 3 not in codes, codes
        assert codes.count(1) < 4, "nobody got it"
        assert forked(lambda: hold(folder, False, 0.0)) == "done", "it is held by nobody and cannot be had"

    for seed in range(number(4, 150)):
        tally.attempt(seed, lambda seed=seed: race(seed))
    tally.finish()
