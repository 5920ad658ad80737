"""The command `open-musiclm`. Each subcommand is a module with `add_parser(subparsers)` and `run(args)`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from ..version import __version__

COMMANDS = ("generate", "tokenize", "fit-codebooks", "train", "evaluate")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="open-musiclm",
        description="Generate, fine-tune and measure text-to-music models.",
        epilog="`open-musiclm COMMAND --help` teaches each command.",
    )
    parser.add_argument("--version", action="version", version=f"open-musiclm {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        importlib.import_module(f".{command.replace('-', '_')}", __name__).add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; an error that the user can mend is one line on stderr and exit code 1 (2 for wrong usage)."""
    args = build_parser().parse_args(argv)
    # PyTorch reads it when it is first loaded: weights in large pages (Linux) are read faster
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        return args.run(args) or 0
    except (ValueError, OSError, ImportError) as error:
        if args.debug:
            raise
        print(f"open-musiclm {args.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("open-musiclm: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
