"""What the recipe on a GPU adds to the recipe: parts that are carried, trainings by the clock, batches made ahead."""

import itertools
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook


@pytest.fixture(scope="module", autouse=True)
def recipe():
    """The example's modules, which import one another by their plain names."""
    folder = str(Path(__file__).parents[2] / "examples" / "mini")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


def test_what_is_carried_comes_out_as_it_went_in(tmp_path, monkeypatch):
    import gpu_recipe

    monkeypatch.setattr(gpu_recipe, "PART_SIZE", 1000)
    monkeypatch.setattr(gpu_recipe, "MAX_PARTS", 4)
    data = np.random.default_rng(0).bytes(2500)
    (tmp_path / "weights").write_bytes(data)
    gpu_recipe.write_parts([(tmp_path / "weights", "models/codec/weights")], tmp_path / "out", "results")
    sizes = [path.stat().st_size for path in sorted((tmp_path / "out").glob("results.*"))]
    assert len(sizes) in (3, 4)
    assert max(sizes) == 1000
    assert gpu_recipe.read_parts(tmp_path / "out", "results", tmp_path / "back")
    assert (tmp_path / "back" / "models" / "codec" / "weights").read_bytes() == data
    (tmp_path / "weights").write_bytes(np.random.default_rng(1).bytes(5000))
    with pytest.raises(ValueError, match="more than 4 files"):
        gpu_recipe.write_parts([(tmp_path / "weights", "weights")], tmp_path / "out", "results")


def test_a_training_by_the_clock_ends_in_time_and_goes_on_with_what_is_left(tmp_path, monkeypatch):
    """The clock is one on which each step takes a hundredth of a second."""
    import training_loop

    ticks = itertools.count()
    monkeypatch.setattr(training_loop, "time", SimpleNamespace(monotonic=lambda: next(ticks) / 100))
    rates = []
    network = torch.nn.Linear(1, 1)

    def compute_loss(step, generator):
        return {"loss": network(torch.ones(1, 1)).square().sum()}

    def note_rate(optimizer, *arguments):
        rates.append(optimizer.param_groups[0]["lr"])

    def train():
        with training_loop.time_limit(0.5):
            training_loop.train(
                "clock",
                network,
                compute_loss,
                last_step=10**6,
                num_schedule_steps=10**6,
                learning_rate=1.0,
                checkpoint_path=tmp_path / "clock.pt",
                seed=0,
            )

    hook = register_optimizer_step_post_hook(note_rate)
    try:
        train()
        assert len(rates) == 50
        assert max(rates) == pytest.approx(1.0, abs=0.01)
        assert rates[-1] == pytest.approx(0.02, abs=0.01)
        train()
        assert len(rates) == 50  # nothing was left
    finally:
        hook.remove()
    assert torch.load(tmp_path / "clock.pt")["step"] == 50


class Squares:
    """Batch i is i squared."""

    def __call__(self, number):
        return {"square": torch.tensor([number * number])}


def test_batches_made_ahead_are_those_asked_for():
    from ahead import Ahead

    batches = Ahead(Squares(), 1)
    try:
        assert [int(batches(number)["square"]) for number in range(6)] == [0, 1, 4, 9, 16, 25]
        assert int(batches(40)["square"]) == 1600
    finally:
        batches.close()


def test_resampling_keeps_what_lies_below_the_new_limit():
    from recipe import Recipe
    from train_semantic_encoder import resample_to_semantic_rate

    recipe = Recipe()
    old, new = (np.arange(rate) / rate for rate in (recipe.sampling_rate, recipe.semantic_sampling_rate))
    tones = [np.stack([np.sin(2 * np.pi * hertz * times) for hertz in (440, 7000, 11_000)]) for times in (old, new)]
    resampled = resample_to_semantic_rate(tones[0], recipe)
    assert np.abs(resampled[:2] - tones[1][:2]).max() < 1e-5
    assert np.abs(resampled[2]).max() < 1e-5


def test_a_call_ends_when_its_last_process_has_ended(tmp_path, monkeypatch, capsys):
    """A step marks itself done before its process ends; what it still says is printed, and nobody stops it."""
    import gpu_recipe

    script = tmp_path / "recipe.py"
    script.write_text(
        "import pathlib, sys, time\n"
        "folder = pathlib.Path(sys.argv[sys.argv.index('--work-dir') + 1])\n"
        "(folder / f'{sys.argv[2]}.done').touch()\n"
        "time.sleep(1)\n"
        "print('the table')\n"
    )
    steps = (gpu_recipe.Step("assemble"), gpu_recipe.Step("judge", ("assemble",)))
    monkeypatch.setattr(gpu_recipe, "CALLS", {"second": steps})
    monkeypatch.setattr(gpu_recipe, "__file__", str(script))
    assert gpu_recipe.run("second", tmp_path, minutes=2, tiny=True, environment=dict(os.environ))
    printed = capsys.readouterr().out
    assert printed.count("the table") == 2
    assert "stopped" not in printed
