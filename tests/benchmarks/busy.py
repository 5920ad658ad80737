"""Decoding beside other processes on the same cores: with one thread, with one a core, and with the number chosen.

python -m tests.benchmarks.busy --duration 4 --busy 0 1 2
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: a process that computes as long as its standard input is open
BUSY = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
while True:
    sum(range(100_000))
"""


@contextmanager
def busy(num_processes: int) -> Iterator[None]:
    """So many processes that take a core each."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE) for _ in range(num_processes)]
    try:
        time.sleep(0.5 if others else 0)
        yield
    finally:
        for each in others:
            each.kill()
            each.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duration", type=float, default=4.0, help="seconds of semantic tokens")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="other processes, one row each")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="the most to choose from")
    args = parser.parse_args()
    # as a command starts without settings of its own: waiting threads spin
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        os.environ.pop(name, None)
    if os.environ.get("OPEN_MUSICLM_BUSY") != "1":  # OpenMP reads its settings when the process starts
        os.environ["OPEN_MUSICLM_BUSY"] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "tests.benchmarks.busy", *sys.argv[1:]])

    import torch

    from open_musiclm import MusicLMPipeline, mini_checkpoint
    from open_musiclm.decoding.threads import set_num_threads

    from .machine import describe, table

    torch.set_num_threads(args.threads)
    print(describe(torch.device("cpu")))
    pipe = MusicLMPipeline.from_pretrained(mini_checkpoint())
    pipe.set_progress_bar_config(disable=True)
    clap_token_ids = pipe.encode_prompt("a calm piano melody")

    def seconds(num_threads: int) -> float:
        torch.set_num_threads(num_threads)
        started = time.perf_counter()
        pipe.generate_semantic_tokens(clap_token_ids, args.duration, torch.Generator().manual_seed(0))
        return time.perf_counter() - started

    seconds(1)  # packs the weights
    rows = []
    for number in args.busy:
        with busy(number):
            one, most = seconds(1), seconds(args.threads)
            torch.set_num_threads(args.threads)
            started = time.perf_counter()
            chosen = set_num_threads([pipe.semantic_model])
            choosing = time.perf_counter() - started
            with_chosen = seconds(chosen)
        rows.append([str(number), f"{one:.2f}", f"{most:.2f}", str(chosen), f"{with_chosen:.2f}", f"{choosing:.2f}"])
    header = ["other processes", "1 thread, s", f"{args.threads} threads, s", "chosen", "with it, s", "choosing, s"]
    print(*table(header, rows), sep="\n")


if __name__ == "__main__":
    main()
