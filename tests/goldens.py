"""The recorded numbers of the original implementation (tests/goldens/), and its weights under this package's names.

The folders were written by the original code on small random weights (see tests/goldens/README.md). The renaming here is
deliberately written out by hand and apart from `conversion/`, so that neither can hide a mistake of the other.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file

from open_musiclm.models.configuration import MusicLMCoarseConfig, MusicLMFineConfig, MusicLMSemanticConfig
from open_musiclm.models.stages import MusicLMCoarseModel, MusicLMFineModel, MusicLMSemanticModel
from open_musiclm.models.streams import TokenStream

GOLDENS = Path(__file__).parent / "goldens"
CASES = ("conv_continuous", "plain_t5", "abs_none_prefix")
STAGES = ("semantic", "coarse", "fine")
FILES = {
    "semantic": "semantic.transformer.14000.pt",
    "coarse": "coarse.transformer.18000.pt",
    "fine": "fine.transformer.24000.pt",
}
CLASSES = {
    "semantic": (MusicLMSemanticConfig, MusicLMSemanticModel, ("clap", "semantic")),
    "coarse": (MusicLMCoarseConfig, MusicLMCoarseModel, ("clap", "semantic", "coarse")),
    "fine": (MusicLMFineConfig, MusicLMFineModel, ("clap", "coarse", "fine")),
}


@cache
def expected(case: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDENS / case / "expected.safetensors")


def stage_config(case: str, stage: str, **overrides):
    original = json.loads((GOLDENS / case / "model_config.json").read_text())
    overall, sizes = original["global_cfg"], original[f"{stage}_cfg"]
    streams = {
        "clap": TokenStream(
            "clap", original["clap_rvq_cfg"]["codebook_size"], original["clap_rvq_cfg"]["rq_num_quantizers"]
        ),
        "semantic": TokenStream("semantic", original["hubert_kmeans_cfg"]["codebook_size"], frame_rate=10.0),
        "coarse": TokenStream(
            "coarse", original["encodec_cfg"]["codebook_size"], overall["num_coarse_quantizers"], 15.0
        ),
        "fine": TokenStream("fine", original["encodec_cfg"]["codebook_size"], overall["num_fine_quantizers"], 15.0),
    }
    bias = {"continuous": "continuous", "t5": "none", "none": "none"}[sizes["relative_position_bias_type"]]
    config_class, _, names = CLASSES[stage]
    settings = {
        "streams": [streams[name].to_dict() for name in names],
        "hidden_size": sizes["dim"],
        "num_hidden_layers": sizes["depth"],
        "num_attention_heads": sizes["heads"],
        "use_conv_feed_forward": sizes["use_conv_ff"],
        "position_bias_type": bias,
        "non_causal_prefix_size": sizes["non_causal_prefix_size"],
        "max_position_embeddings": sizes["max_absolute_position_embeddings"]
        if sizes["use_absolute_position_embeddings"]
        else None,
    }
    return config_class(**{**settings, **overrides})


def rename(original: dict[str, torch.Tensor], names: tuple[str, ...], conv: bool) -> dict[str, torch.Tensor]:
    renamed = {}
    for key, tensor in original.items():
        parts = key.split(".")
        if parts[-1] == "beta" or "relative_attention_bias" in key:
            continue
        if parts[0] == "start_tokens":
            renamed[f"start_vectors.{names[int(parts[1])]}"] = tensor
        elif parts[0] == "logit_weights":
            renamed[f"heads.{names[int(parts[1])]}"] = tensor
        elif parts[0] == "embeddings":
            renamed[f"embeddings.{names[int(parts[1])]}.weight"] = tensor
        elif parts[0] == "absolute_position_embeddings":
            renamed[f"position_embeddings.{names[int(parts[1])]}.weight"] = tensor
        elif parts[1] == "norm":
            renamed["decoder.norm.weight"] = tensor
        elif parts[1] == "rel_pos_bias":
            renamed[f"decoder.position_bias.layers.{parts[3]}.{parts[-1]}"] = tensor
        else:
            layer, block, rest = f"decoder.layers.{parts[2]}.", parts[3], ".".join(parts[4:])
            if rest == "to_kv.weight":
                renamed[layer + "self_attn.k_proj.weight"], renamed[layer + "self_attn.v_proj.weight"] = tensor.chunk(
                    2
                )
                continue
            after = 4 if conv else 3
            table = {
                ("0", "q_scale"): "self_attn.q_norm.weight",
                ("0", "k_scale"): "self_attn.k_norm.weight",
                ("0", "norm.gamma"): "self_attn_norm.weight",
                ("0", "to_q.weight"): "self_attn.q_proj.weight",
                ("0", "to_out.0.weight"): "self_attn.o_proj.weight",
                ("2", "0.gamma"): "mlp_norm.weight",
                ("2", "1.weight"): "mlp.up_proj.weight",
                ("2", "2.ds_conv.weight"): "mlp.conv.weight",
                ("2", f"{after}.gamma"): "mlp.inner_norm.weight",
                ("2", f"{after + 2}.weight"): "mlp.down_proj.weight",
            }
            renamed[layer + table[block, rest]] = tensor
    return renamed


def stage_model(case: str, stage: str, **overrides):
    """The golden weights in this package's model, in evaluation mode."""
    config = stage_config(case, stage, **overrides)
    _, model_class, names = CLASSES[stage]
    model = model_class(config)
    original = torch.load(GOLDENS / case / FILES[stage], weights_only=True)
    model.load_state_dict(rename(original, names, config.use_conv_feed_forward))
    return model.eval()


def stage_inputs(case: str, stage: str) -> dict[str, torch.Tensor]:
    _, _, names = CLASSES[stage]
    return {f"{name}_token_ids": expected(case)[name] for name in names}
