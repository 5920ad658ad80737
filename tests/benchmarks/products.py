"""One layer's products at a few rows: plain, laid out by oneDNN, compiled, and with int8 weights. Which way should
decoding go, and how near does it come to what the memory gives?

python -m tests.benchmarks.products --size small
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from open_musiclm.decoding.packed_weights import PackedLinear

from .machine import ReadSpeed, describe, table
from .models import STAGES

#: so many layers' weights take turns, so that none is still in a cache
LAYERS = 24


def shapes(size: str) -> list[tuple[int, int]]:
    """(out, in) of a layer's four products; the inner size rounded up to what int8 kernels read whole."""
    config = STAGES["coarse"][0].from_preset(size)
    width = config.num_attention_heads * config.head_dim
    inner = -(-config.intermediate_size // 32) * 32
    hidden = config.hidden_size
    return [(width + 2 * config.head_dim, hidden), (hidden, width), (2 * inner, hidden), (hidden, inner)]


def plain(shape: tuple[int, int], dtype: torch.dtype) -> Callable:
    weight = torch.randn(shape).to(dtype)
    return lambda x: F.linear(x, weight)


def laid_out(shape: tuple[int, int], dtype: torch.dtype) -> Callable:
    return PackedLinear(torch.randn(shape).to(dtype))


@functools.cache
def _compiled_product() -> Callable:
    """One row: every weight once, multiplied and summed in one loop, with the compiler's best vector code."""
    return torch.compile(lambda x, weight: (weight.float() * x.float()).sum(-1), dynamic=False)


def compiled(shape: tuple[int, int], dtype: torch.dtype) -> Callable:
    weight = torch.randn(shape).to(dtype)
    return lambda x: _compiled_product()(x, weight)


def int8(shape: tuple[int, int], dtype: torch.dtype) -> Callable:
    weight = torch.randint(-127, 128, shape, dtype=torch.int8)
    scales = torch.rand(shape[0]).to(dtype)
    return lambda x: torch.ops.aten._weight_int8pack_mm(x, weight, scales)


def layer_seconds(make: Callable, dtype: torch.dtype, size: str, rows: int, repeats: int) -> float:
    """The fastest time of each of the four products, summed."""
    total = 0.0
    for shape in shapes(size):
        products = [make(shape, dtype) for _ in range(LAYERS)]
        x = torch.randn(rows, shape[1]).to(dtype)
        taken = []
        for repeat in range(repeats * LAYERS):
            started = time.perf_counter()
            products[repeat % LAYERS](x)
            taken.append(time.perf_counter() - started)
        total += sorted(taken[LAYERS:])[len(taken) // 4]
    return total


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["small", "large"], default="small")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 5, 16])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=6)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    print(describe(torch.device("cpu")))
    ways = [
        ("float32, plain", plain, torch.float32, 4),
        ("float32, laid out", laid_out, torch.float32, 4),
        ("float32, compiled", compiled, torch.float32, 4),
        ("bfloat16, plain", plain, torch.bfloat16, 2),
        ("bfloat16, laid out", laid_out, torch.bfloat16, 2),
        ("bfloat16, compiled", compiled, torch.bfloat16, 2),
        ("int8 weights, bfloat16 rows", int8, torch.bfloat16, 1),
    ]
    weights = sum(rows * columns for rows, columns in shapes(args.size))
    lines = []
    read_speed = ReadSpeed(torch.device("cpu"), torch.float32)
    for name, make, dtype, width in ways:
        for rows in args.rows:
            if make is compiled and rows > 1:
                continue
            before = read_speed.measure()
            seconds = layer_seconds(make, dtype, args.size, rows, args.repeats)
            speed = max(before, read_speed.measure())
            reached = weights * width / seconds
            lines.append([name, str(rows), f"{seconds * 1e6:.0f}", f"{reached / 1e9:.1f}", f"{speed / 1e9:.1f}",
                          f"{reached / speed:.0%}"])  # fmt: skip
    print(*table(["weights", "rows", "µs a layer", "GB/s", "memory GB/s then", "share"], lines), sep="\n")


if __name__ == "__main__":
    main()
