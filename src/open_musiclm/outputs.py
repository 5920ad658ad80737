"""Folders that commands write to: one writer at a time, and what is said when there is no place left."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from .version import __version__

#: of the system: no space, quota, largest file, read-only, device
NO_PLACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)

#: how often a folder is made anew that goes away before anything is in it
MOST_TRIES = 100


@contextmanager
def sole_writer(output: str | os.PathLike, part: str = "") -> Iterator[None]:
    """Hold a folder, which is made if need be, for this process; the system lets go of it if the process is killed.

    Args:
        part: where several processes may share the folder, the part of the work that is this one's.

    Raises:
        ValueError: another process holds it.
    """
    output = Path(output)
    is_new = not output.exists()
    path = output / f".lock{part}.part"  # as what is left of a file: one that a killed process left is no hindrance
    file = _hold(path, output)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # before it is let go of: who waits for it then finds another file, see `_hold`
        file.close()
        if is_new:
            with suppress(OSError):
                output.rmdir()  # if nothing came of it


def _hold(path: Path, output: Path) -> IO[str]:
    while True:
        file = _open_in(output, path)
        if not _lock(file):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise ValueError(
                f"Another command is writing to {str(output)!r} (process {holder}). Wait for it, or give another output."
            )
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                file.write(f"{os.getpid()}\n")
                file.flush()
                return file
        file.close()  # its holder has removed it in the meantime


def _open_in(output: Path, path: Path) -> IO[str]:
    """The file, in a folder that whoever held it before may be removing just now."""
    for _ in range(MOST_TRIES):
        with suppress(FileNotFoundError, FileExistsError):
            output.mkdir(parents=True, exist_ok=True)
            return path.open("a+", encoding="ascii")
    output.mkdir(parents=True, exist_ok=True)
    return path.open("a+", encoding="ascii")


def _lock(file: IO[str]) -> bool:
    """Whether the file is this process's now; also where a file system knows no locks."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
    return True


@contextmanager
def place_to_write(output: str | os.PathLike, remedy: str) -> Iterator[None]:
    """What libraries raise when there is no place left to write to, each in its own way, as one `OSError`.

    Args:
        remedy: what to do, after free space has been made.
    """
    try:
        yield
    except Exception as error:
        reason = no_place(error)
        if reason is None:
            raise
        raise OSError(f"Cannot write to {str(output)!r}: {reason}. Make room there; {remedy}.") from error


def no_place(error: BaseException) -> str | None:
    """Why nothing could be written, if that is what an error says; `None` if it is another one."""
    while True:
        if isinstance(error, OSError) and error.errno in NO_PLACE:
            return os.strerror(error.errno)
        rust = re.search(r"\(os error (\d+)\)", str(error))  # safetensors, tokenizers
        if rust and int(rust[1]) in NO_PLACE:
            return os.strerror(int(rust[1]))
        if isinstance(error, RuntimeError) and re.search("PytorchStreamWriter|inline_container", str(error)):
            return "a file could not be written to its end"
        cause = error.__cause__ or error.__context__
        if cause is None:
            return None
        error = cause


def try_folder(folder: Path) -> None:
    """Make a folder if it is missing, and write to it, before the work whose result is to go there.

    Raises:
        OSError: it cannot be made, or nothing can be written to it.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as error:
        for each in made:
            with suppress(OSError):
                each.rmdir()
        raise OSError(f"Nothing can be written to {str(folder)!r}: {error.strerror or error}.") from error


def check_room(folder: Path, num_bytes: int) -> None:
    """Refuse to begin where the result has no room.

    Raises:
        OSError: the disk has less left.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise OSError(
            f"The result takes about {num_bytes / 1e6:.1f} MB, and {str(folder)!r} has {free / 1e6:.1f} MB left."
        )


def free_name(path: Path) -> Path:
    """A path that nothing has: `song.wav`, or `song-2.wav`, …."""
    return next(
        each
        for number in itertools.count(1)
        if not (each := path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")).exists()
    )


def made_with() -> dict[str, Any]:
    """What a file's metadata says of the software that made it."""
    import diffusers
    import torch
    import transformers

    versions = {module.__name__: module.__version__ for module in (torch, transformers, diffusers)}
    return {"software": f"open-musiclm {__version__}", "versions": versions}
