"""A fixed set of prompts, generated while a stage trains: what the loss cannot tell.

The published experiments found that the loss of tokens falls while the agreement with prompts gets worse, so at each
evaluation the prompts are generated with the stage as it is, saved, and compared with their texts by CLAP.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from ..audio import resample, write_audio
from ..tokenization import clap_audio_embeddings, clap_text_embeddings

METRIC = "eval_clap_similarity"


class PromptCallback(TrainerCallback):
    """Generates prompts at evaluations and reports `eval_clap_similarity`, the mean cosine of text and audio.

    Args:
        pipeline: a `MusicLMPipeline` on the training device.
        component: which of its components is being trained: `"semantic_model"`, …
        prompts: texts.
        output_dir: audio goes to `step-{step}/{number}.wav` in it.
        audio_length_in_s: of each.
        seed: the same noise at every evaluation.
        every_steps: only at evaluations after a multiple of so many steps; by default at each.
    """

    def __init__(
        self,
        pipeline: Any,
        component: str,
        prompts: Sequence[str],
        output_dir: str | Path,
        audio_length_in_s: float = 10.0,
        seed: int = 0,
        every_steps: int | None = None,
    ):
        if not prompts or any(not prompt.strip() for prompt in prompts):
            raise ValueError("Give at least one prompt, each a text that says something.")
        self.pipeline = pipeline
        self.component = component
        self.prompts = list(prompts)
        self.output_dir = Path(output_dir)
        self.audio_length_in_s = audio_length_in_s
        self.seed = seed
        self.every_steps = every_steps

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, model: Any = None, **kwargs: Any):
        if self.every_steps is not None and state.global_step % self.every_steps:
            return
        similarity = torch.zeros((), dtype=torch.float64, device=args.device)
        if state.is_world_process_zero:
            similarity += self.generate(model, state.global_step)
        if torch.distributed.is_initialized():
            torch.distributed.broadcast(similarity, 0)
        if metrics is not None:
            metrics[METRIC] = similarity.item()  # what the best checkpoint is chosen by
        state.log_history.append({METRIC: similarity.item(), "step": state.global_step, "epoch": state.epoch})
        if state.is_world_process_zero:
            print(f"step {state.global_step}: clap similarity {similarity.item():.4f}")

    @torch.no_grad()
    def generate(self, model: Any, step: int) -> float:
        """Generate, save and compare every prompt; returns the mean cosine."""
        model = getattr(model, "module", model)  # DistributedDataParallel
        stage = model.get_base_model() if hasattr(model, "get_base_model") else model
        before, was_training = getattr(self.pipeline, self.component), stage.training
        setattr(self.pipeline, self.component, stage.eval())
        try:
            generators = [torch.Generator().manual_seed(self.seed + index) for index in range(len(self.prompts))]
            self.pipeline.set_progress_bar_config(disable=True)
            audios = self.pipeline(self.prompts, audio_length_in_s=self.audio_length_in_s, generator=generators).audios
        finally:
            setattr(self.pipeline, self.component, before)
            stage.train(was_training)
        folder = self.output_dir / f"step-{step:07d}"
        folder.mkdir(parents=True, exist_ok=True)
        for index, (prompt, audio) in enumerate(zip(self.prompts, audios, strict=True), start=1):
            path = folder / f"{index:02d}.wav"
            write_audio(path, audio, self.pipeline.sampling_rate, {"prompt": prompt, "step": step, "seed": self.seed})
        return self.similarity(audios)

    def similarity(self, audios: np.ndarray) -> float:
        """Mean cosine of the prompts and their audio (batch, channels, samples), over CLAP's windows side by side."""
        clap, processor = self.pipeline.clap, self.pipeline.clap_processor
        texts = clap_text_embeddings(clap, processor, self.prompts)
        extractor = processor.feature_extractor
        cosines = []
        for text, audio in zip(texts, audios, strict=True):
            mono = resample(audio.mean(axis=0), self.pipeline.sampling_rate, extractor.sampling_rate)
            length = min(len(mono), extractor.nb_max_samples)
            windows = [mono[start : start + length] for start in range(0, len(mono) - length + 1, length)]
            embeddings = clap_audio_embeddings(clap, processor, np.stack(windows))
            cosines.append((embeddings @ text).mean())
        return torch.stack(cosines).mean().item()
