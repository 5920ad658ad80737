"""`TorchStep`'s function in Triton kernels: 122 launches a token for 24 layers and few samples."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from . import triton_kernels as kernels
from .packed_weights import PackedStage
from .sampling import StandardSampling
from .static_step import StaticState

#: up to so many samples a product reads its weights once and multiplies them sample by sample; beyond, the matrix
#: library's tensor cores win
FEW_SAMPLES = 8


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


class TritonStep:
    """A step for few samples (kernels only) or many (the matrix library and kernels between)."""

    def __init__(self, packed: PackedStage, state: StaticState, sampling: StandardSampling, do_sample: bool):
        self.packed, self.state, self.sampling, self.do_sample = packed, state, sampling, do_sample
        batch, like = state.batch_size, packed.norm
        self.few = batch <= FEW_SAMPLES
        self.size = like.shape[0]
        self.inner = packed.layers[0].inner_norm.shape[0]
        self.heads, self.head_dim = packed.num_heads, packed.head_dim
        self.parts = max(min(8, 256 // batch), 1)
        kind = torch.float32 if self.few else packed.dtype  # the residual stream of few samples is kept whole
        self.x = like.new_zeros(batch, self.size, dtype=kind)
        self.qkv = like.new_zeros(batch, (self.heads + 2) * self.head_dim, dtype=kind)
        self.part = like.new_zeros(batch, self.parts, self.heads, self.head_dim, dtype=torch.float32)
        self.stats = like.new_zeros(batch, self.parts, self.heads, 2, dtype=torch.float32)
        self.attended = like.new_zeros(batch, self.heads * self.head_dim)
        # for few samples rows are spaced to 32 bytes, so that weights are read 16 bytes at a time
        self.row = -(-self.inner // 16) * 16 if self.few else self.inner
        self.gated = like.new_zeros(batch, self.row, dtype=kind)
        pad = self.row - self.inner
        self.down = [
            F.pad(layer.down_proj.weight, (0, pad)) if pad else layer.down_proj.weight for layer in packed.layers
        ]
        self.taps = [torch.stack(layer.conv) if layer.conv else like for layer in packed.layers]
        self.none = like.new_zeros(1)

    def begin(self) -> None:
        """Embed the newest ids: a window's first step has no step before it that did."""
        packed, state = self.packed, self.state
        rows = state.ids + state.index % packed.num_codebooks * packed.codebook_size
        x = F.embedding(rows, packed.embedding_table).to(self.x.dtype)
        if packed.positions is not None:
            x = x + packed.positions.index_select(0, state.index)
        self.x.copy_(x)

    def __call__(self) -> None:
        """From the newest ids to the next ones."""
        self.write_logits()
        self._sample()

    def write_logits(self) -> None:
        """Logits of the next token; keys, values and convolution inputs of the newest are stored on the way."""
        for number in range(len(self.packed.layers)):
            if self.few:
                self._layer_of_few(number)
            else:
                self._layer_of_many(number)
        packed, state = self.packed, self.state
        if self.few:
            self._project(self.x, packed.head_table, state.logits, self.size, gain=packed.norm, choose=True)
            return
        x = F.layer_norm(self.x, packed.norm.shape, packed.norm, None, packed.norm_eps)
        head = packed.head_table.index_select(0, (state.index + 1) % packed.num_codebooks)[0]
        state.logits.copy_(F.linear(x, head))

    # ------------------------------------------------------------------ layers

    def _layer_of_few(self, number: int) -> None:
        layer = self.packed.layers[number]
        self._project(self.x, layer.qkv.weight, self.qkv, self.size)
        self._attend(number)
        batch, block = self.state.batch_size, 4
        kernels.join_project[(-(-self.size // block),)](
            self.part, self.stats, layer.o_proj.weight, self.x, self.x, self.heads, self.size,
            BATCH=batch, HEAD_DIM=self.head_dim, PARTS=self.parts, BLOCK_OUT=block,
            BLOCK_HEADS=_power_of_two(self.heads),
        )  # fmt: skip
        block = 8 if batch <= 2 else 4
        kernels.gate[(-(-self.inner // block),)](
            self.x, layer.mlp_norm, layer.up_proj.weight, self.taps[number], self.state.conv_inputs[number],
            self.gated, self.packed.norm_eps, self.size, self.inner, self.row,
            BATCH=batch, TAPS=self.packed.num_taps, BLOCK_OUT=block, BLOCK_IN=_power_of_two(self.size), num_warps=8,
        )  # fmt: skip
        self._project(self.gated, self.down[number], self.x, self.inner, gain=layer.inner_norm, residual=self.x)

    def _layer_of_many(self, number: int) -> None:
        layer = self.packed.layers[number]
        torch.mm(self.x, layer.qkv.weight.T, out=self.qkv)
        self._attend(number)
        batch = self.state.batch_size
        kernels.join[(batch,)](
            self.part, self.stats, self.attended, self.heads,
            HEAD_DIM=self.head_dim, PARTS=self.parts, BLOCK_HEADS=_power_of_two(self.heads),
        )  # fmt: skip
        self.x.addmm_(self.attended, layer.o_proj.weight.T)
        normed = F.layer_norm(self.x, layer.mlp_norm.shape, layer.mlp_norm, None, self.packed.norm_eps)
        kernels.convolve_gate_norm[(batch,)](
            F.linear(normed, layer.up_proj.weight), self.taps[number], self.state.conv_inputs[number],
            layer.inner_norm, self.gated, self.packed.norm_eps, self.inner,
            TAPS=self.packed.num_taps, BLOCK=_power_of_two(self.inner), num_warps=8,
        )  # fmt: skip
        self.x.addmm_(self.gated, layer.down_proj.weight.T)

    # ----------------------------------------------------------------- kernels

    def _attend(self, number: int) -> None:
        state = self.state
        kernels.attend[(state.batch_size, self.parts)](
            self.qkv, state.keys[number], state.values[number], self.packed.layers[number].key_scale,
            self.none if state.bias is None else state.bias, state.hidden_keys, state.index, state.first_row,
            self.part, self.stats, state.num_rows, self.heads,
            BIAS=state.bias is not None, PARTS=self.parts, HEAD_DIM=self.head_dim,
            BLOCK_HEADS=max(_power_of_two(self.heads), 16), BLOCK_ROWS=64,
        )  # fmt: skip

    def _project(self, x, weight, out, num_in: int, gain=None, residual=None, choose: bool = False) -> None:
        """`weight` is (out, in), or (choices, out, in) with `choose`; `num_in` of its columns are not padding."""
        num_out, row = weight.shape[-2:]
        wide = row > 1024
        block = 4 if wide or num_out < 2048 else 8
        kernels.project[(-(-num_out // block),)](
            x, weight, self.none if gain is None else gain, out if residual is None else residual, out,
            self.state.index, len(weight) if choose else 1, self.packed.norm_eps, num_in, num_out, row,
            BATCH=self.state.batch_size, NORM=gain is not None, RESIDUAL=residual is not None, CHOOSE=choose,
            BLOCK_OUT=block, BLOCK_IN=_power_of_two(row), num_warps=8 if wide else 4,
        )  # fmt: skip

    def _sample(self) -> None:
        packed, state, sampling = self.packed, self.state, self.sampling
        top_k = sampling.top_k if sampling.top_k is not None and sampling.top_k < packed.codebook_size else None
        kernels.sample_and_embed[(state.batch_size,)](
            state.logits, state.noise, state.ids, state.token_ids, state.index, packed.embedding_table,
            self.none if packed.positions is None else packed.positions, self.x, state.num_tokens,
            float(sampling.temperature), top_k or 0, packed.codebook_size, packed.num_codebooks, self.size,
            NOISE=self.do_sample, TOP_K=top_k is not None, POSITIONS=packed.positions is not None,
            BLOCK=_power_of_two(packed.codebook_size), BLOCK_SIZE=_power_of_two(self.size),
        )  # fmt: skip
        kernels.advance[(1,)](state.index)
