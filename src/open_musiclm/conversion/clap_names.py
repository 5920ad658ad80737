"""The table from laion's CLAP checkpoints (HTSAT audio tower, RoBERTa text tower) to transformers' `ClapModel`.

Sizes are read off the tensors, so HTSAT-tiny, -base, -large and any other size convert, with and without fusion.
Source of the original: https://github.com/LAION-AI/CLAP, `clap_module/{model,htsat,feature_fusion}.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from .checkpoint_error import CheckpointError
from .name_table import Row, row

# Computed here, or used by laion's training alone: the spectrogram and mel filters inside the audio tower, the
# classification heads, shifted-window masks, and the extra transforms of the loss.
NOT_NEEDED = re.compile(
    r"audio_branch\.(spectrogram_extractor|logmel_extractor|head|tscam_conv)\..*"
    r"|audio_branch\.layers\.\d+\.blocks\.\d+\.attn_mask"
    r"|(audio|text)_transform\..*"
    r"|attn_mask"
)
_AUDIO, _AUDIO_HERE = "audio_branch", "audio_model.audio_encoder"
_BLOCK, _BLOCK_HERE = f"{_AUDIO}.layers.{{stage}}.blocks.{{block}}", f"{_AUDIO_HERE}.layers.{{stage}}.blocks.{{block}}"
_TEXT_LAYER_PARTS = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
_BLOCK_PARTS = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def clap_config(tensors: Mapping[str, torch.Tensor], source: str | Path) -> dict:
    """The sizes of a laion checkpoint as keyword arguments of `ClapConfig` (nested `text_config`, `audio_config`).

    Raises:
        CheckpointError: The file is no CLAP with an HTSAT and a RoBERTa tower.
    """
    for needed in (f"{_AUDIO}.patch_embed.proj.weight", "text_branch.embeddings.word_embeddings.weight"):
        if needed not in tensors:
            raise CheckpointError(
                f"{source}: {needed!r} is missing: not a CLAP checkpoint with HTSAT and RoBERTa towers"
            )
    patches = tensors[f"{_AUDIO}.patch_embed.proj.weight"]
    depths = _depths(tensors)
    bias_tables = [
        _shape(tensors, f"{_AUDIO}.layers.{stage}.blocks.0.attn.relative_position_bias_table", source)
        for stage in range(len(depths))
    ]
    audio = {
        "patch_embeds_hidden_size": patches.shape[0],
        "hidden_size": patches.shape[0] * 2 ** (len(depths) - 1),
        "patch_size": patches.shape[-1],
        "patch_stride": [patches.shape[-1]] * 2,
        "depths": depths,
        "num_hidden_layers": len(depths),
        "num_attention_heads": [table[1] for table in bias_tables],
        "window_size": (math.isqrt(bias_tables[0][0]) + 1) // 2,
        "num_mel_bins": _shape(tensors, f"{_AUDIO}.bn0.weight", source)[0],
        "mlp_ratio": _shape(tensors, f"{_AUDIO}.layers.0.blocks.0.mlp.fc1.weight", source)[0] / patches.shape[0],
        "qkv_bias": f"{_AUDIO}.layers.0.blocks.0.attn.qkv.bias" in tensors,
    }
    squeeze = tensors.get(f"{_AUDIO}.patch_embed.fusion_model.local_att.0.weight")
    if squeeze is not None:
        audio |= {"enable_fusion": True, "fusion_type": "aff_2d", "aff_block_r": patches.shape[0] // squeeze.shape[0]}
    vocab_size, text_width = tensors["text_branch.embeddings.word_embeddings.weight"].shape
    text = {
        "vocab_size": vocab_size,
        "hidden_size": text_width,
        "num_hidden_layers": _count(tensors, r"text_branch\.encoder\.layer\.(\d{1,9})\."),
        "num_attention_heads": max(text_width // 64, 1),  # RoBERTa's heads are of 64
        "intermediate_size": _shape(tensors, "text_branch.encoder.layer.0.intermediate.dense.weight", source)[0],
        "max_position_embeddings": _shape(tensors, "text_branch.embeddings.position_embeddings.weight", source)[0],
        "type_vocab_size": _shape(tensors, "text_branch.embeddings.token_type_embeddings.weight", source)[0],
        "layer_norm_eps": 1e-5,  # RoBERTa's; ClapTextConfig's own default is 1e-12
    }
    projection_dim = _shape(tensors, "audio_projection.0.weight", source)[0]
    return {"text_config": text, "audio_config": audio, "projection_dim": projection_dim}


def with_text_buffers(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The checkpoint with the constant buffers that some versions of it (and of transformers) save and others don't."""
    num_positions = tensors["text_branch.embeddings.position_embeddings.weight"].shape[0]
    buffers = {
        "text_branch.embeddings.position_ids": torch.arange(num_positions)[None],
        "text_branch.embeddings.token_type_ids": torch.zeros(1, num_positions, dtype=torch.int64),
    }
    return {**buffers, **tensors}


def clap_rows(tensors: Mapping[str, torch.Tensor], shapes: Mapping[str, torch.Size]) -> list[Row]:
    """The table for a checkpoint of these sizes; `shapes` are those of the `ClapModel`, which may not save a buffer."""
    rows: list[Row] = [(name, ()) for name in tensors if NOT_NEEDED.fullmatch(name)]
    for buffer in ("embeddings.position_ids", "embeddings.token_type_ids"):
        saved = f"text_model.{buffer}" in shapes
        rows.append((f"text_branch.{buffer}", (f"text_model.{buffer}",) if saved else ()))
    rows += [row(name, name) for name in ("logit_scale_a", "logit_scale_t")]
    rows += _with_suffixes(
        tensors,
        [(f"{tower}_projection.{index}", f"{tower}_projection.linear{index // 2 + 1}")
         for tower in ("audio", "text") for index in (0, 2)],
    )  # fmt: skip
    return rows + _audio_rows(tensors) + _text_rows(tensors)


def _audio_rows(tensors: Mapping[str, torch.Tensor]) -> list[Row]:
    parts = [("bn0", "batch_norm"), ("norm", "norm")]
    parts += [(f"patch_embed.{part}", f"patch_embed.{part}") for part in ("proj", "norm")]
    if f"{_AUDIO}.patch_embed.mel_conv2d.weight" in tensors:
        fused = ["mel_conv2d"] + [f"fusion_model.local_att.{index}" for index in (0, 1, 3, 4)]
        fused += [f"fusion_model.global_att.{index}" for index in (1, 2, 4, 5)]
        parts += [(f"patch_embed.{part}", f"patch_embed.{part}") for part in fused]
    depths = _depths(tensors)
    for stage in range(len(depths) - 1):
        name = f"layers.{stage}.downsample"
        parts += [(f"{name}.norm", f"{name}.norm"), (f"{name}.reduction", f"{name}.reduction")]
    rows = _with_suffixes(tensors, [(f"{_AUDIO}.{old}", f"{_AUDIO_HERE}.{new}") for old, new in parts])
    for stage, depth in enumerate(depths):
        for block in range(depth):
            old, new = (name.format(stage=stage, block=block) for name in (_BLOCK, _BLOCK_HERE))
            rows += _with_suffixes(tensors, [(f"{old}.{o}", f"{new}.{n}") for o, n in _BLOCK_PARTS.items()])
            heads = [f"{new}.attention.self.{head}" for head in ("query", "key", "value")]
            for suffix in ("weight", "bias"):
                if suffix == "weight" or f"{old}.attn.qkv.bias" in tensors:
                    rows.append(row(f"{old}.attn.qkv.{suffix}", *(f"{head}.{suffix}" for head in heads)))
            for name in ("relative_position_bias_table", "relative_position_index"):
                rows.append(row(f"{old}.attn.{name}", f"{new}.attention.self.{name}"))
    return rows


def _text_rows(tensors: Mapping[str, torch.Tensor]) -> list[Row]:
    parts = [f"embeddings.{name}" for name in ("word_embeddings", "position_embeddings", "token_type_embeddings")]
    parts += ["embeddings.LayerNorm", "pooler.dense"]
    for layer in range(_count(tensors, r"text_branch\.encoder\.layer\.(\d{1,9})\.")):
        parts += [f"encoder.layer.{layer}.{part}" for part in _TEXT_LAYER_PARTS]
    return _with_suffixes(tensors, [(f"text_branch.{part}", f"text_model.{part}") for part in parts])


def _with_suffixes(tensors: Mapping[str, torch.Tensor], parts: list[tuple[str, str]]) -> list[Row]:
    """A row for the weight of each part, and one for each of the bias and the running statistics that it has."""
    suffixes = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return [
        row(f"{old}.{suffix}", f"{new}.{suffix}")
        for old, new in parts
        for suffix in suffixes
        if suffix == "weight" or f"{old}.{suffix}" in tensors
    ]


def _depths(tensors: Mapping[str, torch.Tensor]) -> list[int]:
    stages = _count(tensors, rf"{_AUDIO}\.layers\.(\d{{1,9}})\.")
    return [_count(tensors, rf"{_AUDIO}\.layers\.{stage}\.blocks\.(\d{{1,9}})\.") for stage in range(stages)]


def _count(tensors: Mapping[str, torch.Tensor], pattern: str) -> int:
    """One more than the highest number that the pattern finds in a name."""
    count = max((int(found.group(1)) for name in tensors if (found := re.match(pattern, name))), default=-1) + 1
    if count > len(tensors):
        raise CheckpointError(f"the file names a layer {count - 1}, and holds {len(tensors)} tensors")
    return count


def _shape(tensors: Mapping[str, torch.Tensor], name: str, source: str | Path) -> torch.Size:
    if name not in tensors:
        raise CheckpointError(f"{source}: {name!r} is missing")
    return tensors[name].shape
