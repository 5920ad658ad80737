"""Attention of a whole training sequence without a mask in memory: the position bias is added to each score as it is made.

PyTorch's flex attention (Dong et al. 2024) compiles what is done to a score into the attention kernel, its gradient
included: a learned bias of heads × distances gets its own without any tensor of heads × rows × rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

#: of the compiled kernel. It fetches the biases of several tiles ahead, and at the tiles that PyTorch takes by itself for an
#: H200 these alone (128 × 128 floats three times, beside the keys and values) are more shared memory than one has
KERNEL_OPTIONS = {"fwd_BLOCK_M": 64, "fwd_BLOCK_N": 64, "fwd_num_stages": 2}


class ScoreBias(NamedTuple):
    """What a decoder layer takes in the place of an additive mask, for a sequence that attends to itself."""

    bias_table: torch.Tensor | None  #: see `MusicLMDecoder.bias_table`
    key_mask: torch.Tensor | None  #: (batch, rows) bool, False for a hidden key
    prefix_size: int  #: rows at the beginning that all see one another
    blocks: BlockMask  #: causality and prefix

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
        """query (batch, heads, rows, head_dim), key and value (batch, 1, rows, head_dim) → (batch, rows, heads, head_dim)."""
        query, key = query.to(value.dtype), key.to(value.dtype)  # autocast leaves unit vectors in float32
        # on a CPU the definition itself, step by step; within a compiled layer it is compiled with the rest
        plain = torch.compiler.is_compiling() or query.device.type != "cuda"
        attend: Callable[..., Any] = flex_attention if plain else _compiled()  # type: ignore[assignment]
        output = attend(
            query,
            key,
            value,
            score_mod=self._score,
            block_mask=self.blocks,
            scale=scale,
            enable_gqa=True,
            kernel_options=KERNEL_OPTIONS,
        )
        return output.transpose(1, 2)

    def _score(self, score, sample, head, row, key):
        if self.bias_table is not None:
            distance = row - key
            if self.prefix_size > 1:  # negative distances count from the end of the table
                distance = distance.clamp(min=1 - self.prefix_size)
                distance = torch.where(distance < 0, distance + self.bias_table.shape[1], distance)
            else:
                distance = distance.clamp(min=0)
            score = score + self.bias_table[head, distance]
        if self.key_mask is not None:
            score = torch.where(self.key_mask[sample, key], score, -torch.inf)
        return score


def score_bias(
    num_rows: int,
    prefix_size: int,
    key_mask: torch.Tensor | None,
    bias_table: torch.Tensor | None,
    device: torch.device,
) -> ScoreBias:
    """For a sequence of `num_rows` rows; see [`ScoreBias`]."""
    return ScoreBias(bias_table, key_mask, prefix_size, _visible_blocks(num_rows, prefix_size, device))


@functools.lru_cache(maxsize=16)
def _visible_blocks(num_rows: int, prefix_size: int, device: torch.device) -> BlockMask:
    def visible(sample, head, row, key):
        return (key <= row) | ((row < prefix_size) & (key < prefix_size))

    return create_block_mask(visible, None, None, num_rows, num_rows, device=device)


@functools.cache
def _compiled() -> Callable:
    return torch.compile(flex_attention, dynamic=False)


def find_trouble(device: torch.device, dtype: torch.dtype, num_heads: int, head_dim: int) -> str | None:
    """Why a device cannot attend in this way, forward and backward: the error's first line. `None` if it can.

    A kernel takes shared memory by its tiles and not by the rows, so a few rows show it.
    """
    rows = 256
    shapes = ((1, num_heads, rows, head_dim), (1, 1, rows, head_dim), (1, 1, rows, head_dim))
    query, key, value = (torch.zeros(shape, device=device, dtype=dtype, requires_grad=True) for shape in shapes)
    table = torch.zeros(num_heads, rows, device=device, requires_grad=True)
    seen = torch.ones(1, rows, dtype=torch.bool, device=device)
    try:
        score_bias(rows, 1, seen, table, device).attend(query, key, value, 1.0).sum().backward()
    except Exception as error:  # whatever a compiler says
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None
