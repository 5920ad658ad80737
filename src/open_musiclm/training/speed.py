"""What makes training fast on a GPU without changing what is learned: attention without masks, compiled layers."""

from __future__ import annotations

from typing import Any

import torch

from ..models.stages import MusicLMStageModel
from ..models.transformer import MusicLMDecoderLayer


def attend_without_masks(stage: MusicLMStageModel) -> None:
    """Use flex attention in training: for a GPU, where it has gradients. See `ScoreBias`.

    A stage with attention dropout, or with another attention than PyTorch's default, keeps its own.
    """
    config = stage.config
    if config._attn_implementation == "sdpa" and config.attention_dropout == 0:
        stage.set_attn_implementation("flex_attention")


def compile_layers(stage: torch.nn.Module, **settings: Any) -> int:
    """Compile each decoder layer in place; all are one piece of code, which is compiled once for its shapes.

    The stage's names, and so its checkpoints, stay as they are.

    Args:
        stage: a stage, or what adapters made of one.
        settings: for `torch.compile`.

    Returns:
        How many layers.
    """
    layers = [module for module in stage.modules() if isinstance(module, MusicLMDecoderLayer)]
    for layer in layers:
        layer.compile(dynamic=False, **settings)
    return len(layers)
