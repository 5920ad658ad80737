"""Decoding that reads the weights once a token and does little else.

    prefill          the window's known rows at once ──→ keys, values, convolution inputs in fixed buffers
    decode_one_step  embed ─→ layers, one row each ─→ norm ─→ the heads of the next step's codebooks ─→ logits

The same function as `PlainDecoder` computes, on packed weights (packed_weights.py) and with fewer operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F

from ..models.patterns import lay
from ..models.streams import PADDING_ID, embedding_rows
from ..models.transformer import causal_convolution
from .interface import Backend, Request, Stage
from .packed_weights import PackedLayer, PackedStage, pack_stage, why_not_packable

#: rows of a prefill that go through the layers together: more are no faster, and their inner states fill the memory
ROWS_A_PREFILL = {"cpu": 4096, "cuda": 65536}


class LayerState:
    """What one layer remembers of the rows before: scaled keys, values, and the last inputs of its convolution."""

    def __init__(self, batch_size: int, num_rows: int, head_dim: int, like: torch.Tensor):
        self.keys = like.new_empty(batch_size, num_rows, head_dim)
        self.values = like.new_empty(batch_size, num_rows, head_dim)
        self.conv_inputs: list[torch.Tensor] = []  # of the rows before, the oldest first: (batch, 2 · inner) each

    @classmethod
    def over(cls, keys: torch.Tensor, values: torch.Tensor, conv_inputs: list[torch.Tensor]) -> LayerState:
        """Views of buffers that somebody else holds."""
        state = cls.__new__(cls)
        state.keys, state.values, state.conv_inputs = keys, values, conv_inputs
        return state


class FastDecoder(Backend):
    """One `generate` call of a stage on its packed weights."""

    name: ClassVar[str] = "packed"
    #: multiply a sample or two with weights rounded to int8
    int8: ClassVar[bool] = False

    def __init__(self, stage: Stage, request: Request):
        super().__init__(stage, request)
        self.num_heads = stage.config.num_attention_heads
        self.head_dim = stage.config.head_dim
        self.num_codebooks = self.stream.num_codebooks
        self.packed: PackedStage = pack_stage(stage, self.int8)
        self.states: list[LayerState] = []
        self.hidden_keys: torch.Tensor | None = None

    @classmethod
    def supports(cls, stage: Stage, request: Request) -> str | None:
        if not request.use_cache:
            return "keeps keys and values, which `use_cache=False` forbids"
        if stage.training:
            return "is for a stage in evaluation mode"
        return why_not_packable(stage)

    def close(self) -> None:
        self.states, self.hidden_keys = [], None

    def _rows_together(self, num_rows: int) -> int:
        return ROWS_A_PREFILL.get(self.stage.device.type, 4096)

    # ----------------------------------------------------------------- prefill

    def prefill(self, steps: torch.Tensor) -> torch.Tensor:
        x, key_mask = self._embed_window(self.request.streams, steps)
        # usually all are the same: one mask then serves the whole batch (of one sample nobody need wait to know it)
        if len(x) > 1 and bool((key_mask == key_mask[:1]).all()):
            key_mask = key_mask[:1]
        self._allocate(len(x), self.first_row + self.request.num_steps, key_mask)
        return self._compute_window(x, key_mask, steps.shape[1])

    def _embed_window(
        self, streams: Mapping[str, torch.Tensor], steps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Conditioning by argument name and the known steps → rows (batch, rows, hidden_size), visible keys (batch, rows)."""
        stage = self.stage
        laid = {stream.name: lay(streams[stream.argument], stream) for stream in stage.condition_streams}
        x, key_mask, sizes = stage.embed_sequence(
            laid | {self.stream.name: steps}, True, self.request.mask_condition_eos
        )
        self.first_row = sum(sizes[:-1]) + 1  # of the predicted stream's steps
        stage.check_cached_prefix(self.first_row, steps.shape[1])
        return x, key_mask

    def _compute_window(self, x: torch.Tensor, key_mask: torch.Tensor, num_steps: int) -> torch.Tensor:
        """The window's rows through the layers, some samples at a time → logits of the next step.

        Args:
            x (batch, rows, hidden_size): embedded.
            key_mask (batch or 1, rows): False for hidden keys.
            num_steps: known steps of the predicted stream.
        """
        batch_size, length, _ = x.shape
        positions, bias = torch.arange(length, device=x.device), self.packed.bias_table(length)
        samples_a_part = max(self._rows_together(batch_size * length) // length, 1)
        parts = [slice(first, first + samples_a_part) for first in range(0, batch_size, samples_a_part)]
        mask, last = None, []
        for part in parts:
            if mask is None or len(key_mask) > 1:
                mask = None  # let go of the one before first
                own_mask = key_mask[part] if len(key_mask) > 1 else key_mask
                mask = self.stage.decoder.attention_mask(positions, length, own_mask, bias)
            last.append(self._prefill_part(x[part], part, mask))
        return self._logits(torch.cat(last), num_steps)

    def _allocate(self, batch_size: int, num_rows: int, key_mask: torch.Tensor) -> None:
        """Buffers for a window of `num_rows` rows; `key_mask` (batch or 1, rows so far) is False for hidden keys."""
        packed = self.packed
        self.states = [LayerState(batch_size, num_rows, self.head_dim, layer.mlp_norm) for layer in packed.layers]
        for layer, state in zip(packed.layers, self.states, strict=True):
            channels = len(layer.conv[0]) if layer.conv else 0
            state.conv_inputs = [layer.mlp_norm.new_zeros(batch_size, channels) for _ in layer.conv[1:]]
        self.hidden_keys = None  # what to add to each key's scores: (batch or 1, 1, num_rows), -inf for a hidden one
        if not key_mask.all():
            self.hidden_keys = torch.zeros(len(key_mask), 1, num_rows, dtype=packed.dtype, device=key_mask.device)
            self.hidden_keys[:, 0, : key_mask.shape[1]].masked_fill_(~key_mask, -torch.inf)
        self.reversed_bias = packed.reversed_bias(num_rows)

    def _prefill_part(self, x: torch.Tensor, part: slice, mask: torch.Tensor) -> torch.Tensor:
        """Some samples' rows (samples, rows, hidden_size) through the layers → their last rows (samples, hidden_size)."""
        samples, length, size = x.shape
        x = x.reshape(-1, size)
        for layer, state in zip(self.packed.layers, self.states, strict=True):
            qkv = layer.qkv(x).view(samples, length, self.num_heads + 2, self.head_dim)
            query, key = _unit(qkv[:, :, :-1]).transpose(1, 2).split([self.num_heads, 1], dim=1)
            key, value = key * layer.key_scale, qkv[:, :, -1:].transpose(1, 2)  # (samples, 1, rows, head_dim)
            state.keys[part, :length] = key[:, 0]
            state.values[part, :length] = value[:, 0]
            output = F.scaled_dot_product_attention(
                query, key.expand_as(query), value.expand_as(query), mask, scale=1.0
            )  # (samples, heads, rows, head_dim)
            x = layer.o_proj.plus(output.transpose(1, 2).reshape(len(x), -1), x)

            inner = layer.up_proj(self._norm(x, layer.mlp_norm))
            if layer.conv:
                inner = inner.view(samples, length, -1)
                for inputs, row in zip(reversed(state.conv_inputs), range(length - 1, -1, -1), strict=False):
                    inputs[part] = inner[:, row]
                inner = causal_convolution(inner, layer.conv).flatten(0, 1)
            x = layer.down_proj.plus(self._gate(inner, layer), x)
        return x.view(samples, length, size)[:, -1]

    # ------------------------------------------------------------------ decode

    def decode_one_step(self, steps: torch.Tensor) -> torch.Tensor:
        index = steps.shape[1] - 1
        packed = self.packed
        x = self._embed(steps[:, index], index)
        row = self.first_row + index
        mask = self._mask(row)
        for layer, state in zip(packed.layers, self.states, strict=True):
            x = self._attention(layer, state, x, row, mask)
            x = self._feed_forward(layer, state, x)
        return self._logits(x, index + 1)

    def _embed(self, ids: torch.Tensor, index: int) -> torch.Tensor:
        """The ids of step `index`, (batch, columns), `PADDING_ID` where there is none → (batch, hidden_size)."""
        packed = self.packed
        if self.stream.pattern == "flat":
            x = F.embedding(ids[:, 0], packed.embeddings[index % self.num_codebooks])
        else:
            padding = ids == PADDING_ID
            rows = embedding_rows(ids.masked_fill(padding, 0)[:, None], self.stream)[:, 0]
            x = F.embedding(rows, packed.embedding_table).masked_fill(padding.unsqueeze(-1), 0.0).sum(dim=1)
        return x if packed.positions is None else x + packed.positions[index]

    def _logits(self, x: torch.Tensor, index: int) -> torch.Tensor:
        """Last rows (batch, hidden_size) → logits of step `index` (batch, columns, vocabulary)."""
        x = self._norm(x, self.packed.norm)
        if self.packed.joint_head is None:
            return self.packed.heads[index % self.num_codebooks](x)[:, None]
        return self.packed.joint_head(x).unflatten(-1, (self.num_codebooks, -1))

    def _mask(self, row: int) -> torch.Tensor | None:
        """Bias and hidden keys of a query at `row`: (batch or 1, heads or 1, row + 1)."""
        hidden = None if self.hidden_keys is None else self.hidden_keys[..., : row + 1]
        if self.reversed_bias is None:
            return hidden
        length = self.reversed_bias.shape[1]
        bias = self.reversed_bias[None, :, length - row - 1 :]
        return bias if hidden is None else bias + hidden

    def _attention(
        self, layer: PackedLayer, state: LayerState, x: torch.Tensor, row: int, mask: torch.Tensor | None
    ) -> torch.Tensor:
        qkv = layer.qkv(x).view(len(x), self.num_heads + 2, self.head_dim)
        _unit(qkv[:, :-1])
        torch.mul(qkv[:, -2], layer.key_scale, out=state.keys[:, row])
        state.values[:, row] = qkv[:, -1]
        # the heads share keys and values, so to the fused kernel they are the rows of one head
        output = F.scaled_dot_product_attention(
            qkv[:, None, :-2],
            state.keys[:, None, : row + 1],
            state.values[:, None, : row + 1],
            None if mask is None else mask[:, None],
            scale=1.0,
        )
        return layer.o_proj.plus(output.reshape(len(x), -1), x)

    def _feed_forward(self, layer: PackedLayer, state: LayerState, x: torch.Tensor) -> torch.Tensor:
        inner = layer.up_proj(self._norm(x, layer.mlp_norm))
        if layer.conv:
            inputs = [*state.conv_inputs, inner]
            state.conv_inputs = inputs[1:]
            inner = inputs[0] * layer.conv[0]
            for tap, row in zip(layer.conv[1:], inputs[1:], strict=True):
                inner.addcmul_(tap, row)
        return layer.down_proj.plus(self._gate(inner, layer), x)

    # ------------------------------------------------------------------ pieces

    def _norm(self, x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, gain.shape, gain, None, self.packed.norm_eps)

    def _gate(self, inner: torch.Tensor, layer: PackedLayer) -> torch.Tensor:
        """(rows, 2 · inner) → gated and normed (rows, inner)."""
        value, gate = inner.chunk(2, dim=-1)
        return self._norm(F.gelu(gate).mul_(value), layer.inner_norm)


def _unit(heads: torch.Tensor) -> torch.Tensor:
    """To unit length over the last dimension, in place."""
    return heads.div_(torch.linalg.vector_norm(heads, dim=-1, keepdim=True).clamp_min_(1e-12))


class Int8Decoder(FastDecoder):
    """`FastDecoder` that reads weights rounded to int8 while it has a row or two."""

    name: ClassVar[str] = "int8"
    int8: ClassVar[bool] = True

    @classmethod
    def supports(cls, stage: Stage, request: Request) -> str | None:
        if stage.device.type != "cpu" or stage.dtype != torch.bfloat16:
            return f"is for a stage in bfloat16 on a CPU; this one is in {stage.dtype} on {stage.device}"
        return super().supports(stage, request)
