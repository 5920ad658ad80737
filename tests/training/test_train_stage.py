"""Training itself, on tiny stages and tokens: it learns, it resumes exactly, it refuses what does not belong together."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard
from music import music_pipeline, write_music
from safetensors.torch import load_file
from small_disk import small_disk
from tiny import tiny_stage
from transformers import Trainer, TrainerControl, TrainerState

from open_musiclm import MusicLMPipeline
from open_musiclm.cli import main
from open_musiclm.data import TokenDataset
from open_musiclm.models import stages
from open_musiclm.models.loss import weighted_loss
from open_musiclm.training import (
    CropCollator,
    FiniteNumbersCallback,
    StuckLossCallback,
    TrainingPlan,
    recommended_optimizer,
    recommended_training_arguments,
)
from open_musiclm.training.checkpoints import fault

STAGES = ["semantic", "coarse", "fine"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src"), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def clips(pipeline_folder, tmp_path_factory):
    """Tokens of twelve clips as long as a semantic window."""
    folder = tmp_path_factory.mktemp("clips")
    write_music(folder / "music", {f"{index:02d}.wav": 4.0 for index in range(12)})
    command = ["tokenize", str(folder / "music"), "--model", str(pipeline_folder), "--device", "cpu"]
    assert main([*command, "--output", str(folder / "tokens")]) == 0
    return folder / "tokens"


def train(tokens, output, *more, stage="coarse", steps=6, batch_size=4, accumulate=1):
    return [
        *("train", "--stage", stage, "--tokens", str(tokens), "--output", str(output), "--device", "cpu"),
        *("--steps", str(steps), "--batch-size", str(batch_size), "--accumulate", str(accumulate)),
        *("--learning-rate", "1e-3", "--warmup-steps", "2", "--log-every", "1"),
        *map(str, more),
    ]


def weights(output, stage="coarse"):
    folder = output / f"{stage}_model" if (output / "model_index.json").exists() else output / "stage"
    return load_file(folder / "model.safetensors")


def losses(output):
    return [
        entry["loss"] for entry in json.loads((output / "training.json").read_text())["history"] if "loss" in entry
    ]


def still(pipeline):
    """From a pipeline, on all files, and with nothing random in a step."""
    off = ["--config", "hidden_dropout=0", "--config", "forgetful_mask_prob=0"]
    return ["--from", pipeline, "--hold-out", 0, *off]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("stage", STAGES)
def test_a_plain_trainer_overfits_ten_clips(clips, tmp_path, stage):
    tokens, unseen = TokenDataset.load(clips, crops_per_file=1).split(2)
    streams = [tokens.record.stream(stream.name).to_dict() for stream in tiny_stage(stage).streams]
    settings = {"hidden_size": 64, "forgetful_mask_prob": 0.0, "hidden_dropout": 0.0, "gradient_shrink": 1.0}
    model = tiny_stage(stage, streams, **settings)
    args = recommended_training_arguments(
        model, tmp_path, learning_rate=5e-3, warmup_steps=10, max_steps=40, per_device_train_batch_size=10,
        gradient_accumulation_steps=1, save_strategy="no", logging_steps=10, use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    collator = CropCollator(model)
    trainer = Trainer(
        model, args, train_dataset=tokens, eval_dataset=unseen, data_collator=collator,
        optimizer_cls_and_kwargs=recommended_optimizer(args),
    )  # fmt: skip
    trainer.train()
    history = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert history[0] > 1.5
    assert history[-1] < 0.1
    assert trainer.evaluate()["eval_loss"] > 2.0  # learnt by heart, not read off the input


HELD_OUT = ("--hold-out", 2, "--evaluate-every", 2)


@contextmanager
def interrupted_in_step(step, monkeypatch):
    """Within, a training ends after this step as Ctrl-C ends it."""

    def interrupt(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StuckLossCallback, "on_step_end", interrupt)
        yield


@pytest.mark.parametrize(
    "more",
    [HELD_OUT, (*HELD_OUT, "--lora", "4"), ("--hold-out", 0, "--streaming"), (*HELD_OUT, "--log-every", 4)],
    ids=["weights", "adapters", "streaming", "seldom logged"],
)
def test_resumed_equals_undisturbed(clips, pipeline_folder, tmp_path, monkeypatch, more):
    """Stopped in step 5 of 6, with half a checkpoint left: dropout, masks and crops go on as they were."""
    settings = ["--from", pipeline_folder, "--save-every", 3, *more]
    assert main(train(clips, tmp_path / "whole", *settings)) == 0

    with interrupted_in_step(5, monkeypatch):
        assert main(train(clips, tmp_path / "parts", *settings)) == 130
    half = tmp_path / "parts" / "training" / "checkpoint-5"
    shutil.copytree(tmp_path / "parts" / "training" / "checkpoint-3", half)
    (half / "trainer_state.json").unlink()
    (half / "optimizer.pt").write_bytes(b"half of it")
    assert main(train(clips, tmp_path / "parts", *settings)) == 0
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    if "--lora" in more:
        adapters = [load_file(tmp_path / run / "adapter" / "adapter_model.safetensors") for run in ("parts", "whole")]
        assert_same(*adapters)


@pytest.mark.parametrize("state", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"])
def test_a_damaged_checkpoint_is_passed_over_by_name_and_the_run_ends_the_same(
    clips, pipeline_folder, tmp_path, capsys, whole_run, state
):
    """Of the checkpoints at 2 and 4 of 6 steps, the newer one is damaged."""
    parts = tmp_path / "parts"
    shutil.copytree(whole_run, parts, ignore=lambda folder, names: [n for n in names if n == "checkpoint-6"])
    (parts / "training.json").unlink()
    path = parts / "training" / "checkpoint-4" / state
    path.write_bytes(path.read_bytes()[:-500])
    assert main(train(clips, parts, *kept(pipeline_folder))) == 0
    said = capsys.readouterr().out
    assert f"checkpoint-4 is passed over: {state} is damaged" in said
    assert "going on from checkpoint-2" in said
    assert_same(weights(parts), weights(whole_run))
    assert losses(parts) == losses(whole_run)


def kept(pipeline):
    return ["--from", pipeline, "--hold-out", 0, "--save-every", 2, "--keep-checkpoints", 3]


@pytest.fixture(scope="module")
def whole_run(clips, pipeline_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "run"
    assert main(train(clips, output, *kept(pipeline_folder))) == 0
    return output


def test_a_run_whose_numbers_are_no_longer_finite_stops_and_keeps_the_last_good_state(
    clips, pipeline_folder, tmp_path, capsys, monkeypatch
):
    """The gradient of step 4 is infinite: what a rate far too high leads to, at a step that is known."""
    calls = []

    def overflowing(*args):
        calls.append(1)
        return weighted_loss(*args) * (float("inf") if len(calls) >= 4 else 1.0)

    monkeypatch.setattr(stages, "weighted_loss", overflowing)
    command = train(clips, tmp_path / "run", "--from", pipeline_folder, "--hold-out", 0, "--save-every", 2)
    assert main(command) == 1
    error = capsys.readouterr().err
    assert "stopped at step 4: the coarse stage's gradients are no longer finite" in error
    assert "Checkpoint-2 is the last good state" in error
    assert error.splitlines()[-1].startswith("open-musiclm train: ")
    assert not (tmp_path / "run" / "training.json").exists()
    assert not (tmp_path / "run" / "model_index.json").exists()
    assert [path.name for path in (tmp_path / "run" / "training").glob("checkpoint-*")] == ["checkpoint-2"]
    kept = load_file(tmp_path / "run" / "training" / "checkpoint-2" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())
    # mended, the same command goes on
    monkeypatch.undo()
    assert main(command) == 0
    assert all(math.isfinite(value) for value in losses(tmp_path / "run"))


def test_records_hold_no_bare_nan(tmp_path):
    args = recommended_training_arguments("fine", tmp_path, use_cpu=True)
    logs = {"loss": 2.0, "grad_norm": float("inf")}  # as fp16 has it, in a step that the scaler leaves out
    state = TrainerState(log_history=[dict(logs)])
    FiniteNumbersCallback("fine").on_log(args, state, TrainerControl(), logs=logs)
    assert state.log_history == [{"loss": 2.0, "grad_norm": None}]
    for name in ("loss", "eval_loss"):
        logs = {name: float("nan")}
        with pytest.raises(ValueError, match=f"step 0: the fine stage's {name} is no longer finite. Nothing is saved"):
            FiniteNumbersCallback("fine").on_log(args, TrainerState(log_history=[logs]), TrainerControl(), logs=logs)


def test_two_commands_do_not_write_to_one_output(clips, pipeline_folder, tmp_path, capsys):
    output = tmp_path / "run"
    command = train(clips, output, "--from", pipeline_folder, "--hold-out", 0)
    script = "import sys; from open_musiclm.outputs import sole_writer\nwith sole_writer(sys.argv[1]): print(1, flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", script, output], env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"1\n"
    assert main(command) == 1
    assert f"Another command is writing to {str(output)!r} (process {other.pid})" in capsys.readouterr().err
    assert not (output / "training").exists()
    other.kill()  # and what a killed one leaves is no hindrance
    other.wait()
    assert (output / ".lock.part").exists()
    assert main(command) == 0
    assert not (output / ".lock.part").exists()


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(clips, pipeline_folder, tmp_path, capsys):
    settings = ["--from", pipeline_folder, "--hold-out", 0, "--save-every", 2]
    disk = tmp_path / "disk"
    with small_disk(disk, "600k") as resize:
        command = train(clips, disk / "run", *settings)
        assert main(command) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f"open-musiclm train: Cannot write to {str(disk / 'run')!r}: ")
        assert "the same command then goes on" in error
        resize("60m")
        assert main(command) == 0
        assert main(train(clips, tmp_path / "whole", *settings)) == 0
        assert_same(weights(disk / "run"), weights(tmp_path / "whole"))


def test_what_cannot_be_meant_is_refused(clips, pipeline_folder, tmp_path, capsys):
    start = train(clips, tmp_path / "run", "--from", pipeline_folder)
    assert main([*start, "--preset", "large"]) == 1
    assert "--preset large is the size of a fresh stage" in capsys.readouterr().err
    assert main([*start, "--revision", "main"]) == 1
    assert "which has no revisions" in capsys.readouterr().err
    assert main(train(clips, tmp_path / "run", "--revision", "main")) == 1
    assert "--revision is of the Hub id given with --from" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [(), ("--lora", "4"), ("--best", "loss")], ids=["weights", "adapters", "best"])
def test_killed_between_the_last_step_and_the_result_it_does_no_step_more(clips, pipeline_folder, tmp_path, more):
    settings = ["--from", pipeline_folder, "--hold-out", 2, "--evaluate-every", 2, *more]
    assert main(train(clips, tmp_path / "whole", *settings)) == 0
    parts = tmp_path / "parts"
    (parts / "training").mkdir(parents=True)
    for path in (tmp_path / "whole" / "training").iterdir():
        copy = shutil.copytree if path.is_dir() else shutil.copyfile
        copy(path, parts / "training" / path.name)
    for state in parts.glob("training/*/trainer_state.json"):
        state.write_text(state.read_text().replace(str(tmp_path / "whole"), str(parts)))
    assert main(train(clips, parts, *settings)) == 0
    assert_same(weights(parts), weights(tmp_path / "whole"))
    summaries = [json.loads((folder / "training.json").read_text()) for folder in (parts, tmp_path / "whole")]
    assert summaries[0]["steps"] == summaries[1]["steps"] == 6
    assert summaries[0]["best"] == summaries[1]["best"]
    assert losses(parts) == losses(tmp_path / "whole")


def test_a_finished_run_is_left_alone(clips, pipeline_folder, tmp_path, capsys):
    command = train(clips, tmp_path / "run", "--from", pipeline_folder, steps=2)
    assert main(command) == 0
    before = (tmp_path / "run" / "coarse_model" / "model.safetensors").stat().st_mtime_ns
    assert main(command) == 0
    assert (tmp_path / "run" / "coarse_model" / "model.safetensors").stat().st_mtime_ns == before
    assert main([*command, "--seed", "7"]) == 1
    assert "seed was 0, is now 7" in capsys.readouterr().err


def test_killed_before_the_first_step_it_starts_again(clips, tmp_path):
    plan = TrainingPlan("coarse", str(clips), str(tmp_path / "run"))
    record = TokenDataset.load(clips).record
    plan.folder.mkdir(parents=True)
    (plan.folder / ".run.json.0123456789ab.part").write_bytes(b"{")
    plan.start(record)
    plan.start(record)
    with pytest.raises(ValueError, match="num_processes was 1, is now 2"):  # a step would be another
        plan.start(record, num_processes=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        TrainingPlan("coarse", str(clips), str(tmp_path / "mine")).start(record)


def test_a_tuned_pipeline_is_the_old_one_with_another_stage(clips, pipeline_folder, tmp_path):
    assert main(train(clips, tmp_path / "tuned", "--from", pipeline_folder, stage="semantic")) == 0
    tuned, old = (MusicLMPipeline.from_pretrained(folder) for folder in (tmp_path / "tuned", pipeline_folder))
    assert not torch.equal(tuned.semantic_model.decoder.norm.weight, old.semantic_model.decoder.norm.weight)
    assert_same(tuned.fine_model.state_dict(), old.fine_model.state_dict())
    assert tuned.semantic_model.streams == old.semantic_model.streams
    output = tmp_path / "song.wav"
    assert main(["generate", "a slow melody", "-d", "1", "-o", str(output), "--model", str(tmp_path / "tuned")]) == 0
    assert output.is_file()


@pytest.mark.parametrize("more", [(), ("--lora", "4")], ids=["weights", "adapters"])
def test_what_is_left_can_be_published_as_it_is(clips, pipeline_folder, tmp_path, more):
    """A card that names base, data and licence, and our own loader files; of a stranger's code nothing."""
    base = tmp_path / "base"
    shutil.copytree(pipeline_folder, base)
    for place in ("pipeline.py", "helpers.py", "coarse_model/open_musiclm.py", "codec/evil.py"):
        (base / place).write_text("raise SystemExit('a stranger wrote this')")
    (base / "LICENSE.txt").write_text("as you like")
    (base / "other").mkdir()
    output = tmp_path / "tuned"
    assert main(train(clips, output, "--from", base, "--license", "cc-by-4.0", *more, steps=2)) == 0
    assert not [path for path in output.rglob("*.py") if "stranger" in path.read_text()]
    there = {path.name for path in output.iterdir()}
    parts = {path.parent.name for path in base.glob("*/*.json")}
    left = {"README.md", "LICENSE.txt", "model_index.json", "pipeline.py", "training", "training.json"}
    assert there - {"adapter"} == left | parts
    own = {path.parent.name for path in output.glob("*/open_musiclm.py")}
    assert own == {path.parent.name for path in pipeline_folder.glob("*/open_musiclm.py")}

    card = ModelCard.load(output / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "diffusers"
    assert "fine-tuned from base" in card.text
    assert f"- {clips.name}, 12 files" in card.text
    assert str(tmp_path) not in card.content
    loaded = DiffusionPipeline.from_pretrained(output, trust_remote_code=True)
    assert type(loaded) is MusicLMPipeline
    # a training of that one names both data sets
    again = train(clips, tmp_path / "again", "--from", output, "--evaluation-tokens", clips, "--hold-out", 0, steps=1)
    assert main(again) == 0
    assert "fine-tuned from tuned" in (tmp_path / "again" / "README.md").read_text()


def test_links_out_of_a_pipeline_are_not_followed(clips, pipeline_folder, tmp_path, capsys):
    base = tmp_path / "base"
    shutil.copytree(pipeline_folder, base)
    (tmp_path / "secret").write_text("mine")
    (base / "codec" / "notes.json").symlink_to(tmp_path / "secret")
    assert main(train(clips, tmp_path / "tuned", "--from", base, steps=1)) == 1
    assert "is a link out of the pipeline" in capsys.readouterr().err
    assert not list((tmp_path / "tuned").rglob("notes.json"))
    # those of the Hub's cache point to the files beside a snapshot
    cache = tmp_path / "models--me--base"
    shutil.copytree(pipeline_folder, cache / "snapshots" / "abc")
    (cache / "blobs").mkdir()
    for number, path in enumerate(sorted((cache / "snapshots" / "abc" / "codec").iterdir())):
        path.rename(cache / "blobs" / str(number))
        path.symlink_to(cache / "blobs" / str(number))
    assert main(train(clips, tmp_path / "other", "--from", cache / "snapshots" / "abc", steps=1)) == 0
    weights_file = tmp_path / "other" / "codec" / "model.safetensors"
    assert weights_file.is_file()
    assert not weights_file.is_symlink()


def test_a_fresh_stage_records_the_codebooks(clips, tmp_path):
    sizes = ["hidden_size=32", "num_hidden_layers=1", "num_attention_heads=2", "head_dim=16"]
    config = [part for size in sizes for part in ("--config", size)]
    assert main(train(clips, tmp_path / "fresh", *config, "--config", "window_in_s=2.0", stage="fine", steps=2)) == 0
    from open_musiclm import MusicLMFineModel

    stage = MusicLMFineModel.from_pretrained(tmp_path / "fresh" / "stage")
    record = TokenDataset.load(clips).record
    assert stage.streams == [record.stream(name) for name in ("clap", "coarse", "fine")]
    assert stage.config.hidden_size == 32
    # and it is a place to start from
    assert main(train(clips, tmp_path / "more", "--from", tmp_path / "fresh" / "stage", stage="fine", steps=2)) == 0
    assert (tmp_path / "more" / "stage" / "config.json").is_file()


def test_evaluation_reports_every_codebook_and_the_best_is_kept(clips, pipeline_folder, tmp_path):
    # a step far too large after the first ones: the first evaluation is the best
    settings = ["--from", pipeline_folder, "--hold-out", 3, "--evaluate-every", 2, "--best", "loss"]
    command = train(clips, tmp_path / "run", *settings, "--set", "max_grad_norm=100")
    command[command.index("1e-3")] = "0.3"
    assert main(command) == 0
    summary = json.loads((tmp_path / "run" / "training.json").read_text())
    evaluations = {entry["step"]: entry for entry in summary["history"] if "eval_loss" in entry}
    assert sorted(evaluations) == [2, 4, 6]
    assert {"eval_loss_codebook_0", "eval_loss_codebook_1", "eval_accuracy_codebook_1"} <= evaluations[2].keys()
    best = min(evaluations, key=lambda step: evaluations[step]["eval_loss"])
    assert summary["best"] == {"by": "loss", "step": best, "value": evaluations[best]["eval_loss"]}
    checkpoint = tmp_path / "run" / "training" / f"checkpoint-{best}"
    assert_same(weights(tmp_path / "run"), load_file(checkpoint / "model.safetensors"))


def test_prompts_are_generated_and_choose_the_best(clips, pipeline_folder, tmp_path):
    (tmp_path / "prompts.txt").write_text("a calm piano\n\nfast drums\n")
    settings = ["--from", pipeline_folder, "--evaluate-every", 3, "--prompts", tmp_path / "prompts.txt"]
    settings += ["--prompt-length", 1, "--hold-out", 2]
    assert main(train(clips, tmp_path / "run", *settings, "--best", "clap")) == 0
    scores = [
        json.loads(line) for line in (tmp_path / "run" / "samples" / "clap_scores.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in scores] == [3, 6]
    samples = sorted(
        str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run" / "samples").rglob("*.flac")
    )
    assert samples == [f"samples/step-000000{step}/00{number}.flac" for step in (3, 6) for number in (0, 1)]
    summary = json.loads((tmp_path / "run" / "training.json").read_text())
    similarities = {entry["step"]: entry["eval_clap_score"] for entry in summary["history"]
                    if "eval_clap_score" in entry}  # fmt: skip
    assert sorted(similarities) == [3, 6]
    assert all(-1 <= value <= 1 for value in similarities.values())
    assert summary["best"]["value"] == max(similarities.values())
    # watching changes nothing of the training
    assert (
        main(train(clips, tmp_path / "unwatched", "--from", pipeline_folder, "--evaluate-every", 3, "--hold-out", 2))
        == 0
    )
    assert losses(tmp_path / "run") == losses(tmp_path / "unwatched")


def test_accumulated_batches_train_as_one(token_folder, pipeline_folder, tmp_path):
    """Of files of many lengths, some shorter than the window: each token counts once."""
    settings = ["--from", pipeline_folder, "--hold-out", 0.3, "--evaluate-every", 3]
    settings += ["--config", "hidden_dropout=0", "--config", "forgetful_mask_prob=0"]
    for name, sizes in {"one": (4, 1), "two": (2, 2), "four": (1, 4)}.items():
        command = train(
            token_folder, tmp_path / name, *settings, batch_size=sizes[0], accumulate=sizes[1], stage="semantic"
        )
        assert main(command) == 0
    expected = losses(tmp_path / "one")
    assert losses(tmp_path / "two") == pytest.approx(expected, rel=1e-4)
    assert losses(tmp_path / "four") == pytest.approx(expected, rel=1e-4)
    evaluations = [
        json.loads((tmp_path / name / "training.json").read_text())["evaluation"] for name in ("one", "four")
    ]
    assert evaluations[1]["eval_loss"] == pytest.approx(evaluations[0]["eval_loss"], rel=1e-4)


@pytest.fixture(scope="module")
def plain_losses(clips, pipeline_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("plain") / "run"
    assert main(train(clips, output, *still(pipeline_folder), steps=2)) == 0
    return losses(output)


@pytest.mark.parametrize(
    ("more", "tolerance"),
    [
        (("--precision", "bf16"), 5e-3),
        (("--gradient-checkpointing",), 1e-6),
        (("--num-workers", 1), 1e-6),
        (("--streaming",), 0.1),  # another order of files
        (("--set", "torch_compile=true", "--set", "torch_compile_backend=aot_eager"), 1e-5),
    ],
)
def test_ways_to_train_change_little(clips, pipeline_folder, tmp_path, plain_losses, more, tolerance):
    assert main(train(clips, tmp_path / "other", *still(pipeline_folder), *more, steps=2)) == 0
    assert losses(tmp_path / "other") == pytest.approx(plain_losses, rel=tolerance)


@pytest.fixture(scope="module")
def other_tokens(clips, tmp_path_factory):
    """The same music through codebooks of another seed."""
    folder = tmp_path_factory.mktemp("other")
    music_pipeline(seed=1).save_pretrained(folder / "pipeline")
    command = ["tokenize", str(clips.parent / "music"), "--model", str(folder / "pipeline"), "--device", "cpu"]
    assert main([*command, "--output", str(folder / "tokens")]) == 0
    return folder / "tokens"


def test_tokens_of_another_codebook_are_refused_before_anything_is_written(
    other_tokens, pipeline_folder, tmp_path, capsys
):
    command = train(other_tokens, tmp_path / "run", "--from", pipeline_folder)
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.count("sha256:") == 2
    assert "Codebooks differ" in error
    assert not (tmp_path / "run").exists()
    with pytest.warns(UserWarning, match="not compared"):
        assert main([*command, "--no-codebook-check"]) == 0


def test_codebooks_that_cannot_be_compared_are_warned_about(clips, tmp_path):
    tiny_stage("coarse").save_pretrained(tmp_path / "stage")
    with pytest.warns(UserWarning, match="clap, semantic, coarse cannot be compared"):
        assert main(train(clips, tmp_path / "run", "--from", tmp_path / "stage", steps=1)) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--from", "nothing/to/see"], "neither a folder nor a Hub id"),
        (["--lora", "4"], "Adapters need a stage"),
        (["--steps", "0"], "`steps` must be at least 1"),
        (["--best", "loss", "--hold-out", "0"], "needs files to evaluate on"),
        (["--best", "clap"], "needs prompts"),
        (["--prompts", "nowhere.txt"], "no file of prompts"),
        (["--prompts", __file__, "--hold-out", "0"], "hold some out"),
        (["--evaluate-every", "2", "--prompts-every", "3"], "must be a multiple"),
        (["--set", "oops"], "write NAME=VALUE"),
        (["--set", "oops=1"], "oops: no TrainingArguments"),
        (["--set", "output_dir=elsewhere"], "output_dir: no TrainingArguments"),
        (["--config", "oops=1"], "oops: no such settings"),
        (["--config", "hidden_size=many"], "do not work"),
        (["--config", "window_in_s=-1"], "do not work"),
        (["--hold-out", "12"], "Cannot hold out"),
        (["--streaming"], "cannot be held out of a stream"),
        (["--preset", "gigantic"], "Unknown preset"),
    ],
)
def test_wrong_usage_is_one_line(clips, tmp_path, capsys, more, message):
    assert main(train(clips, tmp_path / "run", *more)) == 1
    assert message in capsys.readouterr().err


def test_the_wrong_stage_is_refused(clips, pipeline_folder, tmp_path, capsys):
    assert main(train(clips, tmp_path / "run", "--from", pipeline_folder / "fine_model", stage="coarse")) == 1
    assert "not the coarse stage" in capsys.readouterr().err


def run(command, **kwargs):
    return subprocess.Popen([sys.executable, "-m", "open_musiclm", *command], env=ENVIRONMENT, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--lora", "4")], ids=["weights", "adapters"])
def test_killed_at_random_moments_it_ends_as_if_undisturbed(clips, pipeline_folder, tmp_path, more):
    """kill -9 five times in the middle of steps, once while a checkpoint is saved, twice while the result is."""
    settings = ["--from", pipeline_folder, "--save-every", 4, "--hold-out", 2, "--evaluate-every", 10, *more]
    settings += ["--log-every", 10]
    assert run(train(clips, tmp_path / "whole", *settings, steps=200)).wait() == 0
    output, chance = tmp_path / "killed", random.Random(1)
    command = train(clips, output, *settings, steps=200)

    def last_step():
        return max((int(path.name[11:]) for path in output.glob("training/checkpoint-*")), default=0)

    def kill(moment):
        """Start, wait for the moment, kill; the last checkpoint that there is then."""
        process = run(command)
        while process.poll() is None and not moment():
            time.sleep(0.0002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        return last_step()

    steps = []
    for _ in range(5):
        begun, wait = last_step(), chance.uniform(0, 0.4)
        steps.append(kill(lambda begun=begun, wait=wait: last_step() > begun and not time.sleep(wait)))
    print("last checkpoint at each kill:", steps)
    assert len(set(steps)) == 5
    assert steps[-1] < 200

    before = last_step()
    saving = kill(lambda: last_step() > before)  # the folder appears first, then what is in it
    half = output / "training" / f"checkpoint-{saving}"
    print("killed while saving, with", sorted(path.name for path in half.iterdir()))
    assert fault(half) is not None

    for _ in range(2):
        assert kill(lambda: list(output.glob(".*.part"))) == 200
        assert not (output / "training.json").exists()
        assert not (output / "model_index.json").exists()
    print("killed while copying, with", sorted(path.name for path in output.iterdir()))

    assert run(command).wait() == 0
    assert_same(weights(output), weights(tmp_path / "whole"))
    assert losses(output) == losses(tmp_path / "whole")
    assert not list(output.glob(".*"))
    MusicLMPipeline.from_pretrained(output)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--set", "fsdp=true")], ids=["ddp", "fsdp"])
def test_two_processes_train_as_one(clips, pipeline_folder, tmp_path, more):
    settings = still(pipeline_folder)
    assert main(train(clips, tmp_path / "one", *settings, steps=20, batch_size=4)) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29611"]
    command = [
        *launch,
        "-m",
        "open_musiclm",
        *train(clips, tmp_path / "two", *settings, *more, steps=20, batch_size=2),
    ]
    subprocess.run(command, env=ENVIRONMENT, check=True)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    print([(a, b) for a, b in zip(one, two, strict=True)])
    assert two == pytest.approx(one, rel=1e-4)
    assert one[-1] < 0.9 * one[0]
    # Adam turns rounding into whole steps where a gradient is nearly nothing: compare weights by their means
    found, expected = weights(tmp_path / "two"), weights(tmp_path / "one")
    assert found.keys() == expected.keys()
    assert all((found[name] - expected[name]).abs().mean() < 1e-3 for name in expected)
    assert math.isfinite(two[-1])
