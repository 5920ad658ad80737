"""The original's model config JSON: its sections, their defaults, and what a stage here is called in its terms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..given import shown
from ..hub.files import read_json
from ..models.configuration import (
    MusicLMCoarseConfig,
    MusicLMFineConfig,
    MusicLMSemanticConfig,
    MusicLMStageConfig,
)
from ..models.stages import MusicLMCoarseModel, MusicLMFineModel, MusicLMSemanticModel, MusicLMStageModel
from ..models.streams import TokenStream
from .checkpoint_error import CheckpointError

_REQUIRED = object()
# Of the config's numbers (the largest of published ones is a sampling rate), and of layers and codebooks.
_MAX_NUMBER, _MAX_COUNT = 10_000_000, 1024
_STAGE_SECTION: dict[str, Any] = {
    "dim": 1024,
    "depth": 6,
    "heads": 8,
    "attn_dropout": 0.0,
    "ff_dropout": 0.1,
    "use_conv_ff": True,
    "grad_shrink_alpha": 0.1,
    "non_causal_prefix_size": 0,
    "relative_position_bias_type": "continuous",
    "use_memory_efficient_attention": False,
    "use_absolute_position_embeddings": False,
}
# Section → field → default; the same fields and defaults as the original's dataclasses.
SECTIONS: dict[str, dict[str, Any]] = {
    "global_cfg": {
        "semantic_audio_length_seconds": 10.0,
        "coarse_audio_length_seconds": 4.0,
        "fine_audio_length_seconds": 2.0,
        "clap_audio_length_seconds": 10.0,
        "num_coarse_quantizers": 3,
        "num_fine_quantizers": 5,
    },
    "clap_rvq_cfg": {
        "rq_num_quantizers": _REQUIRED,
        "codebook_size": _REQUIRED,
        "enable_fusion": False,
        "rq_ema_decay": 0.95,
        "threshold_ema_dead_code": 0.0,
        "checkpoint_path": None,
        "amodel_type": "HTSAT-tiny",
    },
    "hubert_kmeans_cfg": {
        "model_name": _REQUIRED,
        "normalize_embeds": _REQUIRED,
        "embed_layer": 7,
        "target_sample_hz": 16_000,
        "seq_len_multiple_of": 320,
        "codebook_size": 1024,
        "output_hz": 50,
    },
    "encodec_cfg": {"bandwidth": _REQUIRED, "codebook_size": _REQUIRED, "output_hz": 75},
    "semantic_cfg": {**_STAGE_SECTION, "max_absolute_position_embeddings": 12 + 250},
    "coarse_cfg": {**_STAGE_SECTION, "max_absolute_position_embeddings": 12 + 100 + 600},
    "fine_cfg": {**_STAGE_SECTION, "max_absolute_position_embeddings": 12 + 300 + 900},
}


@dataclass(frozen=True)
class StageKind:
    """What a stage is: its classes, its streams in order, and how its windows follow one another."""

    model_class: type[MusicLMStageModel]
    config_class: type[MusicLMStageConfig]
    streams: tuple[str, ...]
    stride_share: float


STAGES = {
    "semantic": StageKind(MusicLMSemanticModel, MusicLMSemanticConfig, ("clap", "semantic"), 0.5),
    "coarse": StageKind(MusicLMCoarseModel, MusicLMCoarseConfig, ("clap", "semantic", "coarse"), 0.5),
    "fine": StageKind(MusicLMFineModel, MusicLMFineConfig, ("clap", "coarse", "fine"), 1.0),
}


def read_original_config(path: str | Path) -> dict[str, dict[str, Any]]:
    """The sections that the file has, each with the original's defaults filled in.

    Raises:
        CheckpointError: No JSON, no known section, an unknown or missing field, or a value of the wrong kind.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a model config in JSON ({error})") from None
    if not isinstance(content, dict) or not content.keys() & SECTIONS.keys():
        raise CheckpointError(f"{path}: not a model config: it has none of {', '.join(SECTIONS)}")
    return {name: _section(name, content[name], path) for name in SECTIONS if name in content}


def _section(name: str, given: Any, path: str | Path) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise CheckpointError(f"{path}: {name} is not a table of settings")
    fields = SECTIONS[name]
    for field, value in given.items():
        if field not in fields:
            raise CheckpointError(f"{path}: {name} has the unknown setting {field[:80]!r}")
        _check_value(f"{path}: {name}.{field}", value, fields[field])
    section = {**fields, **given}
    missing = [field for field, value in section.items() if value is _REQUIRED]
    if missing:
        raise CheckpointError(f"{path}: {name} lacks {missing[0]!r}")
    return section


def _check_value(what: str, value: Any, default: Any) -> None:
    """Refuses a setting of another kind than its default, and numbers that no model has."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    said = repr(value[:60]) if isinstance(value, str) else shown(value) if is_number else f"a {type(value).__name__}"
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise CheckpointError(f"{what} is {said}, neither true nor false")
    elif isinstance(default, int | float) and not is_number:
        raise CheckpointError(f"{what} is {said}, not a number")
    elif isinstance(default, str) and not isinstance(value, str):
        raise CheckpointError(f"{what} is {said}, not a text")
    if is_number and not 0 <= value <= _MAX_NUMBER:
        raise CheckpointError(f"{what} is {shown(value)}, which no model has")
    if is_number and what.endswith((".depth", "_quantizers")) and value > _MAX_COUNT:
        raise CheckpointError(f"{what} is {shown(value)}; no model has more than {_MAX_COUNT}")


def stage_config(
    original: dict[str, dict[str, Any]],
    stage: str,
    fingerprints: dict[str, str | None] | None = None,
    **recorded: Any,
) -> MusicLMStageConfig:
    """The configuration of a stage, `"semantic"`, `"coarse"` or `"fine"`, from the original's.

    Args:
        fingerprints: Stream name → fingerprint of the codebook found beside the stage, where there is one.
        recorded: What else the config is to carry (where it comes from).

    Raises:
        CheckpointError: The config lacks a section the stage needs, or asks for what cannot be computed the same.
    """
    kind = STAGES[stage]
    sizes, window = _needed(original, f"{stage}_cfg"), _needed(original, "global_cfg")[f"{stage}_audio_length_seconds"]
    bias_type = sizes["relative_position_bias_type"]
    if bias_type not in ("continuous", "t5", "none"):
        raise CheckpointError(f"{stage}_cfg.relative_position_bias_type is {bias_type!r}; continuous, t5, none exist")
    if bias_type == "t5":
        if sizes["non_causal_prefix_size"] > 0:
            raise CheckpointError(
                f"{stage}_cfg has relative_position_bias_type t5 and non_causal_prefix_size "
                f"{sizes['non_causal_prefix_size']}: the original's flipped buckets then matter within the prefix, and "
                "no model here computes them"
            )
        bias_type = (
            "none"  # the original flips the sign: every visible key falls into one bucket, which softmax ignores
        )
    return kind.config_class(
        streams=[original_stream(original, name, fingerprints).to_dict() for name in kind.streams],
        hidden_size=sizes["dim"],
        num_hidden_layers=sizes["depth"],
        num_attention_heads=sizes["heads"],
        use_conv_feed_forward=sizes["use_conv_ff"],
        position_bias_type=bias_type,
        max_position_embeddings=(
            sizes["max_absolute_position_embeddings"] if sizes["use_absolute_position_embeddings"] else None
        ),
        non_causal_prefix_size=sizes["non_causal_prefix_size"],
        gradient_shrink=sizes["grad_shrink_alpha"],
        attention_dropout=sizes["attn_dropout"],
        hidden_dropout=sizes["ff_dropout"],
        window_in_s=window,
        window_stride_in_s=window * kind.stride_share,
        dtype=torch.float32,
        **recorded,
    )


def original_stream(
    original: dict[str, dict[str, Any]], name: str, fingerprints: dict[str, str | None] | None = None
) -> TokenStream:
    """The token stream of this name in a model of this config."""
    fingerprint = (fingerprints or {}).get(name)
    if name == "clap":
        section = _needed(original, "clap_rvq_cfg")
        return TokenStream(
            name, section["codebook_size"], section["rq_num_quantizers"], codebook_fingerprint=fingerprint
        )
    if name == "semantic":
        section = _needed(original, "hubert_kmeans_cfg")
        return TokenStream(
            name,
            section["codebook_size"],
            frame_rate=section["output_hz"],
            num_edge_frames=1,
            codebook_fingerprint=fingerprint,
        )
    section = _needed(original, "encodec_cfg")
    num_codebooks = _needed(original, "global_cfg")[f"num_{name}_quantizers"]
    return TokenStream(
        name, section["codebook_size"], num_codebooks, section["output_hz"], codebook_fingerprint=fingerprint
    )


def _needed(original: dict[str, dict[str, Any]], section: str) -> dict[str, Any]:
    if section not in original:
        raise CheckpointError(f"the model config lacks the section {section!r}")
    return original[section]
