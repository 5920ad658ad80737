"""What the recipe on a GPU adds to the recipe: parts that are carried, trainings by the clock, a pool of scores."""

import itertools
import os
import subprocess
import sys
import tarfile
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


class Numbers:
    """A field is the index of the clip, the other twice that."""

    def __call__(self, first, count):
        numbers = torch.arange(first, first + count)
        return {"number": numbers, "twice": 2 * numbers}


def test_a_pool_of_scores_grows_while_it_is_drawn_from():
    from batches import SHARD_SIZE, PooledScores

    pool = PooledScores(Numbers(), 7, 1, torch.device("cpu"), capacity=4 * SHARD_SIZE)
    try:
        seen = set()
        while pool.size < 4 * SHARD_SIZE:
            drawn = pool.draw(0, 100, torch.Generator().manual_seed(pool.size))
            assert torch.equal(drawn["number"] * 2, drawn["twice"])
            assert int(drawn["number"].min()) >= 7
            assert int(drawn["number"].max()) < 7 + pool.size
            seen.add(pool.size)
        assert min(seen) < 4 * SHARD_SIZE
        assert torch.equal(pool.fields["number"][: pool.size], torch.arange(7, 7 + pool.size))
    finally:
        pool.close()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside"])
def test_nothing_is_unpacked_beside_its_folder(tmp_path, name):
    from archive import extract_files

    with tarfile.open(tmp_path / "some.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with tarfile.open(tmp_path / "some.tar") as archive, pytest.raises(ValueError, match="no plain file below"):
        extract_files(archive, tmp_path / "in")


def test_packages_that_are_carried_come_after_the_machines_own(tmp_path):
    from gpu_recipe import environment_with

    for name in ("json", "only_carried"):
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "__init__.py").write_text("carried = True\n")
    code = "import json, only_carried; print(hasattr(json, 'carried'), only_carried.carried)"
    environment = environment_with(tmp_path / "site", tmp_path)
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "True"]


def test_one_head_points_at_the_frame_that_is_to_be_predicted():
    from aligning import HEIGHT, point_at_condition

    from open_musiclm import MusicLMCoarseConfig, MusicLMCoarseModel, TokenStream

    streams = [
        TokenStream("clap", 16, 2),
        TokenStream("semantic", 32, 1, 25.0, 1, pattern="parallel"),
        TokenStream("coarse", 32, 2, 25.0, pattern="delay"),
    ]
    torch.manual_seed(0)
    stage = MusicLMCoarseModel(
        MusicLMCoarseConfig(
            streams=[stream.to_dict() for stream in streams],
            hidden_size=96,
            num_hidden_layers=1,
            num_attention_heads=4,
            head_dim=16,
            window_in_s=2.0,
            window_stride_in_s=1.0,
        )
    )
    before = stage.decoder.bias_table(150).detach().clone()
    point_at_condition(stage, "semantic", head=2)
    after = stage.decoder.bias_table(150).detach()
    num_frames = 49  # the window's 50, less an edge frame: the row of frame t, and the one that predicts it
    assert int(after[2].argmax()) == num_frames
    assert after[2, num_frames] == pytest.approx(HEIGHT, abs=0.5)
    assert after[2].topk(4).values[-1] < 1.5
    others = [0, 1, 3]
    assert (after[others] - before[others]).abs().max() < 0.2
    with pytest.raises(ValueError, match="clap"):
        point_at_condition(stage, "clap", head=2)


def test_a_spoilt_history_is_as_long_and_of_the_same_tokens():
    from aligning import SPOILT_SHARES, spoil_history

    tokens = torch.arange(64 * 50).view(64, 50, 1)
    spoilt = spoil_history(tokens, torch.Generator().manual_seed(0))
    assert spoilt.shape == tokens.shape
    assert torch.isin(spoilt, tokens).all()
    shares = (spoilt != tokens).float().mean(dim=(1, 2))
    assert (shares == 0).sum() > 10
    assert (shares > 0.8).sum() > 10
    assert abs(float(shares.mean()) - np.mean(SPOILT_SHARES)) < 0.12


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


def test_weights_of_frames_leave_a_uniform_loss_and_count_where_they_lie():
    from train_stages import early_loss

    token_ids, logits = torch.zeros(2, 249, 3, dtype=torch.long), torch.zeros(2, 249 * 3, 2)
    more = torch.zeros(2, 249, 3)
    more[0, 200:] = 10.0
    assert early_loss(logits, token_ids, 60.0, 6.0, 20.0, more).item() == pytest.approx(np.log(2), abs=1e-5)
    logits[0, 600:, 1] = 5.0  # wrong late in the first sample
    plain, weighed = (early_loss(logits, token_ids, 60.0, 6.0, 20.0, each).item() for each in (None, more))
    assert weighed > 1.5 * plain > 1.5 * np.log(2)
