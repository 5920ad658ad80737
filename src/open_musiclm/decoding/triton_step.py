"""`TorchStep`'s function in Triton kernels: five launches a layer for one sample, six for more."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F

from . import triton_attention, triton_products
from .packed_weights import PackedLinear, PackedStage
from .sampling import StandardSampling
from .static_step import StaticState, embed_newest

#: samples that a program of the products for many takes at most; beyond, weights are read once for each so many
MOST_SAMPLES_A_BLOCK = 64
#: keys that a program of the attention takes at a time
ROWS_A_BLOCK = 64
#: columns that weights are padded to a multiple of, so that rows start where 16 bytes can be read at once
COLUMNS = 16


class Blocks(NamedTuple):
    """How a product is cut: outputs and inputs a program takes at a time, its warps, loads in flight."""

    outs: int
    ins: int
    warps: int = 4
    stages: int = 1


class ProductWeight(NamedTuple):
    """A product's weight as the kernels read it, and what its norm's mean takes away."""

    weight: torch.Tensor  #: (…, out, in), the projection down with rows padded to `COLUMNS`
    scale: torch.Tensor | None  #: (…, out) float32 of rounded weights
    gain: torch.Tensor | None  #: (in) of the norm before, padded as the weight
    weight_sum: torch.Tensor | None  #: (…, out) float32: Σ weight · gain

    @classmethod
    def of(cls, linear: PackedLinear, gain: torch.Tensor | None = None, columns: int = 1) -> ProductWeight:
        weight_sum = None if gain is None else torch.mv(linear.weight.float(), gain.float())
        weight, scale = (linear.weight, None) if linear.rounded is None else (linear.rounded, linear.scale)
        pad = -weight.shape[-1] % columns
        if pad:
            weight, gain = F.pad(weight, (0, pad)), None if gain is None else F.pad(gain, (0, pad))
        return cls(weight, scale, gain, weight_sum)


class KernelWeights:
    """What the kernels read besides `PackedStage`: made once for a model."""

    def __init__(self, packed: PackedStage):
        self.layers = [
            {
                "qkv": ProductWeight.of(layer.qkv),
                "o_proj": ProductWeight.of(layer.o_proj),
                "up_proj": ProductWeight.of(layer.up_proj, layer.mlp_norm),
                "down_proj": ProductWeight.of(layer.down_proj, layer.inner_norm, COLUMNS),
            }
            for layer in packed.layers
        ]
        heads = packed.head_table if packed.joint_head is None else packed.head_table.flatten(0, 1)
        self.head = ProductWeight(heads, None, packed.norm, heads.float() @ packed.norm.float())
        self.taps = [torch.stack(layer.conv) if layer.conv else packed.norm for layer in packed.layers]


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


class TritonStep:
    """The step for any number of samples.

    Args:
        packed, state, sampling, do_sample: see [`TorchStep`].
        overlap: let kernels start while the one before still runs (programmatic dependent launch: compute
            capability 9.0 or more).
        parts: programs that share a sample's keys; by default enough for the chip.

    The residual stream goes back and forth between two buffers, so that no kernel writes what it reads.
    """

    def __init__(
        self,
        packed: PackedStage,
        state: StaticState,
        sampling: StandardSampling | None,
        do_sample: bool,
        overlap: bool = False,
        parts: int | None = None,
    ):
        self.packed, self.state, self.sampling, self.do_sample = packed, state, sampling, do_sample
        if packed.kernel_weights is None:
            packed.kernel_weights = KernelWeights(packed)
        self.weights: KernelWeights = packed.kernel_weights
        self.overlap = overlap
        self.launch = {"launch_pdl": True} if overlap else {}
        batch, like = state.batch_size, packed.norm
        self.alone, self.wide = batch == 1, packed.dtype == torch.float32
        self.size = like.shape[0]
        self.inner = packed.layers[0].inner_norm.shape[0]
        self.heads, self.head_dim = packed.num_heads, packed.head_dim
        # of each sample's keys, taken by a program each: enough programs for the chip, none without work
        self.parts = max(min(parts or min(8, 256 // batch), -(-state.num_rows // ROWS_A_BLOCK)), 1)
        self.samples_a_block = max(min(_power_of_two(batch), MOST_SAMPLES_A_BLOCK), 16)
        self.sample_blocks = -(-batch // self.samples_a_block)
        kind = torch.float32 if self.alone else packed.dtype  # of one sample the residual stream is kept whole
        self.x = like.new_zeros(batch, self.size, dtype=kind)
        self.attended_x = torch.zeros_like(self.x)  # the residual stream between attention and feed-forward
        self.qkv = like.new_zeros(batch, (self.heads + 2) * self.head_dim, dtype=kind)
        self.part = like.new_zeros(batch, self.parts, self.heads, self.head_dim, dtype=torch.float32)
        self.stats = like.new_zeros(batch, self.parts, self.heads, 2, dtype=torch.float32)
        self.attended = like.new_zeros(batch, self.heads * self.head_dim)
        self.gated = like.new_zeros(batch, self.weights.layers[0]["down_proj"].weight.shape[-1], dtype=kind)
        self.none = like.new_zeros(1)
        self.products = self._blocks(outs=16)
        self.gates = self._blocks(outs=16 if self.samples_a_block == 16 else 32)
        if self.alone:
            self.gates = Blocks(outs=4, ins=_power_of_two(self.size))

    def _blocks(self, outs: int) -> Blocks:
        """For many samples; a float32 product does not run on the tensor cores and keeps whole rows in registers."""
        if self.wide:
            return Blocks(outs=16, ins=32, warps=4 if self.samples_a_block == 16 else 8, stages=2)
        if self.samples_a_block == 16:
            return Blocks(outs=outs, ins=128, warps=4, stages=4)
        return Blocks(outs=outs, ins=64, warps=8 if outs > 16 else 4, stages=4)

    def begin(self) -> None:
        """Before the first step from ids that no step has written: embed them, as a step does with those it draws."""
        if self.sampling is not None:
            self._embed()

    def _embed(self) -> None:
        self.x.copy_(embed_newest(self.packed, self.state))

    def __call__(self) -> None:
        """From the newest ids to the next ones, or to the logits."""
        if self.sampling is None:
            self._embed()
        self.write_logits()
        if self.sampling is not None:
            self._sample()
        # Safe: a launch of its own, in which one thread reads and writes the number.
        self.state.index += 1

    def write_logits(self) -> None:
        """Logits of the next token; keys, values and convolution inputs of the newest are stored on the way."""
        packed = self.packed
        for number, weights in enumerate(self.weights.layers):
            self._project(self.x, weights["qkv"], self.qkv, self.size)
            self._attend(number)
            if self.alone:
                self._join_project(weights["o_proj"])
            else:
                block = min(_power_of_two(self.heads), 4)
                triton_attention.join[(self.state.batch_size, -(-self.heads // block))](
                    self.part, self.stats, self.attended, self.heads,
                    PDL=self.overlap, HEAD_DIM=self.head_dim, PARTS=self.parts, BLOCK_HEADS=block, **self.launch,
                )  # fmt: skip
                self._project(
                    self.attended, weights["o_proj"], self.attended_x, self.heads * self.head_dim, residual=self.x
                )
            self._gate(number, weights["up_proj"])
            self._project(self.gated, weights["down_proj"], self.x, self.inner, residual=self.attended_x)
        one = packed.joint_head is None  # of several codebooks' heads
        self._project(self.x, self.weights.head, self.state.logits, self.size, choose=one)

    # ----------------------------------------------------------------- kernels

    def _project(self, x, product: ProductWeight, out, num_in: int, residual=None, choose=False) -> None:
        """`num_in` of the weight's columns are not padding; with `choose` the weight is (choices, out, in)."""
        weight, scale, gain, weight_sum = product
        num_out, row = weight.shape[-2:]
        arguments = (
            x, weight, self.none if scale is None else scale, self.none if gain is None else gain,
            self.none if weight_sum is None else weight_sum, self.none if residual is None else residual, out,
            self.state.index, len(weight) if choose else 1, self.packed.norm_eps,
        )  # fmt: skip
        kind = {
            "NORM": gain is not None,
            "RESIDUAL": residual is not None,
            "CHOOSE": choose,
            "SCALED": scale is not None,
            "PDL": self.overlap,
            **self.launch,
        }
        if self.alone:
            wide = row > 1024
            block = 4 if wide or num_out < 2048 else 8
            triton_products.project[(-(-num_out // block),)](
                *arguments, num_in, num_out, row,
                BLOCK_OUT=block, BLOCK_IN=_power_of_two(row), num_warps=8 if wide else 4, **kind,
            )  # fmt: skip
        else:
            blocks = self.products
            triton_products.project_rows[(-(-num_out // blocks.outs), self.sample_blocks)](
                *arguments, self.state.batch_size, num_in, num_out, row,
                BLOCK_SAMPLES=self.samples_a_block, BLOCK_OUT=blocks.outs, BLOCK_IN=blocks.ins,
                num_warps=blocks.warps, num_stages=blocks.stages, **kind,
            )  # fmt: skip

    def _attend(self, number: int) -> None:
        state = self.state
        triton_attention.attend[(state.batch_size, self.parts)](
            self.qkv, state.keys[number], state.values[number], self.packed.layers[number].key_scale,
            self.none if state.bias is None else state.bias, state.hidden_keys, state.index, state.first_row,
            self.part, self.stats, state.num_rows, self.heads,
            BIAS=state.bias is not None, PDL=self.overlap, PARTS=self.parts, HEAD_DIM=self.head_dim,
            BLOCK_HEADS=max(_power_of_two(self.heads), 16), BLOCK_ROWS=ROWS_A_BLOCK,
            TURNS=-(-state.num_rows // (ROWS_A_BLOCK * self.parts)), num_stages=2 if self.wide else 3, **self.launch,
        )  # fmt: skip

    def _join_project(self, product: ProductWeight) -> None:
        block = 8
        triton_attention.join_project[(-(-self.size // block),)](
            self.part, self.stats, product.weight, self.none if product.scale is None else product.scale,
            self.x, self.attended_x, self.heads, self.size,
            SCALED=product.scale is not None, PDL=self.overlap, HEAD_DIM=self.head_dim, PARTS=self.parts,
            BLOCK_OUT=block, BLOCK_HEADS=_power_of_two(self.heads), num_warps=8, **self.launch,
        )  # fmt: skip

    def _gate(self, number: int, product: ProductWeight) -> None:
        packed, state = self.packed, self.state
        weight, scale, gain, weight_sum = product
        arguments = (
            self.attended_x, weight, self.none if scale is None else scale, gain, weight_sum,
            self.weights.taps[number], state.conv_inputs[number], self.gated, state.index, state.first_row,
            packed.norm_eps,
        )  # fmt: skip
        kind = {"TAPS": packed.num_taps, "SCALED": scale is not None, "PDL": self.overlap, **self.launch}
        blocks = self.gates
        if self.alone:
            triton_products.gate[(-(-self.inner // blocks.outs),)](
                *arguments, self.size, self.inner,
                BLOCK_OUT=blocks.outs, BLOCK_IN=blocks.ins, num_warps=blocks.warps, **kind,
            )  # fmt: skip
        else:
            triton_products.gate_rows[(-(-self.inner // blocks.outs), self.sample_blocks)](
                *arguments, state.batch_size, self.size, self.inner, self.gated.shape[1],
                BLOCK_SAMPLES=self.samples_a_block, BLOCK_OUT=blocks.outs, BLOCK_IN=blocks.ins,
                num_warps=blocks.warps, num_stages=blocks.stages, **kind,
            )  # fmt: skip

    def _sample(self) -> None:
        packed, state = self.packed, self.state
        sampling = cast(StandardSampling, self.sampling)  # without it the caller draws
        top_k = sampling.top_k if sampling.top_k is not None and sampling.top_k < packed.codebook_size else None
        # a warp a sample: the bisection's sums then stay in it
        triton_attention.sample_and_embed[(state.batch_size,)](
            state.logits, state.noise, state.ids, state.token_ids, state.index, packed.embedding_table,
            self.none if packed.positions is None else packed.positions, self.x, state.num_tokens,
            float(sampling.temperature), top_k or 0, packed.codebook_size, packed.num_codebooks, self.size,
            NOISE=self.do_sample, TOP_K=top_k is not None, POSITIONS=packed.positions is not None, PDL=self.overlap,
            BLOCK=_power_of_two(packed.codebook_size), BLOCK_SIZE=_power_of_two(self.size), num_warps=1, **self.launch,
        )  # fmt: skip
