"""The cheap part of the evaluation during training: fixed prompts, audio to listen to, CLAP similarity.

    trainer = Trainer(model=stage, ..., callbacks=[EvaluationCallback(pipeline, "semantic_model", prompts, "run/samples")])

After each of the Trainer's evaluations the stage that trains takes its place in the pipeline, the prompts are turned
into audio with the same seeds as always, and the mean CLAP similarity joins the evaluation's metrics as
`eval_clap_score`, where `metric_for_best_model="clap_score"` finds it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback

from ..audio import write_audio
from ..data.records import write_lines
from ..pipelines.reranking import rank_by_clap
from .prompts import Prompt
from .records import plain
from .systems.synthesis import seed_of_prompt

__all__ = ["EvaluationCallback"]


class EvaluationCallback(TrainerCallback):
    """Generates with the model as it is, saves the audio and measures its CLAP similarity to the prompts.

    Only the first process does this; the others wait for its score.

    Args:
        pipeline: A `MusicLMPipeline` whose other stages, codec and CLAP are used as they are.
        stage: What is being trained: its component, its short name, or the stream that it predicts.
        prompts: Texts; the same at every evaluation, with the same seeds.
        output_dir: Audio goes to `step-<step>/<number>.flac`, figures to `clap_scores.jsonl`, a line an evaluation.
        length_in_s: Of each clip.
        clap, clap_processor: What scores; by default the pipeline's own, which then also conditions.
        every: Run at every so-manieth evaluation only: with 3 at the third, the sixth, …
        batch_size: Prompts at once.
    """

    def __init__(
        self,
        pipeline,
        stage: str,
        prompts: Sequence[str],
        output_dir: str | Path,
        length_in_s: float = 5.0,
        seed: int = 0,
        clap=None,
        clap_processor=None,
        every: int = 1,
        batch_size: int = 4,
    ):
        if not prompts or any(not prompt.strip() for prompt in prompts):
            raise ValueError("prompts must be texts that say something, at least one.")
        if (clap is None) != (clap_processor is None):
            raise ValueError("clap and clap_processor belong together; pass both or none.")
        if every < 1 or batch_size < 1:
            raise ValueError(f"every and batch_size must be at least 1, got {every} and {batch_size}.")
        self.pipeline, self.stage = pipeline, pipeline.chain.component(stage)
        self.prompts = [Prompt(f"{number:03d}", text) for number, text in enumerate(prompts)]
        self.output_dir, self.length_in_s, self.seed = Path(output_dir), length_in_s, seed
        self.clap, self.clap_processor = clap or pipeline.clap, clap_processor or pipeline.clap_processor
        self.every, self.batch_size = every, batch_size
        self.num_evaluations = 0

    def on_train_begin(self, args, state, control, **kwargs):
        # a resumed run goes on counting where it was
        self.num_evaluations = sum("eval_runtime" in entry for entry in state.log_history)

    def on_evaluate(self, args, state, control, model=None, metrics=None, **kwargs):
        self.num_evaluations += 1
        if self.num_evaluations % self.every:
            return
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not state.is_world_process_zero and not several:
            return
        score = self._score(state, model) if state.is_world_process_zero else 0.0
        if several:
            shared = torch.tensor(score, dtype=torch.float64, device=args.device)
            torch.distributed.broadcast(shared, 0)
            score = shared.item()  # every process has to agree which checkpoint is the best
        state.log_history.append({"eval_clap_score": score, "step": state.global_step, "epoch": state.epoch})
        if metrics is not None:  # the Trainer's own dictionary, out of which it picks the best model
            metrics["eval_clap_score"] = score

    def _score(self, state, model) -> float:
        """Generate, save and compare every prompt; the mean similarity."""
        started = time.perf_counter()
        audios = self._generate(_stage_of(model))
        device = next(model.parameters()).device
        torch.nn.Module.to(self.clap, device)
        similarities = rank_by_clap(
            self.clap,
            self.clap_processor,
            [prompt.text for prompt in self.prompts],
            audios,
            self.pipeline.sampling_rate,
        ).similarities[:, 0]
        score = float(similarities.mean())
        folder = self.output_dir / f"step-{state.global_step:07d}"
        folder.mkdir(parents=True, exist_ok=True)
        for prompt, audio, similarity in zip(self.prompts, audios, similarities.tolist(), strict=True):
            about = {"prompt": prompt.text, "step": state.global_step, "clap_similarity": round(similarity, 6)}
            write_audio(folder / f"{prompt.id}.flac", audio, self.pipeline.sampling_rate, metadata=about)
        line = {
            "step": state.global_step,
            "clap_score": score,
            "similarities": similarities.tolist(),
            "took_in_s": round(time.perf_counter() - started, 3),
        }
        record = self.output_dir / "clap_scores.jsonl"
        lines = [json.loads(text) for text in record.read_text("utf-8").splitlines()] if record.is_file() else []
        # a run that resumed has been here before
        write_lines(record, [*(before for before in lines if before["step"] < state.global_step), plain(line)])
        return score

    @torch.no_grad()
    def _generate(self, model) -> list[np.ndarray]:
        """One (channels, samples) array a prompt; the model and the pipeline are left as they were."""
        before, was_training = getattr(self.pipeline, self.stage), model.training
        networks = [part for part in self.pipeline.components.values() if isinstance(part, torch.nn.Module)]
        devices = [(part, next(part.parameters()).device) for part in networks]
        bar = getattr(self.pipeline, "_progress_bar_config", {})
        audios: list[np.ndarray] = []
        try:
            setattr(self.pipeline, self.stage, model)
            self.pipeline.to(model.device)
            self.pipeline.set_progress_bar_config(**{**bar, "disable": True})
            model.eval()
            for start in range(0, len(self.prompts), self.batch_size):
                batch = self.prompts[start : start + self.batch_size]
                made = self.pipeline(
                    [prompt.text for prompt in batch],
                    audio_length_in_s=self.length_in_s,
                    generator=[
                        torch.Generator().manual_seed(seed_of_prompt(self.seed, prompt.id)) for prompt in batch
                    ],
                )
                audios += list(made.audios)
        finally:
            model.train(was_training)
            setattr(self.pipeline, self.stage, before)
            self.pipeline.set_progress_bar_config(**bar)
            for network, device in devices:
                torch.nn.Module.to(network, device)
        return audios


def _stage_of(model):
    """The stage itself, out of what wraps it for several devices or for adapters."""
    from accelerate.utils import extract_model_from_parallel

    model = extract_model_from_parallel(model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model
