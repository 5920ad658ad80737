"""Triton kernels of a layer's products: each reads its weights once for all samples.

    one sample     rows of weights times a vector, summed up in registers
    2 to 64        tiles of weights times the samples' rows, padded to 16, on the tensor cores; beyond 64 in blocks

What is common to all kernels of a step:

- Nothing is stored where the same launch still reads: neither by the program that stores, whose warps hold copies of
  small blocks and do not run in step, nor by another one. A comment at each store says why that holds.
- Every sum is made in float32 and in a fixed order, so results do not change from run to run.
- Sizes that are not powers of two are masked. A norm's mean and deviation are taken from the sums that go by with the
  product: `weight · norm(x) = (weight · (gain x) - mean · weight · gain) / deviation`.
- With PDL (programmatic dependent launch) a kernel starts while the one before still runs: it fetches weights, which
  nobody writes, and then waits for the end of all kernels before; only then it reads or writes anything else.

Imported only where Triton is (a GPU); `TRITON_INTERPRET=1` runs the same code on a CPU, for tests.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

#: in the interpreter there is no bfloat16 product; float32 holds the same numbers
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def dot(a, b, sum_before):
    """sum_before + a · b, operands in the weights' dtype, summed in float32."""
    if INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, sum_before, input_precision="ieee")


@triton.jit
def wait_for_kernels_before(PDL: tl.constexpr):
    """Behind this line everything that earlier kernels wrote is there, and nobody reads what they read any more."""
    if PDL:
        gdc_wait()


@triton.jit
def let_next_kernel_start(PDL: tl.constexpr):
    if PDL:
        gdc_launch_dependents()


@triton.jit
def _normed_product(product, weight_sum, total, squares, size, eps):
    """The product with a normed x, from the one with x · gain, Σ weight · gain, Σ x and Σ x²."""
    mean = total / size
    variance = tl.maximum(squares / size - mean * mean, 0.0)
    return (product - weight_sum * mean) * tl.rsqrt(variance + eps)


@triton.jit
def _convolution_of_past(ring_ptr, taps_ptr, where, channels, position, num_channels, valid, TAPS: tl.constexpr):
    """What the inputs before the newest one give to a causal convolution's output; reads TAPS - 1 slots of the ring.

    `where` are the addresses of the channels in slot 0 of their samples; the input of position p stands in slot
    p modulo TAPS.
    """
    past = tl.zeros_like(where).to(tl.float32)
    for back in tl.static_range(1, TAPS):
        slot = (position - back + TAPS) % TAPS
        before = tl.load(ring_ptr + where + slot * num_channels, mask=valid, other=0.0).to(tl.float32)
        past += before * tl.load(taps_ptr + (TAPS - 1 - back) * num_channels + channels, mask=valid, other=0.0).to(
            tl.float32
        )
    return past


@triton.jit
def _convolve_newest(
    newest, past, ring_ptr, taps_ptr, where, channels, position, num_channels, valid, TAPS: tl.constexpr
):
    """The convolution's newest output; the newest input is stored in the ring."""
    if TAPS == 0:
        return newest
    # Safe: the slot of this position holds the input of TAPS positions before, which this step does not read
    # (`_convolution_of_past` reads the other slots), and no other program has these channels of these samples.
    tl.store(ring_ptr + where + position % TAPS * num_channels, newest, mask=valid)
    tap = tl.load(taps_ptr + (TAPS - 1) * num_channels + channels, mask=valid, other=0.0).to(tl.float32)
    return newest * tap + past


@triton.jit
def gelu(x):
    return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))


# ---------------------------------------------------------------------------------------------------- one sample


@triton.jit
def project(
    x_ptr,  # (row), zeros behind num_in
    weight_ptr,  # (num_out, num_in), rows `row` apart, zeros between; (choices · num_out, num_in) if CHOOSE
    scale_ptr,  # (num_out) float32 that rounded weights are multiplied by, if SCALED
    gain_ptr,  # (row) of the norm before, if NORM
    sum_ptr,  # (num_out) float32: Σ weight · gain, if NORM
    residual_ptr,  # (num_out), if RESIDUAL; never the output
    out_ptr,  # (num_out)
    index_ptr,  # (1) int64: which of several stacked weights, less one, modulo num_choices, if CHOOSE
    num_choices,
    eps,
    num_in: tl.constexpr,
    num_out: tl.constexpr,
    row: tl.constexpr,  # a multiple of 16, so that loads are 16 bytes wide
    NORM: tl.constexpr,
    RESIDUAL: tl.constexpr,
    CHOOSE: tl.constexpr,
    SCALED: tl.constexpr,
    PDL: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,  # a power of two, at least row
):
    """out = weight · norm(x) + residual; each program makes BLOCK_OUT outputs."""
    let_next_kernel_start(PDL)
    outs = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    ins = tl.arange(0, BLOCK_IN)
    # a bound that is a multiple of 16 keeps the loads 16 bytes wide
    valid, made = ins < row, outs < num_out
    first = 0
    if CHOOSE:
        wait_for_kernels_before(PDL)
        first = ((tl.load(index_ptr) + 1) % num_choices * num_out).to(tl.int32)
    where = (first + outs)[:, None] * row + ins[None, :]
    weight = tl.load(weight_ptr + where, mask=made[:, None] & valid[None, :], other=0.0)
    if not CHOOSE:
        wait_for_kernels_before(PDL)
    x = tl.load(x_ptr + ins, mask=valid, other=0.0).to(tl.float32)
    operand = x
    if NORM:
        operand = x * tl.load(gain_ptr + ins, mask=valid, other=0.0).to(tl.float32)
    out = tl.sum(weight.to(tl.float32) * operand[None, :], axis=1)
    if SCALED:
        out *= tl.load(scale_ptr + first + outs, mask=made, other=0.0)
    if NORM:
        weight_sum = tl.load(sum_ptr + first + outs, mask=made, other=0.0)
        out = _normed_product(out, weight_sum, tl.sum(x, axis=0), tl.sum(x * x, axis=0), num_in, eps)
    if RESIDUAL:
        out += tl.load(residual_ptr + outs, mask=made, other=0.0).to(tl.float32)
    # Safe: the output is neither x nor the residual, and every program has outputs of its own.
    tl.store(out_ptr + outs, out, mask=made)


@triton.jit
def gate(
    x_ptr,  # (num_in)
    weight_ptr,  # (2 · num_inner, num_in): values, then gates
    scale_ptr,  # (2 · num_inner) float32, if SCALED
    gain_ptr,  # (num_in) of the norm before
    sum_ptr,  # (2 · num_inner) float32: Σ weight · gain
    taps_ptr,  # (TAPS, 2 · num_inner)
    ring_ptr,  # (TAPS, 2 · num_inner): the convolution's inputs, of position p in slot p modulo TAPS
    out_ptr,  # (num_inner)
    index_ptr,  # (1) int64 of the newest token in its stream
    first_row_ptr,  # (1) int64: position of the stream's first token
    eps,
    num_in: tl.constexpr,
    num_inner: tl.constexpr,
    TAPS: tl.constexpr,
    SCALED: tl.constexpr,
    PDL: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):
    """norm → projection up → convolution → value · GELU(gate)."""
    let_next_kernel_start(PDL)
    outs = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    gates = num_inner + outs
    ins = tl.arange(0, BLOCK_IN)
    valid, made = ins < num_in, outs < num_inner
    held = made[:, None] & valid[None, :]
    value_weight = tl.load(weight_ptr + outs[:, None] * num_in + ins[None, :], mask=held, other=0.0)
    gate_weight = tl.load(weight_ptr + gates[:, None] * num_in + ins[None, :], mask=held, other=0.0)
    gain = tl.load(gain_ptr + ins, mask=valid, other=0.0).to(tl.float32)
    value_sum = tl.load(sum_ptr + outs, mask=made, other=0.0)
    gate_sum = tl.load(sum_ptr + gates, mask=made, other=0.0)
    wait_for_kernels_before(PDL)
    position = tl.load(index_ptr) + tl.load(first_row_ptr)
    value_past = _convolution_of_past(ring_ptr, taps_ptr, outs, outs, position, 2 * num_inner, made, TAPS)
    gate_past = _convolution_of_past(ring_ptr, taps_ptr, gates, gates, position, 2 * num_inner, made, TAPS)
    x = tl.load(x_ptr + ins, mask=valid, other=0.0).to(tl.float32)
    operand = (x * gain)[None, :]
    total, squares = tl.sum(x, axis=0), tl.sum(x * x, axis=0)
    value = tl.sum(value_weight.to(tl.float32) * operand, axis=1)
    gated = tl.sum(gate_weight.to(tl.float32) * operand, axis=1)
    if SCALED:
        value *= tl.load(scale_ptr + outs, mask=made, other=0.0)
        gated *= tl.load(scale_ptr + gates, mask=made, other=0.0)
    value = _normed_product(value, value_sum, total, squares, num_in, eps)
    gated = _normed_product(gated, gate_sum, total, squares, num_in, eps)
    value = _convolve_newest(value, value_past, ring_ptr, taps_ptr, outs, outs, position, 2 * num_inner, made, TAPS)
    gated = _convolve_newest(gated, gate_past, ring_ptr, taps_ptr, gates, gates, position, 2 * num_inner, made, TAPS)
    # Safe: nobody reads the output in this launch, and every program has outputs of its own.
    tl.store(out_ptr + outs, value * gelu(gated), mask=made)


# ------------------------------------------------------------------------------------------------- many samples


@triton.jit
def _input_rows(x_ptr, gain_ptr, samples, ins, num_samples, row, NORM: tl.constexpr):
    """x of some samples and inputs, plain and as the product's operand: (samples, ins) float32 both."""
    held = (samples < num_samples)[:, None] & (ins < row)[None, :]
    x = tl.load(x_ptr + samples[:, None] * row + ins[None, :], mask=held, other=0.0).to(tl.float32)
    operand = x
    if NORM:
        operand = x * tl.load(gain_ptr + ins, mask=ins < row, other=0.0).to(tl.float32)[None, :]
    return x, operand


@triton.jit
def project_rows(
    x_ptr,  # (samples, row), zeros behind num_in
    weight_ptr,
    scale_ptr,
    gain_ptr,
    sum_ptr,
    residual_ptr,  # (samples, num_out), if RESIDUAL; never the output
    out_ptr,  # (samples, num_out)
    index_ptr,
    num_choices,
    eps,
    num_samples,
    num_in: tl.constexpr,
    num_out: tl.constexpr,
    row: tl.constexpr,
    NORM: tl.constexpr,
    RESIDUAL: tl.constexpr,
    CHOOSE: tl.constexpr,
    SCALED: tl.constexpr,
    PDL: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr,  # a power of two, at least 16
    BLOCK_OUT: tl.constexpr,  # at least 16
    BLOCK_IN: tl.constexpr,  # at least 16
):
    """`project` for many samples; see there for the arguments. A program makes BLOCK_OUT outputs of a block of them."""
    let_next_kernel_start(PDL)
    outs = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    samples = tl.program_id(1) * BLOCK_SAMPLES + tl.arange(0, BLOCK_SAMPLES)
    ins = tl.arange(0, BLOCK_IN)
    made = outs < num_out
    kind = x_ptr.dtype.element_ty
    first = 0
    if CHOOSE:
        wait_for_kernels_before(PDL)
        first = ((tl.load(index_ptr) + 1) % num_choices * num_out).to(tl.int32)
    own = weight_ptr + (first + outs)[:, None] * row
    weight = tl.load(own + ins[None, :], mask=made[:, None] & (ins < row)[None, :], other=0.0)
    if not CHOOSE:
        wait_for_kernels_before(PDL)
    x, operand = _input_rows(x_ptr, gain_ptr, samples, ins, num_samples, row, NORM)
    total, squares = tl.sum(x, axis=1), tl.sum(x * x, axis=1)
    out = dot(weight.to(kind), tl.trans(operand.to(kind)), tl.zeros((BLOCK_OUT, BLOCK_SAMPLES), tl.float32))
    for begin in range(BLOCK_IN, row, BLOCK_IN):
        next_ins = begin + ins
        weight = tl.load(own + next_ins[None, :], mask=made[:, None] & (next_ins < row)[None, :], other=0.0)
        x, operand = _input_rows(x_ptr, gain_ptr, samples, next_ins, num_samples, row, NORM)
        if NORM:
            total += tl.sum(x, axis=1)
            squares += tl.sum(x * x, axis=1)
        out = dot(weight.to(kind), tl.trans(operand.to(kind)), out)
    if SCALED:
        out *= tl.load(scale_ptr + first + outs, mask=made, other=0.0)[:, None]
    if NORM:
        weight_sum = tl.load(sum_ptr + first + outs, mask=made, other=0.0)
        out = _normed_product(out, weight_sum[:, None], total[None, :], squares[None, :], num_in, eps)
    where = samples[None, :] * num_out + outs[:, None]
    held = made[:, None] & (samples < num_samples)[None, :]
    if RESIDUAL:
        out += tl.load(residual_ptr + where, mask=held, other=0.0).to(tl.float32)
    # Safe: the output is neither x nor the residual, and every program has outputs of its own.
    tl.store(out_ptr + where, out, mask=held)


@triton.jit
def gate_rows(
    x_ptr,  # (samples, num_in)
    weight_ptr,
    scale_ptr,
    gain_ptr,
    sum_ptr,
    taps_ptr,
    ring_ptr,  # (samples, TAPS, 2 · num_inner)
    out_ptr,  # (samples, num_inner), rows `row` apart
    index_ptr,
    first_row_ptr,
    eps,
    num_samples,
    num_in: tl.constexpr,
    num_inner: tl.constexpr,
    row: tl.constexpr,
    TAPS: tl.constexpr,
    SCALED: tl.constexpr,
    PDL: tl.constexpr,
    BLOCK_SAMPLES: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):
    """`gate` for many samples; see there for the arguments."""
    let_next_kernel_start(PDL)
    outs = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    gates = num_inner + outs
    samples = tl.program_id(1) * BLOCK_SAMPLES + tl.arange(0, BLOCK_SAMPLES)
    ins = tl.arange(0, BLOCK_IN)
    made = outs < num_inner
    kind = x_ptr.dtype.element_ty
    value_own, gate_own = weight_ptr + outs[:, None] * num_in, weight_ptr + gates[:, None] * num_in
    weights_held = made[:, None] & (ins < num_in)[None, :]
    value_weight = tl.load(value_own + ins[None, :], mask=weights_held, other=0.0)
    gate_weight = tl.load(gate_own + ins[None, :], mask=weights_held, other=0.0)
    wait_for_kernels_before(PDL)
    x, operand = _input_rows(x_ptr, gain_ptr, samples, ins, num_samples, num_in, True)
    total, squares = tl.sum(x, axis=1), tl.sum(x * x, axis=1)
    operand = tl.trans(operand.to(kind))
    value = dot(value_weight.to(kind), operand, tl.zeros((BLOCK_OUT, BLOCK_SAMPLES), tl.float32))
    gated = dot(gate_weight.to(kind), operand, tl.zeros((BLOCK_OUT, BLOCK_SAMPLES), tl.float32))
    for begin in range(BLOCK_IN, num_in, BLOCK_IN):
        next_ins = begin + ins
        weights_held = made[:, None] & (next_ins < num_in)[None, :]
        value_weight = tl.load(value_own + next_ins[None, :], mask=weights_held, other=0.0)
        gate_weight = tl.load(gate_own + next_ins[None, :], mask=weights_held, other=0.0)
        x, operand = _input_rows(x_ptr, gain_ptr, samples, next_ins, num_samples, num_in, True)
        total += tl.sum(x, axis=1)
        squares += tl.sum(x * x, axis=1)
        operand = tl.trans(operand.to(kind))
        value = dot(value_weight.to(kind), operand, value)
        gated = dot(gate_weight.to(kind), operand, gated)
    if SCALED:
        value *= tl.load(scale_ptr + outs, mask=made, other=0.0)[:, None]
        gated *= tl.load(scale_ptr + gates, mask=made, other=0.0)[:, None]
    value_sum = tl.load(sum_ptr + outs, mask=made, other=0.0)[:, None]
    gate_sum = tl.load(sum_ptr + gates, mask=made, other=0.0)[:, None]
    value = _normed_product(value, value_sum, total[None, :], squares[None, :], num_in, eps)
    gated = _normed_product(gated, gate_sum, total[None, :], squares[None, :], num_in, eps)
    if TAPS > 0:
        position = tl.load(index_ptr) + tl.load(first_row_ptr)
        held = made[:, None] & (samples < num_samples)[None, :]
        start, size = samples[None, :] * (TAPS * 2 * num_inner), 2 * num_inner
        channels, others = outs[:, None], gates[:, None]
        here, there = start + channels, start + others
        value_past = _convolution_of_past(ring_ptr, taps_ptr, here, channels, position, size, held, TAPS)
        gate_past = _convolution_of_past(ring_ptr, taps_ptr, there, others, position, size, held, TAPS)
        value = _convolve_newest(value, value_past, ring_ptr, taps_ptr, here, channels, position, size, held, TAPS)
        gated = _convolve_newest(gated, gate_past, ring_ptr, taps_ptr, there, others, position, size, held, TAPS)
    # Safe: nobody reads the output in this launch, and every program has outputs of its own.
    where = samples[None, :] * row + outs[:, None]
    tl.store(out_ptr + where, value * gelu(gated), mask=made[:, None] & (samples < num_samples)[None, :])
