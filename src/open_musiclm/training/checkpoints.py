"""Which checkpoint to go on from: the last one that was written completely."""

from __future__ import annotations

import json
import os
from pathlib import Path

PREFIX = "checkpoint-"


def checkpoint_step(folder: Path) -> int | None:
    """The step of a checkpoint's folder, `None` if it is no such folder."""
    number = folder.name.removeprefix(PREFIX)
    return int(number) if folder.name.startswith(PREFIX) and number.isdigit() and folder.is_dir() else None


def is_complete(checkpoint: Path, num_processes: int = 1) -> bool:
    """Whether a checkpoint was written to its end: the trainer's state, written last, can be read.

    With several processes each writes its own random state, at its own pace: all must be there.
    """
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return False
    if num_processes > 1:
        return all((checkpoint / f"rng_state_{rank}.pth").is_file() for rank in range(num_processes))
    return True


def last_complete_checkpoint(
    folder: str | os.PathLike, num_processes: int = 1, before: int | None = None
) -> Path | None:
    """The newest complete checkpoint of a Trainer's output folder (before some step), or `None`.

    A run killed while it saved leaves a folder that the Trainer itself would try, and fail, to resume from.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return None
    steps = {step: path for path in folder.iterdir() if (step := checkpoint_step(path)) is not None}
    for step in sorted(steps, reverse=True):
        if (before is None or step < before) and is_complete(steps[step], num_processes):
            return steps[step]
    return None
