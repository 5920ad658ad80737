"""Prints the table: `python -m tests.features`."""

import argparse
import importlib
import pkgutil
import sys
import time

import tests.features as features
from open_musiclm import MusicLMPipeline, mini_checkpoint

NOT_FEATURES = ("rows", "hearing", "__main__")


def main() -> int:
    names = [m.name for m in pkgutil.iter_modules(features.__path__) if m.name not in NOT_FEATURES]
    parser = argparse.ArgumentParser(prog="python -m tests.features", description=features.__doc__)
    parser.add_argument("features", nargs="*", metavar="FEATURE", help=f"some of {', '.join(names)} (default: all)")
    parser.add_argument("--model", help="a pipeline (default: the model in the box)")
    args = parser.parse_args()
    unknown = set(args.features) - set(names)
    if unknown:
        parser.error(f"no feature {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    pipe = MusicLMPipeline.from_pretrained(args.model or mini_checkpoint())
    pipe.set_progress_bar_config(disable=True)
    print(
        "| feature | what is measured | with | without or chance | real clips | holds |\n|---|---|---|---|---|---|",
        flush=True,
    )
    failed = 0
    for name in args.features or names:
        started = time.perf_counter()
        for row in importlib.import_module(f"tests.features.{name}").run(pipe):
            failed += not row.holds
            real = "" if row.real is None else f"{row.real:.2f} {row.unit}"
            print(
                f"| {row.feature} | {row.what} | {row.value:.2f} {row.unit} | {row.without:.2f} {row.unit} | {real} | "
                f"{'yes' if row.holds else 'no'} |",
                flush=True,
            )
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
