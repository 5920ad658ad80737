"""What the original computes from a stage's original state dict, written out apart from the package's models.

It reads the tensors under their original names, in float32, with no cache and no table of names, so that a mistake of
the conversion or of the models shows as a difference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

HEAD_SIZE = 64


def reference_logits(
    tensors: Mapping[str, Tensor], sizes: dict[str, Any], codebook_sizes: Sequence[int], tokens: Sequence[Tensor]
) -> Tensor:
    """Logits of the last stream.

    Args:
        tensors: The original state dict, prefixes taken off.
        sizes: The stage's section of the original model config.
        codebook_sizes: Of each stream.
        tokens: Of each stream, (batch, tokens), EOS included where the original appends it.

    Returns:
        (batch, tokens of the last stream + 1, codebook size + 1) float32.
    """
    weights = _Float32(tensors)
    rows = []
    for index, (codebook_size, ids) in enumerate(zip(codebook_sizes, tokens, strict=True)):
        num_codebooks = tensors[f"logit_weights.{index}"].shape[0]
        offsets = codebook_size * (torch.arange(ids.shape[1]) % num_codebooks)
        embedded = F.embedding(ids + offsets, weights[f"embeddings.{index}.weight"])
        if sizes["use_absolute_position_embeddings"]:
            embedded = embedded + weights[f"absolute_position_embeddings.{index}.weight"][: ids.shape[1]]
        start = weights[f"start_tokens.{index}"].expand(ids.shape[0], 1, -1)
        rows += [start, embedded]
    x = torch.cat(rows, dim=1)
    length = x.shape[1]
    bias = _position_bias(weights, sizes, length)
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    prefix = sizes["non_causal_prefix_size"]
    hidden[:prefix, :prefix] = False
    for layer in range(sizes["depth"]):
        x = x + _attention(weights, f"transformer.layers.{layer}.0", x, sizes["heads"], bias, hidden)
        x = x + _feed_forward(weights, f"transformer.layers.{layer}.2", x, sizes["use_conv_ff"])
    x = _norm(weights, "transformer.norm", x)[:, -(tokens[-1].shape[1] + 1) :]
    heads = weights[f"logit_weights.{len(tokens) - 1}"]
    of_position = heads[torch.arange(x.shape[1]) % heads.shape[0]]  # (positions, vocabulary, dim)
    return torch.stack([x[:, i] @ of_position[i].T for i in range(x.shape[1])], dim=1)


class _Float32:
    """The tensors by name, each cast to float32 when it is asked for."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name].float()


def _norm(weights: _Float32, name: str, x: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    normed = centered / torch.sqrt(centered.square().mean(-1, keepdim=True) + 1e-5)
    beta = weights.tensors.get(f"{name}.beta")  # a buffer of zeros wherever it was not tampered with
    return normed * weights[f"{name}.gamma"] + (0 if beta is None else beta.float())


def _position_bias(weights: _Float32, sizes: dict[str, Any], length: int) -> Tensor | float:
    """(heads, queries, keys), or 0."""
    position = torch.arange(length)
    distance = position[:, None] - position[None, :]
    if sizes["relative_position_bias_type"] == "continuous":
        x = torch.arange(-length + 1, length).float()[:, None]
        for layer in ("0.0", "1.0", "2.0"):
            x = F.silu(x @ weights[f"transformer.rel_pos_bias.net.{layer}.weight"].T
                       + weights[f"transformer.rel_pos_bias.net.{layer}.bias"])  # fmt: skip
        x = x @ weights["transformer.rel_pos_bias.net.3.weight"].T + weights["transformer.rel_pos_bias.net.3.bias"]
        return x[distance + length - 1].permute(2, 0, 1)
    if sizes["relative_position_bias_type"] == "t5":
        ahead = (-distance).clamp(min=0)  # the flipped sign: a key behind the query counts as distance 0
        far = 16 + (ahead.float().clamp(min=1) / 16).log().div(math.log(128 / 16)).mul(16).long()
        bucket = torch.where(ahead < 16, ahead, far.clamp(max=31))
        return weights["transformer.rel_pos_bias.relative_attention_bias.weight"][bucket].permute(2, 0, 1)
    return 0.0


def _attention(
    weights: _Float32, name: str, x: Tensor, num_heads: int, bias: Tensor | float, hidden: Tensor
) -> Tensor:
    batch, length, _ = x.shape
    query = _norm(weights, f"{name}.norm", x) @ weights[f"{name}.to_q.weight"].T
    query = query.view(batch, length, num_heads, HEAD_SIZE).transpose(1, 2)
    key, value = (x @ weights[f"{name}.to_kv.weight"].T).split(HEAD_SIZE, dim=-1)
    query = query / query.norm(dim=-1, keepdim=True).clamp(min=1e-12) * weights[f"{name}.q_scale"]
    key = key / key.norm(dim=-1, keepdim=True).clamp(min=1e-12) * weights[f"{name}.k_scale"]
    scores = 8 * torch.einsum("bhqd,bkd->bhqk", query, key) + bias
    shares = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    mixed = torch.einsum("bhqk,bkd->bqhd", shares, value).flatten(2)
    return mixed @ weights[f"{name}.to_out.0.weight"].T


def _feed_forward(weights: _Float32, name: str, x: Tensor, with_convolution: bool) -> Tensor:
    x = _norm(weights, f"{name}.0", x) @ weights[f"{name}.1.weight"].T
    if with_convolution:
        taps = weights[f"{name}.2.ds_conv.weight"][:, 0]  # (channels, 3), the last for now
        before = F.pad(x, (0, 0, 2, 0))
        x = torch.stack([before[:, tap : tap + x.shape[1]] * taps[:, tap] for tap in range(3)]).sum(0)
    first, gate = x.chunk(2, dim=-1)
    x = first * gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
    norm, out = (4, 6) if with_convolution else (3, 5)
    return _norm(weights, f"{name}.{norm}", x) @ weights[f"{name}.{out}.weight"].T
