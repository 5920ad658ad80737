"""What makes training fast on a GPU without changing what is learned: attention without masks, compiled layers."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from ..models.scores import find_trouble
from ..models.stages import MusicLMStageModel
from ..models.transformer import MusicLMDecoderLayer


def attend_without_masks(
    stage: MusicLMStageModel, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> bool:
    """Use flex attention in training: for a GPU, where it has gradients. See `ScoreBias`.

    A stage with attention dropout, or with another attention than PyTorch's default, keeps its own. So does one on a GPU
    for which PyTorch has no such kernel: it is tried first, and a warning says so.

    Args:
        device, dtype: of the products in training; by default the stage's.

    Returns:
        Whether it is used.
    """
    config = stage.config
    if config._attn_implementation != "sdpa" or config.attention_dropout != 0:
        return False
    device = device or stage.device
    if device.type == "cuda":
        trouble = find_trouble(device, dtype or stage.dtype, config.num_attention_heads, config.head_dim)
        if trouble is not None:
            warnings.warn(f"{device} cannot attend without masks, so training makes them: {trouble}", stacklevel=2)
            return False
    stage.set_attn_implementation("flex_attention")
    return True


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
