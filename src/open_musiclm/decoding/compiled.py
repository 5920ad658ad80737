"""One sample (or two) on a CPU, with the step between two attentions compiled: `generate(fast="compile")`.

    first ─→ attention ─→ between ─→ attention ─→ between … ─→ attention ─→ last ─→ logits

`first`, `between` and `last` are one graph each for all layers, in which every weight is read once and multiplied as it
is read. The same function as `FastDecoder` computes; PyTorch's compiler makes it, and needs a C++ compiler for that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F

from .interface import Request, Stage
from .packed import FastDecoder
from .packed_weights import fold_qkv

#: rows that one loop over a weight serves: for more, a product of matrices reads the weights once, too
MOST_ROWS = 2


class LayerWeights(NamedTuple):
    """A layer after its attention; plain weights (out, in), in the model's own memory where they are its own."""

    o_proj: torch.Tensor
    mlp_norm: torch.Tensor
    up_proj: torch.Tensor
    taps: torch.Tensor | None  #: (taps, 2 · inner), the oldest first; `None` without the convolution
    inner_norm: torch.Tensor
    down_proj: torch.Tensor


class CompiledDecoder(FastDecoder):
    """`FastDecoder` for a row or two on a CPU: one sample, or one with guidance."""

    name: ClassVar[str] = "compile"

    def __init__(self, stage: Stage, request: Request):
        super().__init__(stage, request)
        self.first, self.between, self.last = compiled_steps(self.head_dim, self.packed.norm_eps)
        self.qkv = [fold_qkv(layer) for layer in stage.decoder.layers]
        self.weights = [
            LayerWeights(
                layer.self_attn.o_proj.weight,
                packed.mlp_norm,
                layer.mlp.up_proj.weight,
                torch.stack(packed.conv) if packed.conv else None,
                packed.inner_norm,
                layer.mlp.down_proj.weight,
            )
            for layer, packed in zip(stage.decoder.layers, self.packed.layers, strict=True)
        ]

    def prefill(self, steps: torch.Tensor) -> torch.Tensor:
        logits = super().prefill(steps)
        #: of each layer: the convolution's inputs of the steps before, (rows, taps - 1, 2 · inner); `None` without it
        self.past = [
            None
            if weights.taps is None
            else torch.stack([*state.conv_inputs], dim=1)
            if state.conv_inputs
            else weights.taps.new_empty(len(steps), 0, weights.taps.shape[1])
            for weights, state in zip(self.weights, self.states, strict=True)
        ]
        return logits

    def decode_one_step(self, steps: torch.Tensor) -> torch.Tensor:
        index = steps.shape[1] - 1
        packed = self.packed
        x = self._embed(steps[:, index], index)
        row = self.first_row + index
        mask = self._mask(row)
        try:
            heads = self.first(x, self.qkv[0], packed.layers[0].key_scale)
            for number, weights in enumerate(self.weights):
                attended = self._attend(number, heads, row, mask)
                if number + 1 < len(self.weights):
                    x, self.past[number], heads = self.between(
                        x,
                        attended,
                        weights,
                        self.past[number],
                        self.qkv[number + 1],
                        packed.layers[number + 1].key_scale,
                    )
                else:
                    table, flat = packed.head_table, self.stream.pattern == "flat"
                    head = table[(index + 1) % self.num_codebooks] if flat else table.flatten(0, 1)
                    logits, self.past[number] = self.last(x, attended, weights, self.past[number], packed.norm, head)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            raise ValueError(
                "`fast='compile'` needs a C++ compiler that PyTorch can use (g++, clang or MSVC): "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
        return logits.unflatten(-1, (-1, packed.vocabulary_size))

    def _attend(self, number: int, heads: tuple[torch.Tensor, ...], row: int, mask: torch.Tensor | None):
        """Queries (rows, heads, head_dim), newest keys and values (rows, head_dim) → (rows, heads · head_dim)."""
        state = self.states[number]
        query, state.keys[:, row], state.values[:, row] = heads
        output = F.scaled_dot_product_attention(
            query[:, None],
            state.keys[:, None, : row + 1],
            state.values[:, None, : row + 1],
            None if mask is None else mask[:, None],
            scale=1.0,
        )
        return output.flatten(1)

    @classmethod
    def supports(cls, stage: Stage, request: Request) -> str | None:
        if stage.device.type != "cpu":
            return f"is for a CPU; this stage is on {stage.device}"
        if request.num_rows > MOST_ROWS:
            made = "with guidance" if request.guidance_scale is not None else "at a time"
            return f"reads the weights for each of up to {MOST_ROWS} rows; this call has {request.num_rows} {made}"
        return super().supports(stage, request)


@functools.cache
def compiled_steps(head_dim: int, norm_eps: float) -> tuple[Callable, Callable, Callable]:
    """The three compiled parts; compiled anew for each size and dtype of stage, and kept on disk by PyTorch."""

    def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """(rows, in) · (out, in) → (rows, out) float32, in one loop over the weight for all rows."""
        return stored(torch.stack([(weight.float() * row.float()).sum(-1) for row in x.unbind()]))

    def norm(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        return stored(F.layer_norm(x, gain.shape, gain.float(), None, norm_eps))

    def heads_of(x: torch.Tensor, qkv: torch.Tensor, key_scale: torch.Tensor) -> tuple[torch.Tensor, ...]:
        heads = product(x, qkv).view(len(x), -1, head_dim)
        unit = heads[:, :-1] / torch.linalg.vector_norm(heads[:, :-1], dim=-1, keepdim=True).clamp_min(1e-12)
        key = unit[:, -1] * key_scale.float()
        return unit[:, :-1].to(qkv.dtype), key.to(qkv.dtype), heads[:, -1].to(qkv.dtype)

    def rest_of_layer(x: torch.Tensor, attended: torch.Tensor, weights: LayerWeights, past: torch.Tensor | None):
        x = stored(x.float() + product(attended, weights.o_proj))
        inner = product(norm(x, weights.mlp_norm), weights.up_proj)
        if weights.taps is not None and past is not None:
            inputs = torch.cat([past, inner.to(past.dtype)[:, None]], dim=1)
            inner, past = (inputs.float() * weights.taps.float()).sum(1), inputs[:, 1:]
        value, gate = inner.chunk(2, dim=-1)
        gated = norm(stored(value * F.gelu(gate)), weights.inner_norm)
        return stored((x + product(gated, weights.down_proj)).to(attended.dtype)), past

    def first(x, qkv, key_scale):
        return heads_of(x, qkv, key_scale)

    def between(x, attended, weights, past, qkv, key_scale):
        x, past = rest_of_layer(x, attended, weights, past)
        return x, past, heads_of(x, qkv, key_scale)

    def last(x, attended, weights, past, gain, head):
        x, past = rest_of_layer(x, attended, weights, past)
        return product(norm(x.float(), gain), head).to(attended.dtype), past

    compiled = functools.partial(torch.compile, dynamic=False)
    return compiled(first), compiled(between), compiled(last)


def stored(x: torch.Tensor) -> torch.Tensor:
    """The same, but the compiler makes it once, and does not put its making into every loop that reads it."""
    return torch.as_strided(x, x.shape, x.stride())
