"""The largest batch that fits: with a real Trainer and real errors of PyTorch's allocator, at a batch that is chosen."""

import json
from types import SimpleNamespace

import pytest
import torch
from test_train_stage import HELD_OUT, assert_same, clips, interrupted_in_step, losses, still, train, weights  # noqa: F401  (a fixture)
from transformers import TrainingArguments

from open_musiclm.cli import main
from open_musiclm.models import stages
from open_musiclm.models.loss import weighted_loss
from open_musiclm.training import TrainingPlan, find_batch_size
from open_musiclm.training.batch_size import batch_sizes
from open_musiclm.training.stage_training import check_arguments


def run_out_of_memory():
    torch.empty(1 << 60, dtype=torch.uint8)


class Memory:
    """A memory for `fits` clips at a time from the `since`-th batch of a size on; writes down what was tried."""

    def __init__(self, monkeypatch, fits, since=1):
        self.fits, self.since, self.tried = fits, since, []
        monkeypatch.setattr(stages, "weighted_loss", self)

    def __call__(self, terms, num_items=None):
        terms = list(terms)
        size = len(terms[-1][2])
        if torch.is_grad_enabled():
            self.tried.append(size)
            if size > self.fits and self.tried.count(size) >= self.since:
                run_out_of_memory()
        return weighted_loss(terms, num_items)

    @property
    def sizes(self):
        return list(dict.fromkeys(self.tried))


@pytest.mark.parametrize("since", [1, 2], ids=["in the first step", "in the second, when the weights have moved"])
def test_the_run_is_that_of_the_batch_found(clips, pipeline_folder, tmp_path, monkeypatch, capsys, since):  # noqa: F811
    """Dropout, masks and crops included, to the last bit."""
    settings = ["--from", pipeline_folder, *HELD_OUT]
    given = train(clips, tmp_path / "given", *settings, batch_size=2, accumulate=4)
    assert main(given) == 0
    memory = Memory(monkeypatch, fits=2, since=since)
    found = train(clips, tmp_path / "found", *settings, "--auto-find-batch-size", batch_size=1, accumulate=8)
    assert main(found) == 0
    assert memory.sizes == [8, 4, 2]
    assert memory.tried.count(2) == 6 * 4  # clips of a step: as many as asked for
    assert_same(weights(tmp_path / "found"), weights(tmp_path / "given"))
    assert losses(tmp_path / "found") == losses(tmp_path / "given")
    assert "now 2 clips at a time, 4 times a step" in capsys.readouterr().out
    record = json.loads((tmp_path / "found" / "training" / "batch.json").read_text())
    assert record == {"batch_size": 2, "accumulate": 4}


def test_resumed_it_goes_on_with_the_batch_that_was_found(clips, pipeline_folder, tmp_path, monkeypatch):  # noqa: F811
    settings = ["--from", pipeline_folder, "--hold-out", 0, "--save-every", 3, "--set", "auto_find_batch_size=true"]
    memory = Memory(monkeypatch, fits=2)
    assert main(train(clips, tmp_path / "whole", *settings)) == 0
    assert memory.sizes == [4, 2]

    with interrupted_in_step(5, monkeypatch):
        assert main(train(clips, tmp_path / "parts", *settings)) == 130
    memory.tried.clear()
    assert main(train(clips, tmp_path / "parts", *settings)) == 0
    assert memory.sizes == [2]
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_out_of_memory_late_it_goes_on_from_the_checkpoint(clips, pipeline_folder, tmp_path, monkeypatch):  # noqa: F811
    """The steps behind it are of the same clips, so without dropout only sums are in another order."""
    settings = [*still(pipeline_folder), "--save-every", 3]
    assert main(train(clips, tmp_path / "whole", *settings)) == 0
    memory = Memory(monkeypatch, fits=2, since=5)
    assert main(train(clips, tmp_path / "late", *settings, "--auto-find-batch-size")) == 0
    assert memory.tried == [4] * 5 + [2, 2] * 3  # steps 1 to 4, the fifth in vain; steps 4 to 6
    assert losses(tmp_path / "late") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


def test_what_does_not_fit_at_all_is_one_line(clips, pipeline_folder, tmp_path, monkeypatch, capsys):  # noqa: F811
    Memory(monkeypatch, fits=0)
    assert main(train(clips, tmp_path / "run", "--from", pipeline_folder, "--auto-find-batch-size")) == 1
    error = capsys.readouterr().err
    assert error.startswith("open-musiclm train: Out of memory: not even one clip at a time fits.")
    assert error.count("\n") == 1


def test_attempts():
    assert batch_sizes(12) == [12, 6, 4, 3, 2, 1]
    tried, told = [], []

    def attempt(batch_size, accumulate):
        tried.append((batch_size, accumulate))
        if batch_size > 3:
            run_out_of_memory()
        return batch_size

    assert find_batch_size(attempt, 12, on_smaller=lambda *sizes: told.append(sizes)) == 3
    assert tried == [(12, 1), (6, 2), (4, 3), (3, 4)]
    assert told == tried[1:]
    tried.clear()
    assert find_batch_size(attempt, 12, largest=4) == 3
    assert tried == [(4, 3), (3, 4)]
    with pytest.raises(ValueError, match="at least one clip, got 0"):
        find_batch_size(attempt, 0)


def test_errors_of_another_kind_are_not_swallowed():
    def attempt(batch_size, accumulate):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        find_batch_size(attempt, 8)


def test_of_a_failed_attempt_nothing_is_left():
    """Its tensors hang on the error's frames."""
    import weakref

    kept = []

    def attempt(batch_size, accumulate):
        assert all(each() is None for each in kept), "the attempt before still holds its tensors"
        tensor = torch.ones(3)
        kept.append(weakref.ref(tensor))
        if batch_size > 1:
            run_out_of_memory()

    find_batch_size(attempt, 4)
    assert len(kept) == 3


def test_several_processes_are_refused():
    plan = TrainingPlan("coarse", "tokens", "out", auto_find_batch_size=True)
    args = TrainingArguments(use_cpu=True)
    check_arguments(plan, args)
    with pytest.raises(ValueError, match="looked for by one process, and here are 2"):
        check_arguments(plan, SimpleNamespace(fsdp=args.fsdp, world_size=2))
