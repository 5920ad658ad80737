"""Guidance as a token: a stage taught by itself makes in one branch what guidance makes in two."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny import inputs_of, patterned_stage, tiny_stage
from transformers import Trainer

from open_musiclm import MusicLMPipeline
from open_musiclm.cli import main
from open_musiclm.data import TokenDataset
from open_musiclm.models.guidance import find_guidance_stream, guidance_stream, id_of_scale, scale_of_id
from open_musiclm.training import (
    CropCollator,
    GuidanceDistillation,
    recommended_optimizer,
    recommended_training_arguments,
)
from open_musiclm.training.added_streams import add_streams
from open_musiclm.training.guidance_distillation import divergence, guided_logits, make_student, measure

SCALES = (2.0, 3.0, 6.0)


def train(tokens, base, output, *more, steps=60):
    return [
        *("train", "--stage", "semantic", "--tokens", str(tokens), "--from", str(base), "--output", str(output)),
        *("--device", "cpu", "--steps", str(steps), "--batch-size", "8", "--accumulate", "1", "--warmup-steps", "2"),
        *("--learning-rate", "1e-3", "--hold-out", "0", *map(str, more)),
    ]


@pytest.fixture(scope="module")
def teacher_folder(token_folder, pipeline_folder, tmp_path_factory):
    """A pipeline whose semantic stage has learnt what its CLAP tokens say, and to do without."""
    folder = tmp_path_factory.mktemp("teacher") / "pipe"
    plain = [f"--config={name}=0" for name in ("hidden_dropout", "forgetful_mask_prob")]
    assert main(train(token_folder, pipeline_folder, folder, "--condition-dropout", "0.3", *plain, steps=150)) == 0
    return folder


@pytest.fixture(scope="module")
def distilled_folder(token_folder, teacher_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("distilled") / "pipe"
    assert main(train(token_folder, teacher_folder, folder, "--distil-guidance", steps=250)) == 0
    return folder


def rows_computed(stage, **settings):
    """Rows of each step of a greedy generation, and its tokens."""
    rows = []
    hook = stage.decoder.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    made = stage.generate(20, clap_token_ids=torch.tensor([[3, 5, 7]]), do_sample=False, fast=False, **settings)
    hook.remove()
    assert len(set(rows)) == 1
    return rows[0], made


def rows_of_task(count, seed):
    """CLAP ids that each have tokens of their own, in half of the places."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda size, *shape: torch.randint(size, shape, generator=generator)  # noqa: E731
    clap, melody = draw(16, count, 1, 1), draw(16, count, 3, 2)
    tokens = torch.where(torch.rand(count, 6, 4, generator=generator) < 0.5, clap, draw(16, count, 6, 4))
    batch = {"clap_token_ids": clap.expand(-1, 1, 3), "melody_token_ids": melody, "acoustic_token_ids": tokens}
    return [{**{n: ids[i] for n, ids in batch.items()}, "labels": tokens[i].flatten()} for i in range(count)]


def stacked(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def test_one_branch_is_near_two(tmp_path):
    """Tokens that nobody trained on; nats a token between what the token makes and what two branches make."""
    still = {"hidden_dropout": 0.0, "forgetful_mask_prob": 0.0}
    stage = patterned_stage("flat", "parallel", condition_dropout=0.3, **still)
    rows = rows_of_task(4000, 1)

    def trained(trainer, model, steps, learning_rate, **more):
        args = recommended_training_arguments(
            model, tmp_path / "run", max_steps=steps, warmup_steps=10, learning_rate=learning_rate, use_cpu=True,
            per_device_train_batch_size=16, gradient_accumulation_steps=1, lr_scheduler_type="linear",
            save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        optimizer = recommended_optimizer(args)
        trainer(
            model, args, train_dataset=rows, data_collator=stacked, optimizer_cls_and_kwargs=optimizer, **more
        ).train()

    trained(Trainer, stage, 150, 3e-3)
    teacher, student = make_student(stage, 6.0)
    batch = stacked(rows_of_task(64, 2))
    before = {scale: measure(student, teacher, batch, scale) for scale in SCALES}
    trained(GuidanceDistillation, student, 500, 1e-2, teacher=teacher)
    for scale in SCALES:
        found = measure(student, teacher, batch, scale)
        print(f"scale {scale}: " + ", ".join(f"{name} {value:.4f} nats a token" for name, value in found.items()))
        assert found["scale as a token"] < 0.4 * found["no guidance"]
        assert found["scale as a token"] < 0.4 * before[scale]["scale as a token"]
        assert found["no guidance"] == before[scale]["no guidance"], "the teacher stays as it is"
    # where the scale is hidden the student is what the teacher is, with and without its conditioning
    labels = batch.pop("labels")
    for hidden in (False, True):
        shown = {n: torch.full_like(ids, -1) if hidden and n[0] in "cm" else ids for n, ids in batch.items()}
        with torch.no_grad():
            total, number = divergence(
                teacher(**shown).logits[..., :16].float(), student.eval()(**shown).logits, labels
            )
        assert float(total / number) < 0.03


def test_the_command_brings_one_branch_nearer(token_folder, teacher_folder, distilled_folder):
    teacher, student = (MusicLMPipeline.from_pretrained(f).semantic_model for f in (teacher_folder, distilled_folder))
    dataset = TokenDataset.load(token_folder, crops_per_file=3)
    batch = CropCollator(student, seed=99, record=dataset.record)([dataset[index] for index in range(len(dataset))])
    found = measure(student, teacher, batch, 6.0)
    print(", ".join(f"{name} {value:.4f} nats a token" for name, value in found.items()))
    assert found["scale as a token"] < 0.6 * found["no guidance"]


def test_generation_computes_one_branch(teacher_folder, distilled_folder):
    teacher, student = (MusicLMPipeline.from_pretrained(f).semantic_model for f in (teacher_folder, distilled_folder))
    assert rows_computed(teacher, guidance_scale=3.0)[0] == 2
    rows, made = rows_computed(student, guidance_scale=3.0)
    assert rows == 1
    # what a user of the token gets by hand
    by_hand = rows_computed(student, guidance_token_ids=torch.tensor([[id_of_scale(3.0, guidance_stream())]]))[1]
    assert torch.equal(made, by_hand)
    assert not torch.equal(made, rows_computed(student)[1])
    # two branches where one cannot say it: a negative prompt, a scale that was never taught
    negative = {"clap_token_ids": torch.tensor([[1, 1, 1]])}
    assert rows_computed(student, guidance_scale=3.0, negative_streams=negative)[0] == 2
    assert rows_computed(student, guidance_scale=9.0)[0] == 2
    assert rows_computed(student, guidance_scale=0.0)[0] == 2


def test_the_pipeline_asks_for_it_as_for_any_guidance(distilled_folder):
    pipe = MusicLMPipeline.from_pretrained(distilled_folder)
    pipe.set_progress_bar_config(disable=True)
    assert [s.name for s in pipe.semantic_model.streams] == ["guidance", "clap", "semantic"]

    def made(**settings):
        generator = torch.Generator().manual_seed(0)
        return pipe("a calm piano", 4.0, generator=generator, return_tokens=True, **settings).tokens["semantic"]

    guided, plain = made(guidance_scale=4.0), made()
    assert not torch.equal(guided, plain)
    assert torch.equal(made(guidance_token_ids=torch.tensor([[12]])), guided)
    assert made(guidance_scale=4.0, negative_prompt="loud drums").shape == guided.shape


def test_interrupted_distillation_goes_on_bit_for_bit(token_folder, teacher_folder, tmp_path):
    more = ["--distil-guidance", "4", "--save-every", 3]
    assert main(train(token_folder, teacher_folder, tmp_path / "whole", *more, steps=6)) == 0
    assert main(train(token_folder, teacher_folder, tmp_path / "halves", *more, steps=3)) == 0
    assert main(train(token_folder, teacher_folder, tmp_path / "halves", *more, steps=6)) == 0
    whole, halves = (load_file(tmp_path / n / "semantic_model" / "model.safetensors") for n in ("whole", "halves"))
    assert all(torch.equal(whole[name], halves[name]) for name in whole)
    config = json.loads((tmp_path / "whole" / "semantic_model" / "config.json").read_text())
    assert config["streams"][0]["codebook_size"] == 13, "scales from 1 to 4, a quarter apart"


def test_held_out_divergence_is_reported(token_folder, teacher_folder, tmp_path):
    command = train(
        token_folder, teacher_folder, tmp_path / "run", "--distil-guidance", "--evaluate-every", 2, steps=4
    )
    command[command.index("--hold-out") + 1] = "2"
    assert main(command) == 0
    history = json.loads((tmp_path / "run" / "training.json").read_text())["history"]
    held_out = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    assert len(held_out) == 2
    assert all(0 < value < 1 for value in held_out)


@pytest.mark.parametrize("make", [lambda: tiny_stage("coarse", condition_dropout=0.2), lambda: patterned_stage(condition_dropout=0.2)])  # fmt: skip
def test_mixed_logits_are_those_that_guidance_draws_from(make):
    """Greedy tokens of guided generation are the best of the teacher's mixed logits, in every pattern."""
    model = make()
    given = inputs_of(model)
    given.pop(model.predicted_stream.argument)
    made = model.generate(6, **given, guidance_scale=3.0, do_sample=False)
    mixed = guided_logits(model, {**given, model.predicted_stream.argument: made}, torch.full((2,), 3.0))
    assert torch.equal(mixed[:, : made.flatten(1).shape[1]].argmax(-1), made.flatten(1))


def test_divergence_is_that_of_two_distributions():
    generator = torch.Generator().manual_seed(0)
    target, logits = (torch.randn(2, 5, 7, generator=generator) for _ in range(2))
    labels = torch.tensor([[0, 1, -100, 3], [6, -100, 7, 2]])  # 7 is EOS, and the fifth logits follow what is given
    total, number = divergence(target, logits, labels)
    p, q = target.softmax(-1), logits.softmax(-1)
    each = (p * (p / q).log()).sum(-1)
    counted = [(0, 0), (0, 1), (0, 3), (1, 0), (1, 3)]
    assert int(number) == len(counted)
    assert float(total) == pytest.approx(sum(float(each[place]) for place in counted), rel=1e-5)
    assert float(divergence(target, target, labels)[0]) == pytest.approx(0, abs=1e-5)


def test_scales_and_ids():
    stream = guidance_stream(4.0)
    assert [scale_of_id(i) for i in (0, 4, stream.codebook_size - 1)] == [1.0, 2.0, 4.0]
    assert (id_of_scale(2.1, stream), id_of_scale(4.2, stream), id_of_scale(0.5, stream)) == (4, None, None)
    assert find_guidance_stream(tiny_stage("semantic").streams) is None
    with pytest.raises(ValueError, match="must be above 1, got 1"):
        guidance_stream(1)


def test_what_cannot_be_distilled_is_refused(token_folder, pipeline_folder, tmp_path, capsys):
    with pytest.raises(ValueError, match="never was without"):
        make_student(tiny_stage("semantic"), 8.0)
    with pytest.raises(ValueError, match="reads its guidance scale already"):
        make_student(add_streams(tiny_stage("semantic", condition_dropout=0.1), [guidance_stream()]), 8.0)
    for more, message in (
        (["--distil-guidance"], "Train it with `--condition-dropout 0.2` first"),
        (["--distil-guidance", "--lora", "4"], "neither adapters nor further streams"),
        (["--distil-guidance", "0.5"], "must be above 1, got 0.5"),
    ):
        if message.startswith("must"):
            more = [*more, "--condition-dropout", "0.1"]
        assert main(train(token_folder, pipeline_folder, tmp_path / "run", *more, steps=2)) == 1
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
