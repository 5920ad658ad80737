"""Triton kernels of a decoding step: five a layer for few samples, three beside the matrix library's for many.

    few samples   project ─→ attend ─→ join_project ─→ gate ─→ project        (each reads its weights once)
    many samples  matmul ─→ attend ─→ join ─→ matmul ─→ norm ─→ matmul ─→ convolve_gate_norm ─→ matmul

Imported only where Triton is (a GPU); `TRITON_INTERPRET=1` runs the same code on a CPU, for tests. Every sum is made in
float32 and in a fixed order, so results do not change from run to run. Sizes that are not powers of two are masked.
"""

from __future__ import annotations

import triton
import triton.language as tl

#: stands for minus infinity: differences of two of these are numbers
MINUS_INFINITY = tl.constexpr(-1.0e30)


@triton.jit
def _normed(x, gain, valid, size, eps):
    """Layer norm of a vector with a gain and no bias; entries that are not valid stay 0."""
    mean = tl.sum(x, axis=0) / size
    centred = tl.where(valid, x - mean, 0.0)
    return centred * tl.rsqrt(tl.sum(centred * centred, axis=0) / size + eps) * gain


@triton.jit
def project(
    x_ptr,  # (batch, num_in), rows `row` apart
    weight_ptr,  # (num_out, num_in), rows `row` apart, zeros between
    gain_ptr,  # (num_in) of the norm before, if NORM
    residual_ptr,  # (batch, num_out), if RESIDUAL; may be the output
    out_ptr,  # (batch, num_out)
    choice_ptr,  # (1) int64: which of several stacked weights, plus one, modulo num_choices, if CHOOSE
    num_choices,
    eps,
    num_in: tl.constexpr,
    num_out: tl.constexpr,
    row: tl.constexpr,
    BATCH: tl.constexpr,
    NORM: tl.constexpr,
    RESIDUAL: tl.constexpr,
    CHOOSE: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,  # a power of two, at least num_in
):
    """out = norm(x) · weightᵀ + residual for a few samples; each program makes BLOCK_OUT outputs of all of them.

    Rows of x and of the weight are `row` numbers apart, a multiple of 16, so that loads are 16 bytes wide.
    """
    outs = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    ins = tl.arange(0, BLOCK_IN)
    valid = ins < num_in
    first = 0
    if CHOOSE:
        first = (tl.load(choice_ptr) + 1) % num_choices * num_out
    weight = tl.load(
        weight_ptr + (first + outs)[:, None] * row + ins[None, :],
        mask=(outs < num_out)[:, None] & (ins < row)[None, :],
        other=0.0,
    ).to(tl.float32)
    if NORM:
        gain = tl.load(gain_ptr + ins, mask=valid, other=0.0).to(tl.float32)
    for sample in tl.static_range(BATCH):
        x = tl.load(x_ptr + sample * row + ins, mask=valid, other=0.0).to(tl.float32)
        if NORM:
            x = _normed(x, gain, valid, num_in, eps)
        out = tl.sum(weight * x[None, :], axis=1)
        if RESIDUAL:
            out += tl.load(residual_ptr + sample * num_out + outs, mask=outs < num_out, other=0.0).to(tl.float32)
        tl.store(out_ptr + sample * num_out + outs, out, mask=outs < num_out)


@triton.jit
def attend(
    qkv_ptr,  # (batch, (heads + 2) · HEAD_DIM): queries, key, value of the newest row, plain
    keys_ptr,  # (batch, num_rows, HEAD_DIM): unit keys times key_scale
    values_ptr,  # (batch, num_rows, HEAD_DIM)
    key_scale_ptr,  # (HEAD_DIM)
    bias_ptr,  # (heads, num_rows) by distance, if BIAS
    hidden_ptr,  # (batch, num_rows), added to the scores
    index_ptr,  # (1) int64: index of the newest token in its stream
    first_row_ptr,  # (1) int64: row of the stream's first token
    part_ptr,  # (batch, PARTS, heads, HEAD_DIM) float32: values weighted by exp(score - highest)
    stats_ptr,  # (batch, PARTS, heads, 2) float32: the highest score, the sum of the weights
    num_rows,
    heads: tl.constexpr,
    BIAS: tl.constexpr,
    PARTS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,  # a power of two, at least 16 and heads
    BLOCK_ROWS: tl.constexpr,
):
    """A share of the keys for all heads of one sample; the share that holds the newest row also stores it."""
    sample, part = tl.program_id(0), tl.program_id(1)
    head, dim = tl.arange(0, BLOCK_HEADS), tl.arange(0, HEAD_DIM)
    row = (tl.load(index_ptr) + tl.load(first_row_ptr)).to(tl.int32)

    newest = qkv_ptr + sample * (heads + 2) * HEAD_DIM
    query = tl.load(newest + head[:, None] * HEAD_DIM + dim[None, :], mask=(head < heads)[:, None], other=0.0).to(
        tl.float32
    )
    query = query / tl.maximum(tl.sqrt(tl.sum(query * query, axis=1)), 1e-12)[:, None]
    new_key = tl.load(newest + heads * HEAD_DIM + dim).to(tl.float32)
    new_key = new_key / tl.maximum(tl.sqrt(tl.sum(new_key * new_key, axis=0)), 1e-12)
    new_key = new_key * tl.load(key_scale_ptr + dim).to(tl.float32)
    new_value = tl.load(newest + (heads + 1) * HEAD_DIM + dim).to(tl.float32)

    kind = keys_ptr.dtype.element_ty
    query = query.to(kind)
    share = tl.cdiv(tl.cdiv(row + 1, PARTS), BLOCK_ROWS) * BLOCK_ROWS
    start = part * share
    stop = tl.minimum(start + share, row + 1)
    own = keys_ptr + sample * num_rows * HEAD_DIM, values_ptr + sample * num_rows * HEAD_DIM
    highest = tl.full((BLOCK_HEADS,), MINUS_INFINITY, tl.float32)
    total = tl.zeros((BLOCK_HEADS,), tl.float32)
    weighted = tl.zeros((BLOCK_HEADS, HEAD_DIM), tl.float32)
    for begin in range(start, stop, BLOCK_ROWS):
        rows = begin + tl.arange(0, BLOCK_ROWS)
        seen = rows < stop
        known = (rows < row)[:, None] & seen[:, None]
        is_newest = (rows == row)[:, None]
        keys = tl.load(own[0] + rows[:, None] * HEAD_DIM + dim[None, :], mask=known, other=0.0)
        keys = tl.where(is_newest, new_key[None, :].to(kind), keys)
        values = tl.load(own[1] + rows[:, None] * HEAD_DIM + dim[None, :], mask=known, other=0.0)
        values = tl.where(is_newest, new_value[None, :].to(kind), values)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee")  # (heads, rows)
        if BIAS:
            near = bias_ptr + head[:, None] * num_rows + (row - rows)[None, :]
            scores += tl.load(near, mask=(head < heads)[:, None] & seen[None, :], other=0.0).to(tl.float32)
        scores += tl.load(hidden_ptr + sample * num_rows + rows, mask=seen, other=0.0)[None, :]
        scores = tl.maximum(tl.where(seen[None, :], scores, MINUS_INFINITY), MINUS_INFINITY)
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        weights = tl.exp(scores - higher[:, None])
        weights = tl.where(scores > MINUS_INFINITY, weights, 0.0)
        fade = tl.exp(highest - higher)
        total = total * fade + tl.sum(weights, axis=1)
        weighted = weighted * fade[:, None] + tl.dot(weights.to(kind), values, input_precision="ieee")
        highest = higher

    place = (sample * PARTS + part) * heads + head
    tl.store(part_ptr + place[:, None] * HEAD_DIM + dim[None, :], weighted, mask=(head < heads)[:, None])
    tl.store(stats_ptr + place * 2, highest, mask=head < heads)
    tl.store(stats_ptr + place * 2 + 1, total, mask=head < heads)
    if (start <= row) & (row < stop):
        tl.store(own[0] + row * HEAD_DIM + dim, new_key.to(kind))
        tl.store(own[1] + row * HEAD_DIM + dim, new_value.to(kind))


@triton.jit
def _joined(
    part_ptr,
    stats_ptr,
    sample,
    heads: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
):
    """The attention's output of one sample from its parts: (BLOCK_HEADS · HEAD_DIM,), zeros behind the heads."""
    head, dim = tl.arange(0, BLOCK_HEADS), tl.arange(0, HEAD_DIM)
    valid = head < heads
    highest = tl.full((BLOCK_HEADS,), MINUS_INFINITY, tl.float32)
    for part in tl.static_range(PARTS):
        place = (sample * PARTS + part) * heads + head
        highest = tl.maximum(highest, tl.load(stats_ptr + place * 2, mask=valid, other=MINUS_INFINITY))
    output = tl.zeros((BLOCK_HEADS, HEAD_DIM), tl.float32)
    total = tl.zeros((BLOCK_HEADS,), tl.float32)
    for part in tl.static_range(PARTS):
        place = (sample * PARTS + part) * heads + head
        weight = tl.exp(tl.load(stats_ptr + place * 2, mask=valid, other=MINUS_INFINITY) - highest)
        total += weight * tl.load(stats_ptr + place * 2 + 1, mask=valid, other=0.0)
        values = part_ptr + place[:, None] * HEAD_DIM + dim[None, :]
        output += weight[:, None] * tl.load(values, mask=valid[:, None], other=0.0)
    output = output / tl.maximum(total, 1e-30)[:, None]
    return tl.reshape(output, (BLOCK_HEADS * HEAD_DIM,))


@triton.jit
def join(
    part_ptr,
    stats_ptr,
    out_ptr,
    heads: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
):
    """The attention's output (batch, heads · HEAD_DIM) from its parts; a program a sample."""
    sample, outs = tl.program_id(0), tl.arange(0, BLOCK_HEADS * HEAD_DIM)
    output = _joined(part_ptr, stats_ptr, sample, heads, HEAD_DIM, PARTS, BLOCK_HEADS)
    tl.store(out_ptr + sample * heads * HEAD_DIM + outs, output, mask=outs < heads * HEAD_DIM)


@triton.jit
def join_project(
    part_ptr,
    stats_ptr,
    weight_ptr,  # (num_out, heads · HEAD_DIM)
    residual_ptr,  # (batch, num_out); may be the output
    out_ptr,  # (batch, num_out)
    heads: tl.constexpr,
    num_out: tl.constexpr,
    BATCH: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
):
    """`join`, and the output projection with its residual, for a few samples."""
    outs = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    ins = tl.arange(0, BLOCK_HEADS * HEAD_DIM)
    num_in: tl.constexpr = heads * HEAD_DIM
    weight = tl.load(
        weight_ptr + outs[:, None] * num_in + ins[None, :],
        mask=(outs < num_out)[:, None] & (ins < num_in)[None, :],
        other=0.0,
    ).to(tl.float32)
    for sample in tl.static_range(BATCH):
        x = _joined(part_ptr, stats_ptr, sample, heads, HEAD_DIM, PARTS, BLOCK_HEADS)
        out = tl.sum(weight * x[None, :], axis=1)
        out += tl.load(residual_ptr + sample * num_out + outs, mask=outs < num_out, other=0.0).to(tl.float32)
        tl.store(out_ptr + sample * num_out + outs, out, mask=outs < num_out)


@triton.jit
def _convolved(newest, state_ptr, taps_ptr, channels, sample, num_channels, valid, TAPS: tl.constexpr):
    """A causal convolution's newest output, its stored inputs moved on by one; without taps the input itself."""
    if TAPS == 0:
        return newest
    out = newest * tl.load(taps_ptr + (TAPS - 1) * num_channels + channels, mask=valid, other=0.0).to(tl.float32)
    for back in tl.static_range(TAPS - 1):
        own = state_ptr + (sample * (TAPS - 1) + back) * num_channels + channels
        before = tl.load(own, mask=valid, other=0.0).to(tl.float32)
        out += before * tl.load(taps_ptr + back * num_channels + channels, mask=valid, other=0.0).to(tl.float32)
        if back > 0:
            tl.store(own - num_channels, before, mask=valid)
    if TAPS > 1:
        tl.store(state_ptr + (sample * (TAPS - 1) + TAPS - 2) * num_channels + channels, newest, mask=valid)
    return out


@triton.jit
def _gelu(x):
    return 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))


@triton.jit
def gate(
    x_ptr,  # (batch, num_in)
    gain_ptr,  # (num_in) of the norm before
    weight_ptr,  # (2 · num_inner, num_in): values, then gates
    taps_ptr,  # (TAPS, 2 · num_inner)
    state_ptr,  # (batch, TAPS - 1, 2 · num_inner): the convolution's inputs before
    out_ptr,  # (batch, num_inner), rows `row` apart
    eps,
    num_in: tl.constexpr,
    num_inner: tl.constexpr,
    row: tl.constexpr,
    BATCH: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_IN: tl.constexpr,
):
    """norm → projection up → convolution → value · GELU(gate), for a few samples."""
    outs = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    ins = tl.arange(0, BLOCK_IN)
    valid, made = ins < num_in, outs < num_inner
    where = made[:, None] & valid[None, :]
    value_weight = tl.load(weight_ptr + outs[:, None] * num_in + ins[None, :], mask=where, other=0.0)
    gate_weight = tl.load(weight_ptr + (num_inner + outs)[:, None] * num_in + ins[None, :], mask=where, other=0.0)
    gain = tl.load(gain_ptr + ins, mask=valid, other=0.0).to(tl.float32)
    for sample in tl.static_range(BATCH):
        x = tl.load(x_ptr + sample * num_in + ins, mask=valid, other=0.0).to(tl.float32)
        x = _normed(x, gain, valid, num_in, eps)
        value = tl.sum(value_weight.to(tl.float32) * x[None, :], axis=1)
        gates = tl.sum(gate_weight.to(tl.float32) * x[None, :], axis=1)
        value = _convolved(value, state_ptr, taps_ptr, outs, sample, 2 * num_inner, made, TAPS)
        gates = _convolved(gates, state_ptr, taps_ptr, num_inner + outs, sample, 2 * num_inner, made, TAPS)
        tl.store(out_ptr + sample * row + outs, value * _gelu(gates), mask=made)


@triton.jit
def convolve_gate_norm(
    inner_ptr,  # (batch, 2 · num_inner): projected up
    taps_ptr,
    state_ptr,
    gain_ptr,  # (num_inner) of the norm after
    out_ptr,  # (batch, num_inner)
    eps,
    num_inner: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK: tl.constexpr,  # a power of two, at least num_inner
):
    """convolution → value · GELU(gate) → norm; a program a sample."""
    sample, channels = tl.program_id(0), tl.arange(0, BLOCK)
    valid = channels < num_inner
    own = inner_ptr + sample * 2 * num_inner + channels
    value = tl.load(own, mask=valid, other=0.0).to(tl.float32)
    gates = tl.load(own + num_inner, mask=valid, other=0.0).to(tl.float32)
    value = _convolved(value, state_ptr, taps_ptr, channels, sample, 2 * num_inner, valid, TAPS)
    gates = _convolved(gates, state_ptr, taps_ptr, num_inner + channels, sample, 2 * num_inner, valid, TAPS)
    gain = tl.load(gain_ptr + channels, mask=valid, other=0.0).to(tl.float32)
    inner = tl.where(valid, value * _gelu(gates), 0.0)
    tl.store(out_ptr + sample * num_inner + channels, _normed(inner, gain, valid, num_inner, eps), mask=valid)


@triton.jit
def sample_and_embed(
    logits_ptr,  # (batch, codebook_size + 1) float32
    noise_ptr,  # (batch, codebook_size + 1) float32, if NOISE
    ids_ptr,  # (batch) int64: the newest ids
    tokens_ptr,  # (batch, num_tokens) int64
    index_ptr,  # (1) int64 of the newest token; moved on by `advance`
    table_ptr,  # embeddings, (rows, size)
    positions_ptr,  # learned positions (tokens, size), if POSITIONS
    x_ptr,  # (batch, size): the next input
    num_tokens,
    temperature,
    top_k,
    codebook_size: tl.constexpr,
    num_codebooks: tl.constexpr,
    size: tl.constexpr,
    NOISE: tl.constexpr,
    TOP_K: tl.constexpr,
    POSITIONS: tl.constexpr,
    BLOCK: tl.constexpr,  # a power of two, at least codebook_size
    BLOCK_SIZE: tl.constexpr,  # a power of two, at least size
):
    """Temperature, the best top_k, Gumbel-max; the id is stored and embedded. A program a sample."""
    sample, entries = tl.program_id(0), tl.arange(0, BLOCK)
    valid = entries < codebook_size
    own = sample * (codebook_size + 1) + entries
    scores = tl.load(logits_ptr + own, mask=valid, other=-float("inf"))
    if NOISE:
        scores = scores / temperature
        if TOP_K:
            # the top_k-th best by bisection over the bits: floats in the order of unsigned integers
            bits = scores.to(tl.uint32, bitcast=True)
            order = tl.where(bits >= 0x80000000, bits ^ 0xFFFFFFFF, bits | 0x80000000)
            worst = tl.zeros((), tl.uint32)
            for place in tl.static_range(31, -1, -1):
                candidate = worst | (1 << place)
                enough = tl.sum(tl.where(valid & (order >= candidate), 1, 0), axis=0) >= top_k
                worst = tl.where(enough, candidate, worst)
            scores = tl.where(order >= worst, scores, -float("inf"))
        scores += tl.load(noise_ptr + own, mask=valid, other=0.0)
        scores = tl.where(valid, scores, -float("inf"))
    best = tl.max(scores, axis=0)
    chosen = tl.min(tl.where((scores == best) & valid, entries, BLOCK), axis=0).to(tl.int64)
    following = tl.load(index_ptr) + 1
    tl.store(ids_ptr + sample, chosen)
    tl.store(tokens_ptr + sample * num_tokens + following, chosen)
    dims = tl.arange(0, BLOCK_SIZE)
    row = chosen + following % num_codebooks * codebook_size
    x = tl.load(table_ptr + row * size + dims, mask=dims < size, other=0.0).to(tl.float32)
    if POSITIONS:
        x += tl.load(positions_ptr + following * size + dims, mask=dims < size, other=0.0).to(tl.float32)
    tl.store(x_ptr + sample * size + dims, x, mask=dims < size)


@triton.jit
def advance(index_ptr):
    """One token further, when every program of the step has read the old index."""
    tl.store(index_ptr, tl.load(index_ptr) + 1)
