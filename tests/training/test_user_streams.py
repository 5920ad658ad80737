"""A user's own training gets streams: `tokenize --streams`, then `train --streams`, from nothing and from a pipeline."""

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from music import music_pipeline
from safetensors.torch import load_file
from tiny import tiny_stage

from open_musiclm import MusicLMPipeline, TokenStream
from open_musiclm.cli import build_parser, main
from open_musiclm.data import TokenDataset
from open_musiclm.models.stages import MusicLMCoarseModel
from open_musiclm.training import CropCollator
from open_musiclm.training.added_streams import add_streams

RATE = 16_000
DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def noise(loud, seed, seconds=6.0):
    """Noise, loud or soft: what a genre sounds like here."""
    return np.random.default_rng(seed).normal(0, 0.2 if loud else 0.003, round(seconds * RATE))


@pytest.fixture(scope="module")
def tokens(pipeline_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("genres")
    (folder / "music").mkdir()
    with open(folder / "music" / "metadata.csv", "w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["file_name", "caption", "genre"])
        for index in range(12):
            soundfile.write(folder / "music" / f"{index:02d}.wav", noise(index % 2 == 0, index), RATE)
            writer.writerow([f"{index:02d}.wav", "noise", ("rumble", "hiss")[index % 2]])
    command = ["tokenize", str(folder / "music"), "--model", str(pipeline_folder), "--device", "cpu"]
    assert main([*command, "--streams", "genre,tempo", "--output", str(folder / "tokens")]) == 0
    return folder / "tokens"


def train(tokens, output, *more, steps=60):
    return [
        *("train", "--stage", "coarse", "--tokens", str(tokens), "--output", str(output), "--device", "cpu"),
        *("--steps", str(steps), "--batch-size", "8", "--accumulate", "1", "--learning-rate", "3e-3"),
        *("--warmup-steps", "2", "--config", "hidden_dropout=0", "--config", "forgetful_mask_prob=0"),
        *map(str, more),
    ]


@torch.no_grad()
def loss_with(stage, tokens, genre):
    """Mean loss of the first frame (later ones hear how loud it is) over the clips where genre is theirs (`0`), the other (`1`), or hidden (`None`), all else hidden."""
    dataset = TokenDataset.load(tokens, crops_per_file=1)
    batch = CropCollator(stage, record=dataset.record)([dataset[index] for index in range(len(dataset))])
    for stream in stage.condition_streams:
        if stream.name in ("clap", "semantic"):
            batch[stream.argument][:] = -1
    batch["labels"][:, 2:] = -100
    own = batch["genre_token_ids"]
    batch["genre_token_ids"] = torch.full_like(own, -1) if genre is None else torch.where(own < 0, own, own ^ genre)
    return stage.eval()(**batch).loss.item()


def test_from_nothing_a_genre_is_learnt_and_may_be_left_out(tokens, tmp_path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "window_in_s": 2.0, "window_stride_in_s": 1.0}
    small = [f"--config={name}={value}" for name, value in sizes.items()]
    assert main(train(tokens, tmp_path / "run", "--streams", "genre,tempo", *small, "--hold-out", 0, steps=100)) == 0
    stage = MusicLMCoarseModel.from_pretrained(tmp_path / "run" / "stage")
    assert [s.name for s in stage.streams] == ["genre", "tempo", "clap", "semantic", "coarse"]
    assert all(stream.optional for stream in stage.condition_streams)
    assert stage.config.condition_dropout == 0.2
    assert stage.streams[0].vocabulary == ("hiss", "rumble")
    right, wrong, hidden = (loss_with(stage, tokens, genre) for genre in (0, 1, None))
    print(f"loss with the right genre {right:.3f}, with none {hidden:.3f}, with the wrong one {wrong:.3f}")
    assert right < hidden - 0.02 < wrong - 0.3


def used(token_ids):
    """How often each of 16 tokens is used."""
    return np.bincount(token_ids.flatten(), minlength=16) / token_ids.size


@pytest.fixture(scope="module")
def unconditional(tmp_path_factory):
    """A pipeline of one stage that makes the first codebooks of anything."""
    pipe, folder = music_pipeline(), tmp_path_factory.mktemp("unconditional")
    stage = tiny_stage("coarse", [pipe.coarse_model.predicted_stream.to_dict()])
    kept = {name: part for name, part in pipe.components.items() if part is not None and not name.endswith("_model")}
    MusicLMPipeline(**kept, acoustic_model=stage).save_pretrained(folder)
    return folder


def test_a_pipelines_stage_is_given_streams_and_the_pipeline_asked_for_them(tokens, unconditional, tmp_path):
    more = ["--from", unconditional, "--hold-out", 0, "--streams", "genre"]
    assert main(train(tokens, tmp_path / "tuned", *more, steps=100)) == 0
    pipe = MusicLMPipeline.from_pretrained(tmp_path / "tuned")
    pipe.set_progress_bar_config(disable=True)
    stage = pipe.acoustic_model
    assert [s.name for s in stage.streams] == ["genre", "coarse"]
    assert stage.config.condition_dropout == 0.2, "or it could not do without"
    right, wrong, hidden = (loss_with(stage, tokens, genre) for genre in (0, 1, None))
    print(f"loss with the right genre {right:.3f}, with none {hidden:.3f}, with the wrong one {wrong:.3f}")
    assert right < hidden - 0.1 < wrong - 0.3

    def made(genre):
        generators = [torch.Generator().manual_seed(seed) for seed in range(8)]
        asked = {"genre": genre, "num_waveforms_per_prompt": 8, "generator": generators, "return_tokens": True}
        return used(pipe(audio_length_in_s=2.0, **asked).tokens["coarse"][..., 0].numpy())

    dataset = TokenDataset.load(tokens, crops_per_file=1)
    rows = [dataset[index] for index in range(len(dataset))]
    sums = np.zeros(2)
    for place, genre in enumerate(stage.streams[0].vocabulary):
        own, other = (
            used(np.concatenate([r["coarse_token_ids"][:, 0] for r in rows if (r["genre_token_ids"][0, 0] == place) == is_own]))
            for is_own in (True, False)
        )  # fmt: skip
        distances = [float(np.abs(made(genre) - real).sum() / 2) for real in (own, other)]
        print(
            f"{genre}: share of other tokens than recordings of it have {distances[0]:.3f}, of the other {distances[1]:.3f}"
        )
        assert distances[0] < distances[1]
        sums += distances
    assert sums[0] < 0.6 * sums[1]
    with pytest.raises(ValueError, match="no genre 'his'; the nearest it knows: hiss"):
        made("his")
    # further training needs no more options: the stream is the stage's own
    again = ["--from", tmp_path / "tuned", "--hold-out", 0]
    assert main(train(tokens, tmp_path / "again", *again, steps=2)) == 0
    assert json.loads((tmp_path / "again" / "training.json").read_text())["steps"] == 2


def test_interrupted_training_with_streams_goes_on_bit_for_bit(tokens, pipeline_folder, tmp_path):
    more = ["--from", pipeline_folder, "--hold-out", 0, "--streams", "genre", "--save-every", 3]
    assert main(train(tokens, tmp_path / "whole", *more, steps=6)) == 0
    assert main(train(tokens, tmp_path / "halves", *more, steps=3)) == 0
    assert main(train(tokens, tmp_path / "halves", *more, steps=6)) == 0
    whole, halves = (load_file(tmp_path / n / "coarse_model" / "model.safetensors") for n in ("whole", "halves"))
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    changed = train(tokens, tmp_path / "halves", *more[:-4], "--streams", "genre,tempo", steps=6)
    assert main(changed) == 1


class TestAddedStreams:
    def test_nothing_else_changes(self):
        stage = tiny_stage("semantic", hidden_dropout=0.0)
        genre = TokenStream("genre", 2, 2, pattern="parallel", optional=True, vocabulary=("a", "b"))
        grown = add_streams(stage, [genre], 0.1)
        for name, value in stage.state_dict().items():
            assert torch.equal(grown.state_dict()[name], value), name
        assert grown.generation_config.to_dict() == stage.generation_config.to_dict()
        ids = {"clap_token_ids": torch.zeros(1, 3, dtype=int), "semantic_token_ids": torch.arange(20)[None]}
        with torch.no_grad():
            before, hidden = stage(**ids).logits, grown(**ids).logits
            other = grown(**ids, genre_token_ids=torch.tensor([[[1, -1]]])).logits
        assert not torch.equal(hidden, other)
        assert (hidden - before).abs().max() < (other - before).abs().max()
        assert add_streams(grown, [genre]) is grown, "what it has it keeps"

    def test_other_names_take_the_place_of_those_it_knew(self):
        genre = TokenStream("genre", 2, 2, pattern="parallel", optional=True, vocabulary=("a", "b"))
        stage = add_streams(tiny_stage("semantic"), [genre])
        other = TokenStream("genre", 3, 2, pattern="parallel", optional=True, vocabulary=("c", "d", "e"))
        changed = add_streams(stage, [other])
        assert [s.name for s in changed.streams] == ["genre", "clap", "semantic"]
        assert changed.streams[0].vocabulary == ("c", "d", "e")
        assert changed.embeddings["genre"].weight.shape == (8, 32)
        assert torch.equal(changed.embeddings["clap"].weight, stage.embeddings["clap"].weight)


def test_names_that_differ_are_refused(tokens, pipeline_folder, tmp_path, capsys):
    genre = TokenStream(
        "genre", 2, 2, pattern="parallel", optional=True, first_codebook=0, vocabulary=("hiss", "roar")
    )
    pipe = music_pipeline()
    pipe.register_modules(coarse_model=add_streams(pipe.coarse_model, [genre]))
    pipe.save_pretrained(tmp_path / "pipe")
    assert main(train(tokens, tmp_path / "run", "--from", tmp_path / "pipe", steps=2)) == 1
    assert "their names differ, id 1 is 'rumble' for the one, 'roar' for the other" in capsys.readouterr().err
    assert main(train(tokens, tmp_path / "run", "--from", tmp_path / "pipe", "--streams", "genre", steps=2)) == 0
    stage = MusicLMCoarseModel.from_pretrained(tmp_path / "run" / "coarse_model")
    assert stage.streams[0].vocabulary == ("hiss", "rumble"), "asked for by name, the tokens' own take their place"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--streams", "melody"], "no stream 'melody' that a stage could be conditioned on besides its own; they have genre, tempo"),
        (["--streams", "clap"], "no stream 'clap'"),
        (["--streams", "genre", "--lora", "4"], "cannot give it a stream that is new to it"),
        (["--condition-dropout", "1"], "must lie in [0, 1), got 1"),
        (["--pattern", "delay"], "A stage that is started from has its pattern"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(tokens, pipeline_folder, tmp_path, capsys, more, message):
    assert main(train(tokens, tmp_path / "run", "--from", pipeline_folder, *more)) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("pattern", ["flat", "delay", "parallel"])
def test_a_fresh_stage_in_any_pattern(tokens, tmp_path, pattern):
    command = train(
        tokens,
        tmp_path / "run",
        "--pattern",
        pattern,
        "--config",
        "window_in_s=2.0",
        "--config",
        "window_stride_in_s=1.0",
        steps=2,
    )
    command[command.index("coarse")] = "acoustic"
    assert main([*command, "--preset", "single_stage", "--config", "num_hidden_layers=1"]) == 0
    config = json.loads((tmp_path / "run" / "stage" / "config.json").read_text())
    assert config["streams"][-1]["pattern"] == pattern
    assert config["streams"][-1]["num_codebooks"] == 5
    assert config["condition_dropout"] == 0.2


def test_readmes_commands_for_training_are_commands():
    readme = (DOCS.parents[1] / "README.md").read_text(encoding="utf-8")
    table = readme.split("| | command, on your own music |")[1].split("\n\n")[0]
    commands = re.findall(r"`open-musiclm ([^`]+)`", table)
    assert len(commands) == 6
    for command in commands:
        args = build_parser().parse_args(shlex.split(command))  # exits for a command that is none
        assert args.command in ("tokenize", "train")


@pytest.mark.slow
def test_the_commands_of_the_documentation(tmp_path):
    """docs/training.md, "Streams of your own": ten clips, the model in the box, every command as it stands."""
    section = DOCS.read_text(encoding="utf-8").split("## Streams of your own")[1].split("\n## ")[0]
    block = re.search(r"```\n(.*?)```", section, re.DOTALL).group(1)
    commands = [line for line in block.splitlines() if line.strip()]
    assert [shlex.split(line)[1] for line in commands[1:]] == ["tokenize", "train", "generate", "generate"]
    root = Path(__file__).parents[2]
    for line in commands:
        program, *arguments = shlex.split(line)
        if program == "python":
            arguments = [str(root / arguments[0]), *arguments[1:]]
        else:
            arguments = ["-m", "open_musiclm", *arguments]
        result = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
        print(f"$ {line}\n{result.stdout}")
    slow, fast = (soundfile.read(tmp_path / name)[0] for name in ("slow.wav", "fast.wav"))
    assert len(slow) == len(fast)
    assert np.abs(slow - fast).max() > 0.01
