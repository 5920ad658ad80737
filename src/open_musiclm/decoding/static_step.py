"""One decoding step over buffers that never move: what a CUDA graph can record once and replay for every token.

    newest ids ─ embed ─→ layers ─→ head of the next codebook ─→ logits ─ sample ─→ newest ids
       │  position, codebook and keys are read from a counter on the device, so one recording serves all steps  │

`TorchStep` is plain PyTorch and defines what a step computes; `triton_step.TritonStep` does the same in fewer kernels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..models.streams import PADDING_ID
from .packed import LayerState
from .packed_weights import PackedStage
from .sampling import StandardSampling


class StaticState:
    """Buffers of one window: everything that a step reads and writes besides the weights.

    Args:
        packed: the stage's weights.
        batch_size, num_rows: samples, and rows that a window has at most.
        num_tokens: steps of the predicted stream that a window has at most.
    """

    def __init__(self, packed: PackedStage, batch_size: int, num_rows: int, num_tokens: int):
        like = packed.norm
        layers = len(packed.layers)
        self.batch_size, self.num_rows, self.num_tokens = batch_size, num_rows, num_tokens
        self.keys = like.new_zeros(layers, batch_size, num_rows, packed.head_dim)
        self.values = like.new_zeros(layers, batch_size, num_rows, packed.head_dim)
        # a ring: the input of row r stands in slot r modulo taps, so a step overwrites what no later step reads
        self.conv_inputs = like.new_zeros(layers, batch_size, packed.num_taps, packed.conv_channels)
        self.hidden_keys = torch.zeros(batch_size, num_rows, device=like.device)  # added to the scores
        self.bias = self._bias(packed)
        self.num_columns = 1 if packed.joint_head is None else packed.num_codebooks
        self.ids = torch.zeros(batch_size, self.num_columns, dtype=torch.long, device=like.device)  # the newest
        self.token_ids = torch.zeros(batch_size, num_tokens, dtype=torch.long, device=like.device)
        self.index = torch.zeros(1, dtype=torch.long, device=like.device)  # of the newest in its stream
        self.first_row = torch.zeros(1, dtype=torch.long, device=like.device)  # of the stream's tokens
        self.noise = torch.zeros(batch_size, packed.vocabulary_size, device=like.device)
        self.logits = torch.zeros(batch_size, self.num_columns * packed.vocabulary_size, device=like.device)

    def buffers(self) -> dict[str, torch.Tensor]:
        """All that a step may write or a window sets, by name."""
        return {
            name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor) and name != "bias"
        }

    def restore(self, values: dict[str, torch.Tensor]) -> None:
        """Write copies of the buffers back."""
        for name, value in values.items():
            getattr(self, name).copy_(value)

    def reset(self) -> None:
        """As before the first window."""
        for buffer in self.buffers().values():
            buffer.zero_()

    def layer_states(self, num_known: int) -> list[LayerState]:
        """Views of each layer's buffers for a prefill of `num_known` rows."""
        taps = self.conv_inputs.shape[2]
        slots = [row % taps for row in range(num_known - taps + 1, num_known)] if taps else []
        return [
            LayerState.over(self.keys[number], self.values[number], [ring[:, slot] for slot in slots])
            for number, ring in enumerate(self.conv_inputs)
        ]

    def _bias(self, packed: PackedStage) -> torch.Tensor | None:
        """(heads, num_rows): of the distances 0 … num_rows - 1."""
        table = packed.bias_table(self.num_rows)
        return None if table is None else table[:, : self.num_rows].to(packed.dtype).contiguous()


def embed_newest(packed: PackedStage, state: StaticState) -> torch.Tensor:
    """The step's input: (batch, hidden_size), a sum over the columns that hold a token."""
    if packed.joint_head is None:
        codebook = state.index % packed.num_codebooks
        x = F.embedding(state.ids[:, 0] + codebook * packed.codebook_size, packed.embedding_table)
    else:
        padding = state.ids == PADDING_ID
        first_rows = torch.arange(state.num_columns, device=padding.device) * packed.codebook_size
        rows = state.ids.masked_fill(padding, 0) + first_rows
        x = F.embedding(rows, packed.embedding_table).masked_fill(padding.unsqueeze(-1), 0.0).sum(dim=1)
    return x if packed.positions is None else x + packed.positions.index_select(0, state.index)


class TorchStep:
    """The step in plain PyTorch, without a host synchronisation.

    Args:
        packed, state: weights and buffers.
        sampling, do_sample: how the next tokens are drawn, of a step of one column; without `sampling` the step ends at
            the logits.
    """

    def __init__(self, packed: PackedStage, state: StaticState, sampling: StandardSampling | None, do_sample: bool):
        self.packed, self.state = packed, state
        self.sampling, self.do_sample = sampling, do_sample
        self.conv = [torch.stack(layer.conv) if layer.conv else None for layer in packed.layers]
        self.positions = torch.arange(state.num_rows, device=state.ids.device)
        self.slots = torch.arange(packed.num_taps, device=state.ids.device)

    def begin(self) -> None:
        """Before the first step from ids that no step has written: nothing to do here."""

    def __call__(self) -> None:
        """From the newest ids to the next ones."""
        state = self.state
        state.logits.copy_(self.compute_logits())
        state.index += 1
        if self.sampling is not None:
            next_ids = self.sampling(state.logits, state.noise if self.do_sample else None)
            state.ids.copy_(next_ids[:, None])
            state.token_ids.index_copy_(1, state.index, next_ids[:, None])

    def compute_logits(self) -> torch.Tensor:
        """(batch, columns · vocabulary); the newest ids' keys, values and convolution inputs are stored on the way."""
        packed, state = self.packed, self.state
        x = embed_newest(packed, state)
        row = state.first_row + state.index
        mask = state.hidden_keys[:, None].masked_fill(self.positions > row, -torch.inf)  # (batch, 1, rows)
        if state.bias is not None:
            mask = mask + state.bias.index_select(1, (row - self.positions).clamp_(min=0))
        age = (row - self.slots) % max(packed.num_taps, 1)  # of the convolution's slots: 0 is the newest
        for number in range(len(packed.layers)):
            x = self._feed_forward(number, self._attention(number, x, row, mask), row, age)
        x = F.layer_norm(x, packed.norm.shape, packed.norm, None, packed.norm_eps)
        if packed.joint_head is not None:
            return F.linear(x, packed.head_table.flatten(0, 1))
        return F.linear(x, packed.head_table.index_select(0, (state.index + 1) % packed.num_codebooks)[0])

    def _attention(self, number: int, x: torch.Tensor, row: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        layer, keys, values = self.packed.layers[number], self.state.keys[number], self.state.values[number]
        qkv = layer.qkv(x).unflatten(1, (-1, self.packed.head_dim))
        unit = F.normalize(qkv[:, :-1], dim=-1)
        keys.index_copy_(1, row, unit[:, -1:] * layer.key_scale)
        values.index_copy_(1, row, qkv[:, -1:])
        scores = torch.bmm(unit[:, :-1], keys.mT).float() + mask  # (batch, heads, rows)
        output = torch.bmm(F.softmax(scores, dim=-1).to(values.dtype), values)
        return layer.o_proj.plus(output.flatten(1), x)

    def _feed_forward(self, number: int, x: torch.Tensor, row: torch.Tensor, age: torch.Tensor) -> torch.Tensor:
        layer, eps = self.packed.layers[number], self.packed.norm_eps
        inner = layer.up_proj(F.layer_norm(x, layer.mlp_norm.shape, layer.mlp_norm, None, eps))
        taps = self.conv[number]
        if taps is not None:
            ring = self.state.conv_inputs[number]
            ring.index_copy_(1, row % len(taps), inner[:, None])
            inner = (ring * taps.index_select(0, len(taps) - 1 - age)).sum(dim=1)
        value, gate = inner.chunk(2, dim=-1)
        inner = F.layer_norm(value * F.gelu(gate), layer.inner_norm.shape, layer.inner_norm, None, eps)
        return layer.down_proj.plus(inner, x)
