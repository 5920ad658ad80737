"""One short run on a GPU: is decoding right there, how fast is it, and training, and MusicGen beside.

python -m tests.benchmarks.gpu --minutes 6 --json gpu.json

Correctness comes first. Every part is a process of its own with a share of the time; what a part has measured when its
time is over is kept, and what it has not is listed. It needs torch, triton, transformers and this repository.
`--tiny --device cpu` rehearses it anywhere, with small stages, in Triton's interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

#: each part's share of the time that is left when it begins, against those after it
PARTS = {
    "correctness": 3,
    "steps": 3,
    "prefill": 1,
    "kernels": 1,
    "blocks": 2,
    "pieces": 3,
    "training": 4,
    "musicgen": 2,
}
#: processes that check at the same time: most of a check is the compiling of its kernels
CHECKS_TOGETHER = 7
#: what was measured before (large size, bfloat16): on an H200 on 2026-11-27, where no other GPU is named
BEFORE = {
    "step, batch 1, chosen": "0.58 ms",
    "step, batch 4, chosen": "1.38 ms",
    "step, batch 8, chosen": "1.39 ms",
    "step, batch 1, torch": "2.38 ms",
    "step, batch 4, torch": "2.78 ms",
    "step, batch 8, torch": "2.82 ms",
    "step, batch 64, torch": "3.27 ms (H100)",
    "step, batch 1, int8": "0.59 ms",
    "step, batch 4, int8": "1.75 ms",
    "step, batch 8, int8": "1.81 ms",
    "prefill, batch 1, as it is": "23.9 ms",
    "prefill, batch 1, recorded": "7.0 ms",
    "prefill, batch 8, as it is": "33.3 ms",
    "prefill, batch 8, recorded": "30.0 ms",
    "prefill, batch 16, as it is": "58.1 ms",
    "prefill, batch 16, recorded": "55.8 ms",
    "piece of 10 s, batch 1": "2.93 s: 3.4 audio s/s",
    "first audio, batch 1": "0.70 s",
    "first audio, batch 1, a short first window": "0.36 s",
    "training step, masks": "0.344 s, 28.8 GB, 6 % of the peak",
    "training step, flex": "0.279 s, 20.2 GB, 7 % of the peak",
    "training step, flex, bf16 weights": "0.260 s, 16.9 GB, 8 % of the peak",
    "training step, flex, layers compiled": "0.167 s, 14.8 GB, 12 % of the peak",
    "training step, flex, bf16 weights, layers compiled": "0.167 s, 13.9 GB, 12 % of the peak",
    "MusicGen small, batch 1": "0.31 audio s/s (H100)",
    "MusicGen small, batch 64": "20.3 audio s/s (H100)",
    "MusicGen medium, batch 1": "0.25 audio s/s (H100)",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--runs", type=int, default=200, help="repetitions of the race test")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small stages and few repetitions: a rehearsal")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # a process for one part, its rows to --json
    parser.add_argument("--share", type=int, nargs=2, default=[0, 1], help=argparse.SUPPRESS)
    return parser.parse_args()


# ------------------------------------------------------------------------------------------------------ processes


def run_part(args: argparse.Namespace) -> None:
    """In a process of its own: a line of JSON for each row, as soon as there is one."""
    from . import gpu_parts

    part: Callable[[gpu_parts.Setting], Iterator[dict]] = getattr(gpu_parts, args.part)
    setting = gpu_parts.Setting(args)
    with open(args.json, "a") as file:
        context = setting.torch.enable_grad() if args.part == "training" else setting.torch.no_grad()
        with context:
            for row in part(setting):
                print(json.dumps(row), file=file, flush=True)


def start_parts(name: str, args: argparse.Namespace, folder: str) -> list[tuple[subprocess.Popen, Path]]:
    """The processes of a part and where they write."""
    count = CHECKS_TOGETHER if name == "correctness" and args.device == "cuda" else 1
    started = []
    for index in range(count):
        rows = Path(folder) / f"{name}-{index}.jsonl"
        rows.touch()
        command = [sys.executable, "-m", "tests.benchmarks.gpu", "--part", name, "--share", str(index), str(count),
                   "--device", args.device, "--runs", str(args.runs), "--json", str(rows)]  # fmt: skip
        command += ["--tiny"] if args.tiny else []
        log = open(rows.with_suffix(".log"), "w")  # noqa: SIM115  (the process writes to it)
        started.append((subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT), rows))
    return started


def measure(args: argparse.Namespace) -> dict:
    """All parts, one after another, within the time; what there is, is printed and written after each."""
    ends = time.monotonic() + args.minutes * 60
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for place, name in enumerate(args.parts):
            left = ends - time.monotonic()
            limit = left * PARTS[name] / sum(PARTS[each] for each in args.parts[place:])
            started = time.monotonic()
            processes = start_parts(name, args, folder)
            ended, rows, trouble = [], [], []
            for process, path in processes:
                try:
                    ended.append(process.wait(max(started + limit - time.monotonic(), 0.1)))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    trouble.append(f"stopped after {limit:.0f} s")
                rows += [json.loads(line) for line in path.read_text().splitlines()]
                if ended and ended[-1]:
                    trouble += path.with_suffix(".log").read_text().strip().splitlines()[-1:]
            results[name] = {
                "seconds": time.monotonic() - started,
                "finished": not trouble and not any(ended),
                "trouble": trouble,
                "rows": rows,
            }
            print(f"{name}: {len(rows)} rows in {results[name]['seconds']:.0f} s", flush=True)
            for row in rows:  # a run that is cut off has said what it knows
                print(f"  {row['what']}: {row['measured']}", flush=True)
            write(args, results)
    return results


def write(args: argparse.Namespace, results: dict, machine: str | None = None) -> None:
    """All figures so far to `--json`, aside and renamed."""
    if args.json is not None:
        aside = args.json.with_name(f"{args.json.name}.part")
        aside.write_text(json.dumps({"machine": machine, "parts": results}, indent=1, ensure_ascii=False))
        aside.replace(args.json)


def main() -> None:
    args = arguments()
    if args.device == "cpu":  # before anything imports triton
        os.environ["TRITON_INTERPRET"] = "1"
    if args.part is not None:
        run_part(args)
        return
    results = measure(args)
    import torch

    from .machine import describe, table

    machine = describe(torch.device(args.device))
    write(args, results, machine)
    print(f"\n{machine}\n")
    rows = [
        [name, row["what"], row["measured"], BEFORE.get(row["what"], "")]
        for name, part in results.items()
        for row in part["rows"]
    ]
    print(*table(["part", "what", "measured", "before"], rows), sep="\n")
    unfinished = {name: part["trouble"] for name, part in results.items() if not part["finished"]}
    print("\n" + (f"Not finished: {unfinished}" if unfinished else "All parts finished."))
    wrong = [row["what"] for row in results.get("correctness", {"rows": []})["rows"] if not row["right"]]
    sys.exit(f"WRONG on this device: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
