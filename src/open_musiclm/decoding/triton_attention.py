"""Triton kernels of a step beside its products: attention over the window so far, and the choice of the next token.

What is common to all kernels of a step, and why none of them stores where the launch reads, stands in
`triton_products`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_products import dot, let_next_kernel_start, wait_for_kernels_before

#: stands for minus infinity: differences of two of these are numbers
MINUS_INFINITY = tl.constexpr(-1.0e30)


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
    PDL: tl.constexpr,
    PARTS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,  # a power of two, at least 16 and heads
    BLOCK_ROWS: tl.constexpr,
    TURNS: tl.constexpr,  # blocks of rows for each part
):
    """A share of the keys for all heads of one sample; the share that holds the newest row also stores it."""
    let_next_kernel_start(PDL)
    wait_for_kernels_before(PDL)
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
    own = keys_ptr + sample * num_rows * HEAD_DIM, values_ptr + sample * num_rows * HEAD_DIM
    highest = tl.full((BLOCK_HEADS,), MINUS_INFINITY, tl.float32)
    total = tl.zeros((BLOCK_HEADS,), tl.float32)
    weighted = tl.zeros((BLOCK_HEADS, HEAD_DIM), tl.float32)
    for turn in range(TURNS):  # block by block with the other parts: all have work from the window's beginning on
        rows = (turn * PARTS + part) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        seen = rows <= row
        known = (rows < row)[:, None]
        is_newest = (rows == row)[:, None]
        keys = tl.load(own[0] + rows[:, None] * HEAD_DIM + dim[None, :], mask=known, other=0.0)
        keys = tl.where(is_newest, new_key[None, :].to(kind), keys)
        values = tl.load(own[1] + rows[:, None] * HEAD_DIM + dim[None, :], mask=known, other=0.0)
        values = tl.where(is_newest, new_value[None, :].to(kind), values)
        scores = dot(query, tl.trans(keys), tl.zeros((BLOCK_HEADS, BLOCK_ROWS), tl.float32))
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
        weighted = dot(weights.to(kind), values, weighted * fade[:, None])
        highest = higher

    # Safe: every program has a part of its own, and nobody reads the parts in this launch.
    place = (sample * PARTS + part) * heads + head
    tl.store(part_ptr + place[:, None] * HEAD_DIM + dim[None, :], weighted, mask=(head < heads)[:, None])
    tl.store(stats_ptr + place * 2, highest, mask=head < heads)
    tl.store(stats_ptr + place * 2 + 1, total, mask=head < heads)
    # Safe: the newest row is masked out of every load (`known`), here and in the other programs; its key and value come
    # from the projection, which this launch only reads.
    if row // BLOCK_ROWS % PARTS == part:
        tl.store(own[0] + row * HEAD_DIM + dim, new_key.to(kind))
        tl.store(own[1] + row * HEAD_DIM + dim, new_value.to(kind))


@triton.jit
def _joined(
    part_ptr,
    stats_ptr,
    sample,
    head,  # (BLOCK_HEADS)
    heads: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
):
    """The attention's output of some heads of one sample from its parts: (BLOCK_HEADS · HEAD_DIM), 0 behind the heads."""
    dim, valid = tl.arange(0, HEAD_DIM), head < heads
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
    PDL: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
):
    """The attention's output (samples, heads · HEAD_DIM) from its parts; a program BLOCK_HEADS heads of a sample."""
    let_next_kernel_start(PDL)
    wait_for_kernels_before(PDL)
    sample, first = tl.program_id(0), tl.program_id(1) * BLOCK_HEADS
    output = _joined(
        part_ptr, stats_ptr, sample, first + tl.arange(0, BLOCK_HEADS), heads, HEAD_DIM, PARTS, BLOCK_HEADS
    )
    outs = first * HEAD_DIM + tl.arange(0, BLOCK_HEADS * HEAD_DIM)
    # Safe: the parts are all that this launch reads, and every program has outputs of its own.
    tl.store(out_ptr + sample * heads * HEAD_DIM + outs, output, mask=outs < heads * HEAD_DIM)


@triton.jit
def join_project(
    part_ptr,
    stats_ptr,
    weight_ptr,  # (num_out, heads · HEAD_DIM)
    scale_ptr,  # (num_out) float32, if SCALED
    residual_ptr,  # (num_out); never the output
    out_ptr,  # (num_out)
    heads: tl.constexpr,
    num_out: tl.constexpr,
    SCALED: tl.constexpr,
    PDL: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,  # a power of two, at least heads
):
    """`join` and the output projection with its residual, for one sample."""
    let_next_kernel_start(PDL)
    outs = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    ins = tl.arange(0, BLOCK_HEADS * HEAD_DIM)
    num_in: tl.constexpr = heads * HEAD_DIM
    made = outs < num_out
    held = made[:, None] & (ins < num_in)[None, :]
    weight = tl.load(weight_ptr + outs[:, None] * num_in + ins[None, :], mask=held, other=0.0)
    wait_for_kernels_before(PDL)
    x = _joined(part_ptr, stats_ptr, 0, tl.arange(0, BLOCK_HEADS), heads, HEAD_DIM, PARTS, BLOCK_HEADS)
    out = tl.sum(weight.to(tl.float32) * x[None, :], axis=1)
    if SCALED:
        out *= tl.load(scale_ptr + outs, mask=made, other=0.0)
    out += tl.load(residual_ptr + outs, mask=made, other=0.0).to(tl.float32)
    # Safe: the output is not the residual, and every program has outputs of its own.
    tl.store(out_ptr + outs, out, mask=made)


@triton.jit
def sample_and_embed(
    logits_ptr,  # (batch, codebook_size + 1) float32
    noise_ptr,  # (batch, codebook_size + 1) float32, if NOISE
    ids_ptr,  # (batch) int64: the newest ids
    tokens_ptr,  # (batch, num_tokens) int64
    index_ptr,  # (1) int64 of the newest token; moved on after this launch
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
    PDL: tl.constexpr,
    BLOCK: tl.constexpr,  # a power of two, at least codebook_size
    BLOCK_SIZE: tl.constexpr,  # a power of two, at least size
):
    """Temperature, the best top_k, Gumbel-max; the id is stored and embedded. A program a sample."""
    let_next_kernel_start(PDL)
    wait_for_kernels_before(PDL)
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
    # Safe, as the stores below: logits, noise, tables and the index are all that this launch reads; a program a sample.
    tl.store(ids_ptr + sample, chosen)
    tl.store(tokens_ptr + sample * num_tokens + following, chosen)
    dims = tl.arange(0, BLOCK_SIZE)
    row = chosen + following % num_codebooks * codebook_size
    x = tl.load(table_ptr + row * size + dims, mask=dims < size, other=0.0).to(tl.float32)
    if POSITIONS:
        x += tl.load(positions_ptr + following * size + dims, mask=dims < size, other=0.0).to(tl.float32)
    tl.store(x_ptr + sample * size + dims, x, mask=dims < size)
