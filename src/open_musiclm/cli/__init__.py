"""The command `open-musiclm`. Each subcommand is a module with `add_parser(subparsers)` and `run(args)`."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence

from ..extras import missing_extra
from ..version import __version__

COMMANDS = ("generate", "edit", "tokenize", "fit-codebooks", "train", "evaluate", "convert", "app", "serve")


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
    try:
        args = build_parser().parse_args(argv)
    except KeyboardInterrupt:
        print("open-musiclm: interrupted", file=sys.stderr)
        return 130
    # PyTorch reads it when it is first loaded: weights in large pages (Linux) are read faster
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    return one_line(lambda: args.run(args) or 0, f"open-musiclm {args.command}", args.debug)


def one_line(command: Callable[[], int], name: str, debug: bool = False) -> int:
    """The exit code of a command; what ends it is said in one line on stderr, or with `debug` raised. So are warnings.

    What is printed never fails for the encoding of the terminal: a character that it lacks is written by its number.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    as_before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"{name}: {printable(' '.join(str(message).split()))}\n"
    try:
        return command()
    except (ValueError, OSError, ImportError, MemoryError) as error:
        if debug:
            raise
        said = (missing_extra(error) if isinstance(error, ModuleNotFoundError) else None) or str(error)
        said = " ".join(said.split()) or "not enough memory"
        print(f"{name}: {printable(said)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = as_before


def printable(text: str) -> str:
    """Text with its control characters and lone surrogates escaped, so that no file name or file moves the cursor."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


if __name__ == "__main__":
    sys.exit(main())
