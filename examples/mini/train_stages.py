"""Train the three stages with transformers' Trainer on the tokens of the corpus.

MusicLM trains its stages on CLAP tokens of the audio itself and generates from those of a text. With a CLAP as small as
this one the two differ noticeably, so half of the training windows are conditioned on the tokens of one of the clip's
captions instead.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from recipe import Recipe, Training
from safetensors.torch import load_file
from torch.utils.data import Dataset
from training_loop import CHECKPOINT_EVERY_IN_S, pick_device
from transformers import EncodecModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from open_musiclm import (
    ClapQuantizer,
    MusicLMCoarseConfig,
    MusicLMCoarseModel,
    MusicLMFineConfig,
    MusicLMFineModel,
    MusicLMSemanticConfig,
    MusicLMSemanticModel,
    MusicLMStageModel,
    SemanticQuantizer,
)
from open_musiclm.tokenizers.compatibility import acoustic_stream, clap_stream, semantic_stream

CAPTION_SHARE = 0.5
STAGES = ("semantic", "coarse", "fine")


class TokenWindows(Dataset):
    """Random windows of the tokens; item i is the same in every run, so that a resumed training sees what it would have.

    An item holds `{stream}_token_ids` for each stream of the stage, and `labels`, those of the predicted one.
    """

    def __init__(self, path: Path, stage: MusicLMStageModel, num_coarse: int, num_items: int, seed: int):
        tokens = load_file(path)
        self.captions, self.clap = tokens["clap_text"], tokens["clap_audio"]
        self.timed = {
            "semantic": tokens["semantic"],
            "coarse": tokens["codec"][..., :num_coarse],
            "fine": tokens["codec"][..., num_coarse:],
        }
        self.streams = [s for s in stage.streams if s.frame_rate is not None]
        self.predicted = stage.predicted_stream.argument
        self.window_in_s = stage.config.window_in_s
        # windows start where frames of all streams meet: at the frames of the slowest one
        self.grid_rate = min(s.frame_rate for s in self.streams)
        longest = min((len(self.timed[s.name][0]) + s.num_edge_frames) / s.frame_rate for s in self.streams)
        self.num_starts = int((longest - self.window_in_s) * self.grid_rate) + 1
        self.num_items, self.seed = num_items, seed

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.seed, item])
        clip = int(rng.integers(len(self.clap)))
        start_in_s = int(rng.integers(self.num_starts)) / self.grid_rate
        clap = self.clap[clip]
        if rng.random() < CAPTION_SHARE:
            clap = self.captions[clip, int(rng.integers(self.captions.shape[1]))]
        window = {"clap_token_ids": clap.long()}
        for stream in self.streams:
            first = round(start_in_s * stream.frame_rate)
            num_frames = round(self.window_in_s * stream.frame_rate) - stream.num_edge_frames
            window[stream.argument] = self.timed[stream.name][clip, first : first + num_frames].long()
        return window | {"labels": window[self.predicted]}


class SaveEveryMinute(TrainerCallback):
    def __init__(self) -> None:
        self.saved_at = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        if time.monotonic() - self.saved_at > CHECKPOINT_EVERY_IN_S:
            control.should_save = True
            self.saved_at = time.monotonic()


def make_stage(name: str, models: Path, recipe: Recipe) -> MusicLMStageModel:
    """An untrained stage whose streams carry the fingerprints of the codebooks in `models`."""
    codec = EncodecModel.from_pretrained(models / "codec", dtype=torch.float32)
    clap = clap_stream(ClapQuantizer.from_pretrained(models / "clap_quantizer"))
    semantic = semantic_stream(SemanticQuantizer.from_pretrained(models / "semantic_quantizer"))
    coarse = acoustic_stream(codec, "coarse", 0, recipe.num_coarse)
    fine = acoustic_stream(codec, "fine", recipe.num_coarse, recipe.num_fine)
    kinds = {
        "semantic": (MusicLMSemanticModel, MusicLMSemanticConfig, [clap, semantic], 10.0, 5.0),
        "coarse": (MusicLMCoarseModel, MusicLMCoarseConfig, [clap, semantic, coarse], 4.0, 2.0),
        "fine": (MusicLMFineModel, MusicLMFineConfig, [clap, coarse, fine], 2.0, 2.0),
    }
    model_class, config_class, streams, window_in_s, stride_in_s = kinds[name]
    config = config_class(
        streams=[stream.to_dict() for stream in streams],
        hidden_size=recipe.stage_hidden_size,
        num_hidden_layers=recipe.stage_num_layers[STAGES.index(name)],
        num_attention_heads=4,
        head_dim=48,
        intermediate_size=recipe.stage_intermediate_size,
        window_in_s=window_in_s,
        window_stride_in_s=stride_in_s,
        hidden_dropout=0.05,
        forgetful_mask_prob=0.1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return model_class(config)


def last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint whose last file is there; a kill may have left a newer one in pieces."""
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def train_stage(name: str, tokens: Path, work: Path, models: Path, recipe: Recipe) -> None:
    output = models / f"{name}_model"
    if (output / "model.safetensors").exists():
        return
    stage = make_stage(name, models, recipe)
    training: Training = getattr(recipe, f"{name}_stage")
    folder = work / f"{name}_stage"
    num_items = training.num_steps * training.batch_size
    windows = TokenWindows(tokens / "train.safetensors", stage, recipe.num_coarse, num_items, recipe.seed)
    on_gpu = pick_device().type == "cuda"
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=training.num_steps,
        per_device_train_batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(training.num_steps // 20, 1),
        weight_decay=0.01,
        adam_beta2=0.99,
        max_grad_norm=0.5,
        dataloader_pin_memory=on_gpu,
        logging_steps=max(training.num_steps // 30, 1),
        save_strategy="no",  # by the clock instead
        save_total_limit=2,
        remove_unused_columns=False,
        report_to="none",
        seed=recipe.seed,
        disable_tqdm=False,
    )
    trainer = Trainer(model=stage, args=arguments, train_dataset=windows, callbacks=[SaveEveryMinute()])
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(folder))
    report_loss(name, stage.eval(), TokenWindows(tokens / "heldout.safetensors", stage, recipe.num_coarse, 64, 1))
    part = output.with_name(output.name + ".part")
    stage.set_attn_implementation("sdpa")
    stage.float().cpu().save_pretrained(part)
    part.rename(output)


@torch.no_grad()
def report_loss(name: str, stage: MusicLMStageModel, windows: TokenWindows) -> None:
    losses = []
    for start in range(0, len(windows), 16):
        items = [windows[i] for i in range(start, start + 16)]
        batch = {key: torch.stack([item[key] for item in items]).to(stage.device) for key in items[0]}
        losses.append(stage(**batch).loss.item())
    chance = math.log(stage.predicted_stream.codebook_size)
    print(f"{name} stage: held-out loss {np.mean(losses):.3f} nats a token (a uniform guess has {chance:.2f})")


def train_stages(tokens: Path, work: Path, models: Path, recipe: Recipe) -> None:
    for name in STAGES:
        train_stage(name, tokens, work, models, recipe)
