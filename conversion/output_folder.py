"""An output folder appears whole or not at all, and a command's failure is one line."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from checkpoint_error import CheckpointError


@contextmanager
def whole_folder(folder: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder to write into, beside `folder`; it takes that name when the block ends, and is gone if it fails.

    Raises:
        CheckpointError: `folder` is there already, is not empty, and `overwrite` is not set.
    """
    folder = Path(folder).absolute()
    check_free(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    partial.mkdir()
    try:
        yield partial
        if folder.is_dir() and any(folder.iterdir()):
            aside = partial.with_suffix(".replaced")
            os.replace(folder, aside)
            os.replace(partial, folder)
            shutil.rmtree(aside)
        else:
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(folder: str | Path, overwrite: bool = False) -> None:
    """Refuses an output folder that holds something, before any work is done."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder}: is a file; --output-dir names a folder")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise CheckpointError(f"{folder}: is not empty; choose another --output-dir, or pass --overwrite")


def run_command(command: Callable[[], None]) -> None:
    """Runs a script's command; an input that can't be converted ends it with one line and exit code 1."""
    try:
        command()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; nothing was written")
