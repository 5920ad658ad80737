"""The `TrainingArguments` that the published stages were trained with."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import TrainingArguments

from ..models.configuration import MusicLMStageConfig

#: linear warm-up, batch of a device, batches accumulated (open-musiclm's training config)
PUBLISHED = {
    "semantic": {"warmup_steps": 3000, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 8},
    "coarse": {"warmup_steps": 6000, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8},
    "fine": {"warmup_steps": 0, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 8},
}


#: whose arguments a stage has that is none of the three
OTHERS_AS = "semantic"


def published_arguments(stage: str) -> dict[str, int]:
    """Warm-up and batches of a stage by its short name, or the stream that it predicts."""
    return PUBLISHED.get(stage, PUBLISHED[OTHERS_AS])


def recommended_training_arguments(
    stage: str | MusicLMStageConfig, output_dir: str | os.PathLike, **overrides: Any
) -> TrainingArguments:
    """What a stage was trained with, to be changed by any argument of `TrainingArguments`.

    AdamW with betas (0.9, 0.99), learning rate 3e-4 after a linear warm-up of 3000 / 6000 / 0 steps, weight decay 0.01,
    gradients clipped to a norm of 0.5, batches of 4·8 / 2·8 / 2·8 sequences.

    Args:
        stage: the name of a published stage, a stage's config, or the stage. A stage that predicts another stream has
            the arguments of the semantic one.
        output_dir: where checkpoints go.
    """
    config = getattr(stage, "config", stage)
    name = config if isinstance(config, str) else config.predicted_stream.name
    if isinstance(stage, str) and name not in PUBLISHED:
        raise ValueError(f"Unknown stage {name!r}; there are {sorted(PUBLISHED)}.")
    recommended = {
        "learning_rate": 3e-4,
        "lr_scheduler_type": "constant_with_warmup",
        "adam_beta1": 0.9,
        "adam_beta2": 0.99,
        "weight_decay": 0.01,
        "max_grad_norm": 0.5,
        **published_arguments(name),
        "remove_unused_columns": False,  # the collator reads whole files
        "ddp_find_unused_parameters": True,  # conditioning streams' heads have no loss
        "prediction_loss_only": False,
        "logging_nan_inf_filter": False,  # it would log a finite loss where there is none
        "dataloader_pin_memory": torch.cuda.is_available(),
        "report_to": "none",
    }
    return TrainingArguments(output_dir=str(output_dir), **{**recommended, **overrides})
