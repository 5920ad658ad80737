"""Which checkpoint to go on from: the last one that was written completely and is as it was written."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from ..data.records import write_whole
from ..given import shown
from ..hub.files import read_header

PREFIX = "checkpoint-"
STATE_FILE = "trainer_state.json"
#: sizes and checksums of a checkpoint's files
SEAL_FILE = "files.json"
#: what the Trainer saves with `torch.save`, each under its own name
STATES = ("optimizer", "scheduler", "rng_state")
#: what a step needs besides the weights
NEEDED = {"optimizer*": "the optimizer's state", "scheduler.pt": "the learning rate's state"}


def checkpoint_step(folder: Path) -> int | None:
    """The step of a checkpoint's folder, `None` if it is no such folder."""
    number = folder.name.removeprefix(PREFIX)
    return (
        int(number)
        if folder.name.startswith(PREFIX) and number.isascii() and number.isdigit() and folder.is_dir()
        else None
    )


def seal_checkpoint(checkpoint: Path) -> None:
    """Record the checkpoint's files, when they are all written.

    Random states of several processes are not among them: each writes its own, at its own pace.
    """
    files = {
        path.relative_to(checkpoint).as_posix(): [path.stat().st_size, checksum(path)]
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and not path.name.startswith("rng_state_")
    }
    write_whole(checkpoint / SEAL_FILE, json.dumps(files, indent=1) + "\n")


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc = zlib.crc32(block, crc)
    return crc


def fault(checkpoint: Path, num_processes: int = 1) -> str | None:
    """Why a run cannot go on from a checkpoint as if nothing had happened; `None` if it can.

    The trainer's state, written last, says that it was written to its end. Of files whose checksum was recorded, that is
    held against them; of PyTorch's, the checksums in them.
    """
    try:
        state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        done = state["global_step"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"it was not written to its end ({STATE_FILE})"
    if done != checkpoint_step(checkpoint):
        return f"{STATE_FILE} is that of another step"
    random_states = ["rng_state.pth"] if num_processes == 1 else [f"rng_state_{i}.pth" for i in range(num_processes)]
    for pattern, what in [*NEEDED.items(), *((name, "the random state") for name in random_states)]:
        if not any(checkpoint.glob(pattern)):
            return f"{what} is missing ({pattern})"
    return next(_damaged(checkpoint), None)


def _damaged(checkpoint: Path) -> Iterator[str]:
    seal = checkpoint / SEAL_FILE
    sealed: dict[str, list[int]] = {}
    if seal.is_file():
        try:
            sealed = {name: [size, crc] for name, (size, crc) in json.loads(seal.read_text(encoding="utf-8")).items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            yield f"{SEAL_FILE} is damaged"
    for name, (size, crc) in sealed.items():
        path, told = checkpoint / name, name if name.isprintable() and len(name) < 100 else shown(name)
        try:
            found = path.stat().st_size
        except (OSError, ValueError):
            yield f"{told} is missing"
            continue
        if not path.is_file() or found != size or checksum(path) != crc:
            yield f"{told} is damaged"
    for pattern, is_whole in (
        ("*.pt", _is_whole_archive),
        ("*.pth", _is_whole_archive),
        ("*.safetensors", _has_header),
    ):
        for path in sorted(checkpoint.glob(pattern)):
            if path.name not in sealed and not is_whole(path):
                yield f"{path.name} is damaged"


def _is_whole_archive(path: Path) -> bool:
    """Whether a file of `torch.save`, which is a zip, can be read and holds what it held.

    `torch.save` names what is in the archive by the file: so another file in the place of a state is noticed.
    """
    from torch.serialization import get_unsafe_globals_in_checkpoint

    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            file.seek(0)
            # in front of an archive zipfile passes over anything, and PyTorch over nothing
            if file.read(4) != b"PK\x03\x04" or archive.testzip() is not None:
                return False
            names = archive.namelist()
            if len(set(names)) < len(names):  # of two of one name, one was not looked at
                return False
    except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return False
    own = next((state for state in STATES if path.stem.startswith(state)), None)
    if own is not None and any(name.startswith(state) for name in names for state in STATES if state != own):
        return False
    try:  # PyTorch's own reader is stricter; nothing is unpickled
        get_unsafe_globals_in_checkpoint(path)
    except (OSError, RuntimeError):
        return False
    except (ValueError, EOFError, pickle.UnpicklingError):  # an archive, of something that the Trainer does not read
        return True
    return True


def _has_header(path: Path) -> bool:
    """Whether weights can be read; the format has no checksums of its own."""
    try:
        return bool(read_header(path))
    except (OSError, ValueError):
        return False


def last_complete_checkpoint(
    folder: str | os.PathLike,
    num_processes: int = 1,
    before: int | None = None,
    passed_over: list[str] | None = None,
) -> Path | None:
    """The newest checkpoint of a Trainer's output folder (before some step) that a run can go on from, or `None`.

    A run killed while it saved leaves a folder that the Trainer itself would try, and fail, to resume from; a damaged
    optimizer's or random state would change the run in silence.

    Args:
        passed_over: gets a line for each newer one that cannot be used, with the reason.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return None
    steps = {step: path for path in folder.iterdir() if (step := checkpoint_step(path)) is not None}
    for step in sorted(steps, reverse=True):
        if before is not None and step >= before:
            continue
        reason = fault(steps[step], num_processes)
        if reason is None:
            return steps[step]
        if passed_over is not None:
            passed_over.append(f"{steps[step].name} is passed over: {reason}")
    return None
