"""The callback in a real Trainer on a tiny stage."""

import json

import numpy as np
import pytest
import soundfile
import torch
from tiny import tiny_pipeline
from transformers import Trainer, TrainingArguments

from open_musiclm.audio import read_metadata
from open_musiclm.evaluation.callback import EvaluationCallback
from open_musiclm.pipelines.reranking import rank_by_clap

PROMPTS = ["a calm piano", "fast drums", "slow guitar"]


def examples(num=8):
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(num):
        semantic = torch.randint(0, 20, (25,), generator=generator)
        clap = torch.randint(0, 16, (3,), generator=generator)
        rows.append({"clap_token_ids": clap, "semantic_token_ids": semantic, "labels": semantic})
    return rows


@pytest.fixture
def run(tmp_path):
    pipeline = tiny_pipeline(seed=3)
    pipeline.set_progress_bar_config(disable=True)
    model = tiny_pipeline(seed=4).semantic_model
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=4, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
        per_device_train_batch_size=4, learning_rate=1e-2, report_to=[], use_cpu=True, disable_tqdm=True,
        remove_unused_columns=False,
        metric_for_best_model="clap_score", greater_is_better=True, label_names=["labels"], seed=0,
    )  # fmt: skip
    callback = EvaluationCallback(
        pipeline, "semantic_model", PROMPTS, tmp_path / "samples", length_in_s=0.5, batch_size=2
    )
    before = pipeline.semantic_model
    trainer = Trainer(model, arguments, train_dataset=examples(), eval_dataset=examples(2), callbacks=[callback])
    trainer.train()
    assert pipeline.semantic_model is before
    return pipeline, model, trainer, tmp_path / "samples"


def test_audio_figures_and_the_best_model(run):
    pipeline, _, trainer, samples = run
    lines = [json.loads(line) for line in (samples / "clap_scores.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert sorted(path.name for path in (samples / "step-0000004").iterdir()) == ["000.flac", "001.flac", "002.flac"]
    for line in lines:
        audios = [soundfile.read(samples / f"step-{line['step']:07d}" / f"{i:03d}.flac")[0][None] for i in range(3)]
        again = rank_by_clap(pipeline.clap, pipeline.clap_processor, PROMPTS, audios, 8000)
        assert line["similarities"] == pytest.approx(again.similarities[:, 0].tolist(), abs=1e-3)
        assert line["clap_score"] == pytest.approx(np.mean(line["similarities"]))
    assert read_metadata(samples / "step-0000002" / "001.flac")["prompt"] == "fast drums"
    assert trainer.state.best_metric == pytest.approx(max(line["clap_score"] for line in lines))
    logged = [entry["eval_clap_score"] for entry in trainer.state.log_history if "eval_clap_score" in entry]
    assert logged == [line["clap_score"] for line in lines]
    one, two = (soundfile.read(samples / f"step-{step:07d}" / "000.flac")[0] for step in (2, 4))
    assert (one != two).any()  # it is the model as it was at that step


def test_model_and_random_state_are_left_as_they_were(run, tmp_path):
    pipeline, model, *_ = run
    model.train()
    callback = EvaluationCallback(pipeline, "semantic_model", PROMPTS, tmp_path / "more", length_in_s=0.5)
    before = torch.get_rng_state()
    first = callback._generate(model)
    assert (torch.get_rng_state() == before).all()
    assert model.training
    second = callback._generate(model)
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_a_step_done_again_has_one_line(tmp_path):
    from types import SimpleNamespace

    pipeline = tiny_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    callback = EvaluationCallback(pipeline, "fine_model", PROMPTS[:1], tmp_path, length_in_s=0.5)
    for step in (10, 20, 30, 20):  # killed after 30, resumed from before 20
        state = SimpleNamespace(is_world_process_zero=True, global_step=step, epoch=0.0, log_history=[])
        callback.on_evaluate(None, state, None, model=pipeline.fine_model, metrics={})
    lines = [json.loads(line) for line in (tmp_path / "clap_scores.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20]


def test_every_second_evaluation_and_first_process_only(tmp_path):
    from types import SimpleNamespace

    pipeline = tiny_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    model = pipeline.coarse_model
    callback = EvaluationCallback(pipeline, "coarse_model", PROMPTS[:1], tmp_path, length_in_s=0.5, every=2)
    for step in range(1, 5):
        state = SimpleNamespace(is_world_process_zero=step != 4, global_step=step, epoch=0.0, log_history=[])
        callback.on_evaluate(None, state, None, model=model, metrics={})
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-0000002"]


@pytest.mark.parametrize(
    ("change", "said"),
    [({"stage": "codec"}, "no stage 'codec'; there are semantic"), ({"prompts": []}, "at least one"), ({"prompts": [" "]}, "say something"),
     ({"clap": 1}, "belong together"), ({"every": 0}, "at least 1")],
)  # fmt: skip
def test_bad_arguments(change, said, tmp_path):
    arguments = {"stage": "fine_model", "prompts": PROMPTS, "output_dir": tmp_path, **change}
    with pytest.raises(ValueError, match=said):
        EvaluationCallback(tiny_pipeline(), **arguments)
