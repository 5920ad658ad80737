"""Long pieces: time in proportion, memory flat.

python -m tests.benchmarks.memory --lengths 60 600
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import torch

from .machine import PeakMemory, describe, synchronize, table

#: a stage of this size makes ten minutes of audio in minutes on two cores; what memory grows with does not depend on it
SIZES = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3}


def measure(length: float, device: torch.device) -> tuple[float, int, int]:
    """Seconds, peak bytes, and bytes before, of a piece in this process."""
    from .models import STAGES, pipeline

    torch.manual_seed(0)
    stages = {
        name: model_class(config_class(**SIZES)).eval().to(device)
        for name, (config_class, model_class) in STAGES.items()
    }
    pipe = pipeline("small", torch.float32, device, stages)
    generators = [torch.Generator().manual_seed(0)]
    with PeakMemory(device) as before, torch.no_grad():
        clap = pipe.encode_prompt(["x"])
    with PeakMemory(device) as peak, torch.no_grad():
        started = time.perf_counter()
        semantic = pipe.generate_semantic_tokens(clap, length, generators)
        coarse = pipe.generate_coarse_tokens(clap, semantic, length, generators)
        fine = pipe.generate_fine_tokens(clap, coarse, length, generators)
        pipe.decode_tokens(coarse, fine, length)
        synchronize(device)
        seconds = time.perf_counter() - started
    return seconds, peak.bytes, before.bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=float, nargs="+", default=[60, 600])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)  # measure one length and print JSON
    args = parser.parse_args()
    device = torch.device(args.device)
    if args.one is not None:
        print(json.dumps(measure(args.one, device)))
        return
    print(describe(device))
    rows = []
    for length in args.lengths:  # a process each: memory once taken is not given back
        command = [sys.executable, "-m", "tests.benchmarks.memory", "--one", str(length), "--device", args.device]
        outcome = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds, peak, before = json.loads(outcome.stdout.splitlines()[-1])
        rows.append([f"{length:g}", f"{seconds:.1f}", f"{seconds / length:.3f}", f"{peak / 1e6:.0f}",
                     f"{(peak - before) / 1e6:.0f}", f"{length * 24_000 * 4 / 1e6:.0f}"])  # fmt: skip
    header = ["audio s", "seconds", "seconds a second", "peak MB", "above the models", "of it the waveform itself"]
    print(*table(header, rows), sep="\n")


if __name__ == "__main__":
    main()
