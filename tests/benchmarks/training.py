"""A training step: seconds, share of the machine's arithmetic, and the original's step.

python -m tests.benchmarks.training --size large --device cuda --autocast --compile --original path/to/open-musiclm
"""

from __future__ import annotations

import argparse
import time

import torch

from open_musiclm.training import StageAdamW

from . import original
from .machine import PeakMemory, describe, measure_floor, synchronize, table
from .models import STAGES, random_stage
from .original import stream_lengths


def operations(stage, rows: int, batch_size: int) -> float:
    """Multiplications and additions of a step that no implementation leaves out: forward and twice that backward.

    Products with the weights, and half of the attention's square (it is causal); the heads of the predicted stream.
    """
    config = stage.config
    weights = sum(p.numel() for name, p in stage.decoder.layers.named_parameters() if p.ndim == 2)
    attention = 2 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * rows / 2
    head = (stage.predicted_stream.codebook_size + 1) * config.hidden_size
    return 3 * 2 * batch_size * rows * (weights + attention + head)


def step_seconds(stage, ids: dict, labels: torch.Tensor, repeats: int, autocast: bool) -> list[float]:
    """Seconds of whole steps, sorted: forward, backward, clipping, AdamW as `train` has it."""
    device = stage.device
    optimizer = StageAdamW(stage.parameters(), lr=3e-4, fused=device.type == "cuda")
    taken = []
    for _ in range(repeats + 2):
        synchronize(device)
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            loss = stage(**ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(stage.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        synchronize(device)
        taken.append(time.perf_counter() - started)
    return sorted(taken[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["small", "large"], default="small")
    parser.add_argument("--stage", choices=list(STAGES), default="coarse")
    parser.add_argument("--batch", type=int, nargs="+", default=[2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--autocast", action="store_true", help="bfloat16 products (the floor is then bfloat16's)")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--original", metavar="PATH", help="a checkout of zhvng/open-musiclm")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    print(describe(device))
    floor = measure_floor(device, torch.bfloat16 if args.autocast else torch.float32)
    print(floor, flush=True)

    config_class = STAGES[args.stage][0]
    stream = config_class().predicted_stream
    window = int(config_class().window_in_s * stream.frame_rate) - stream.num_edge_frames
    lengths = stream_lengths(args.stage, window * stream.num_codebooks)
    rows = []
    for batch_size in args.batch:
        stage = random_stage(args.stage, args.size, torch.float32, device)
        stage.set_attn_implementation(args.attention)
        stage.train()
        generator = torch.Generator().manual_seed(0)
        ids = {
            each.argument: torch.randint(each.codebook_size, (batch_size, length), generator=generator).to(device)
            for each, length in zip(stage.streams, [*(n - 1 for n in lengths[:-1]), lengths[-1]], strict=True)
        }
        num_rows = sum(lengths) + len(lengths)
        compiled = torch.compile(stage) if args.compile else stage
        with PeakMemory(device) as memory:
            taken = step_seconds(compiled, ids, ids[stream.argument], args.repeats, args.autocast)
        least = operations(stage, num_rows, batch_size) / floor.operations_a_second
        theirs = ""
        if args.original:
            request = original.job(
                args.stage, args.size, args.original, "train", device, repeats=args.repeats,
                batch_size=batch_size, autocast=args.autocast, lengths=[[*(n - 1 for n in lengths[:-1]), lengths[-1]]],
            )  # fmt: skip
            seconds = original.ask(request)
            middle = seconds[len(seconds) // 2]
            theirs = f"{middle:.3f} s: {middle / taken[len(taken) // 2]:.2f} ×"
        seconds = taken[len(taken) // 2]
        rows.append([args.stage, str(batch_size), str(num_rows), f"{seconds:.3f}", f"{taken[0]:.3f}",
                     f"{batch_size * num_rows / seconds:.0f}", f"{least / seconds:.0%}",
                     f"{memory.bytes / 1e9:.2f}", theirs])  # fmt: skip
    kind = ("bfloat16 autocast" if args.autocast else "float32") + (", compiled" if args.compile else "")
    print(f"\nTraining step, {args.size}, {kind}, {args.attention}:")
    header = ["stage", "batch", "rows", "median s", "best s", "tokens/s", "share of the peak", "peak GB", "original"]
    print(*table(header, rows), sep="\n")


if __name__ == "__main__":
    main()
