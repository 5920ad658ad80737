"""The model in the box: the whole command, from the shell to the file.

python -m tests.benchmarks.whole_command --duration 10
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from .machine import describe, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duration", type=float, nargs="+", default=[10.0])
    parser.add_argument("--model", help="another pipeline than the one in the box")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(describe(torch.device("cpu")))

    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    importing = [sys.executable, "-c", "import torch, transformers, diffusers, open_musiclm.pipelines.musiclm"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for duration in args.duration:
            output = Path(folder) / "song.wav"
            command = [sys.executable, "-m", "open_musiclm", "generate", "a calm piano melody in a minor key"]
            command += ["--duration", str(duration), "--output", str(output), "--seed", "0", "--overwrite"]
            command += ["--device", "cpu", "--dtype", args.dtype]
            command += ["--model", args.model] if args.model else []
            taken, imports = [], []
            for _ in range(args.repeats):
                started = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True, env=environment)
                taken.append(time.perf_counter() - started)
                started = time.perf_counter()
                subprocess.run(importing, check=True, capture_output=True, env=environment)
                imports.append(time.perf_counter() - started)
            taken.sort()
            middle = taken[len(taken) // 2]
            rows.append([f"{duration:g}", f"{middle:.1f}", f"{taken[0]:.1f}", f"{duration / middle:.2f}",
                         f"{min(imports):.1f}"])  # fmt: skip
    header = ["audio s", "command s (median)", "best", "times real time", "of which importing torch and libraries"]
    print(*table(header, rows), sep="\n")


if __name__ == "__main__":
    main()
