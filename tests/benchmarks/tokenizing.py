"""Hours of audio made into tokens an hour, and the memory that takes; the original's preprocessing loop beside it.

python -m tests.benchmarks.tokenizing --original path/to/open-musiclm
python -m tests.benchmarks.tokenizing --model me/my-musiclm --music music/ --device cuda --batch-size 64
"""

from __future__ import annotations

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from open_musiclm import mini_checkpoint
from open_musiclm.audio import write_audio
from open_musiclm.cli.loading import quiet_libraries
from open_musiclm.data import MusicTokenizer, TokenizingPlan, find_audio, run_tokenizing

from . import original
from .machine import PeakMemory, describe, table


def write_noise(folder: Path, num_files: int, duration_in_s: float, rate: int = 44_100) -> None:
    """What is computed does not depend on what it sounds like."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(num_files):
        noise = 0.1 * random.standard_normal((2, round(duration_in_s * rate)))
        write_audio(folder / f"{index:04d}.wav", noise, rate)


def tokenize(music: Path, output: Path, args: argparse.Namespace) -> tuple[float, float, int]:
    """Hours of audio, seconds taken and peak bytes of the command's own loop."""
    quiet_libraries()
    tokenizer = MusicTokenizer.from_pretrained(args.model, device=args.device, batch_size=args.batch_size)
    plan = TokenizingPlan.make(find_audio(music), output, tokenizer.streams, tokenizer.describe())
    with PeakMemory(torch.device("cpu")) as memory:
        started = time.perf_counter()
        report = run_tokenizing(plan, tokenizer, decode_threads=args.decode_threads, progress=False)
        elapsed = time.perf_counter() - started
    assert report is not None
    return report["hours"], elapsed, memory.bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=mini_checkpoint(), help="a pipeline's folder (default: the one in the box)")
    parser.add_argument("--music", type=Path, help="a folder of audio (default: synthesized)")
    parser.add_argument("--files", type=int, nargs="+", default=[32, 128], help="numbers of synthesized files")
    parser.add_argument("--duration", type=float, default=30.0, help="of a synthesized file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--decode-threads", type=int, default=2)
    parser.add_argument("--original", metavar="PATH", help="a checkout of zhvng/open-musiclm")
    args = parser.parse_args()
    print(describe(torch.device(args.device)))
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folders = [args.music] if args.music else [Path(scratch) / f"{number} files" for number in args.files]
        for number, music in zip(args.files, folders, strict=False):
            if not args.music:
                write_noise(music, number, args.duration)
            with ProcessPoolExecutor(1, get_context("spawn")) as own:  # memory once taken is not given back
                hours, seconds, peak = own.submit(
                    tokenize, music, Path(scratch) / "tokens" / music.name, args
                ).result()
            theirs = ""
            if args.original:
                job = {"path": str(Path(args.original).resolve()), "pipeline": args.model, "music": str(music),
                       "device": args.device, "num_threads": torch.get_num_threads()}  # fmt: skip
                theirs = f"{3600 * hours / original.ask(job, 'original_tokenizing.py')['seconds']:.1f}"
            rows.append([music.name, f"{hours:.3f}", f"{seconds:.1f}", f"{3600 * hours / seconds:.1f}",
                         f"{peak / 1e6:.0f}", theirs])  # fmt: skip
    header = ["audio", "hours", "seconds", "hours an hour", "peak MB", "the original's loop"]
    print(f"\nTokenizing on {args.device}, batches of {args.batch_size}:")
    print(*table(header, rows), sep="\n")


if __name__ == "__main__":
    main()
