"""The table from a stage's original state dict to this package's, for every option the original has."""

from __future__ import annotations

from typing import Any

from .name_table import Row, row

_LAYER, _LAYER_HERE = "transformer.layers.{layer}", "decoder.layers.{layer}"
_ATTENTION = {
    "norm.gamma": ("self_attn_norm.weight",),
    "norm.beta": (),  # a buffer of zeros
    "to_q.weight": ("self_attn.q_proj.weight",),
    "to_kv.weight": ("self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "q_scale": ("self_attn.q_norm.weight",),
    "k_scale": ("self_attn.k_norm.weight",),
    "to_out.0.weight": ("self_attn.o_proj.weight",),
}
_CONV_FEED_FORWARD = {
    "0.gamma": ("mlp_norm.weight",),
    "0.beta": (),
    "1.weight": ("mlp.up_proj.weight",),
    "2.ds_conv.weight": ("mlp.conv.weight",),
    "4.gamma": ("mlp.inner_norm.weight",),
    "4.beta": (),
    "6.weight": ("mlp.down_proj.weight",),
}
_PLAIN_FEED_FORWARD = {
    "0.gamma": ("mlp_norm.weight",),
    "0.beta": (),
    "1.weight": ("mlp.up_proj.weight",),
    "3.gamma": ("mlp.inner_norm.weight",),
    "3.beta": (),
    "5.weight": ("mlp.down_proj.weight",),
}


def stage_rows(sizes: dict[str, Any], streams: tuple[str, ...]) -> list[Row]:
    """The table of a stage.

    Args:
        sizes: Its section of the original's model config.
        streams: The names of its streams in order.
    """
    rows = [row("transformer.norm.gamma", "decoder.norm.weight"), row("transformer.norm.beta")]
    for index, stream in enumerate(streams):
        rows += [
            row(f"start_tokens.{index}", f"start_vectors.{stream}"),
            row(f"embeddings.{index}.weight", f"embeddings.{stream}.weight"),
            row(f"logit_weights.{index}", f"heads.{stream}"),
        ]
        if sizes["use_absolute_position_embeddings"]:
            rows.append(row(f"absolute_position_embeddings.{index}.weight", f"position_embeddings.{stream}.weight"))
    feed_forward = _CONV_FEED_FORWARD if sizes["use_conv_ff"] else _PLAIN_FEED_FORWARD
    for layer in range(sizes["depth"]):
        for part, table in ((0, _ATTENTION), (2, feed_forward)):
            rows += [
                row(f"{_LAYER}.{part}.{old}", *(f"{_LAYER_HERE}.{target}" for target in new), layer=layer)
                for old, new in table.items()
            ]
    if sizes["relative_position_bias_type"] == "continuous":
        for index, old in enumerate(("0.0", "1.0", "2.0", "3")):
            rows += [
                row(f"transformer.rel_pos_bias.net.{old}.{kind}", f"decoder.position_bias.layers.{index}.{kind}")
                for kind in ("weight", "bias")
            ]
    elif sizes["relative_position_bias_type"] == "t5":
        rows.append(row("transformer.rel_pos_bias.relative_attention_bias.weight"))  # it cancels in the softmax
    return rows
