"""An output folder appears whole or not at all, and nothing is removed that no conversion wrote.

my-musiclm/.open_musiclm_conversion.json   the marker: what the conversion wrote, so what `--overwrite` may remove
.my-musiclm.3f09c2d1.partial/              being written; locked while its process lives
my-musiclm.3f09c2d1.replaced/              the model before, from the moment the new one is whole until it stands
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .checkpoint_error import CheckpointError

try:
    import fcntl
except ImportError:  # Windows has none: a folder of a killed conversion is then left to the user
    fcntl = None  # type: ignore[assignment]

CONVERSION_MARKER = ".open_musiclm_conversion.json"
_TAG = r"[0-9a-f]{8}"
# What systems put into any folder that is looked at.
_NOBODYS = {".DS_Store", "Thumbs.db", "desktop.ini"}


@contextmanager
def whole_folder(
    folder: str | Path,
    overwrite: bool = False,
    inputs: Iterable[str | Path | None] = (),
    say: Callable[[str], None] = print,
) -> Iterator[Path]:
    """A folder to write into, beside `folder`; it takes that name when the block ends, and is gone if it fails.

    What killed conversions to the same place left is cleared, and a model that one was about to replace is put back.

    Args:
        inputs: What is read: files, folders or Hub ids.
        say: Prints a line.

    Raises:
        CheckpointError: `folder` holds something that is not, whole, a conversion's or (`overwrite` is not set) holds
            anything; it is, holds or lies in one of the inputs; another conversion is writing to it.
    """
    folder = Path(folder).absolute()
    _check_apart(folder, inputs)
    folder = _real(folder)
    tidy(folder, say)
    check_output(folder, overwrite, inputs)
    folder.parent.mkdir(parents=True, exist_ok=True)
    tag = uuid.uuid4().hex[:8]
    partial = folder.with_name(f".{folder.name}.{tag}.partial")
    partial.mkdir()
    try:
        with _locked(partial), ends_in_order():
            yield partial
            _write_marker(partial)
            _put_in_place(partial, folder, folder.with_name(f"{folder.name}.{tag}.replaced"))
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_output(folder: Path, overwrite: bool, inputs: Iterable[str | Path | None] = ()) -> None:
    """Refuses an output folder before any work is done; see [`whole_folder`]."""
    _check_apart(folder, inputs)
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise CheckpointError(f"{folder}: is not empty; choose another --output-dir, or pass --overwrite")
    foreign = _foreign_files(folder)
    if foreign is None:
        raise CheckpointError(
            f"{folder}: is not empty and no conversion wrote it (there is no {CONVERSION_MARKER}); --overwrite removes "
            "nothing else: choose another --output-dir"
        )
    if foreign:
        others = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise CheckpointError(
            f"{folder}: holds {foreign[0]}{others}, which no conversion wrote; move it away, or choose another --output-dir"
        )


def _check_apart(folder: Path, inputs: Iterable[str | Path | None]) -> None:
    """An output is a folder that is not, does not hold and does not lie in what is read."""
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder}: is a file; --output-dir names a folder")
    output = _real(folder)
    for given in inputs:
        if given is None or not Path(given).exists():
            continue
        source = _real(Path(given))
        if source == output:
            relation = "is"
        elif output in source.parents:
            relation = "holds"
        elif source in output.parents:
            relation = "lies in"
        else:
            continue
        raise CheckpointError(f"{folder}: {relation} {given}, which is read; choose an --output-dir apart from it")


def _real(path: Path) -> Path:
    """Where a path leads."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # of Python 3.11, for links in a circle
        raise CheckpointError(f"{path}: is a link that leads nowhere; choose another folder") from None


def tidy(folder: Path, say: Callable[[str], None] = print) -> None:
    """Puts back or removes what killed conversions to `folder` left beside it.

    Raises:
        CheckpointError: One of them still runs.
    """
    if not folder.parent.is_dir():
        return
    name = re.escape(folder.name)
    beside = sorted(path for path in folder.parent.iterdir() if path.is_dir() and not path.is_symlink())
    for path in beside:
        if re.fullmatch(rf"\.{name}\.{_TAG}\.partial", path.name) and fcntl is not None:
            try:
                with _locked(path):
                    shutil.rmtree(path, ignore_errors=True)
            except BlockingIOError:
                raise CheckpointError(f"{folder}: another conversion is writing to it") from None
    for path in beside:
        if re.fullmatch(rf"{name}\.{_TAG}\.replaced", path.name) and _foreign_files(path) is not None:
            if folder.is_dir() and any(folder.iterdir()):
                _remove_ours(path)
            else:
                os.replace(path, folder)
                say(f"{folder}: put back, as a conversion that was to replace it was stopped")


def _put_in_place(partial: Path, folder: Path, aside: Path) -> None:
    if not folder.is_dir() or not any(folder.iterdir()):
        os.replace(partial, folder)
        return
    os.replace(folder, aside)
    try:
        os.replace(partial, folder)
    except BaseException:
        os.replace(aside, folder)
        raise
    _remove_ours(aside)


def _write_marker(folder: Path) -> None:
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    content = {"written_by": "open-musiclm convert", "files": files}
    (folder / CONVERSION_MARKER).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _foreign_files(folder: Path) -> list[str] | None:
    """What is in a folder that its marker does not name; None where no marker says that a conversion wrote it."""
    try:
        written = json.loads((folder / CONVERSION_MARKER).read_text(encoding="utf-8"))["files"]
        known = {CONVERSION_MARKER, *(name for name in written if isinstance(name, str))}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = {path.relative_to(folder).as_posix() for path in found if path.name not in _NOBODYS}
    return sorted(names - known)


def _remove_ours(folder: Path) -> None:
    """Removes a conversion; what came into it meanwhile stays, and so does the folder around that."""
    if _foreign_files(folder) == []:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock; it goes with the process that holds it.

    Raises:
        BlockingIOError: Another process holds it.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks, as some on a network are
            pass
        yield
    finally:
        os.close(handle)


@contextmanager
def ends_in_order() -> Iterator[None]:
    """Being asked to end (SIGTERM, a closed terminal) leaves by an exception, so that nothing half-written stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(TypeError):  # a handler that was not set from Python cannot be put back
                signal.signal(number, handler)
