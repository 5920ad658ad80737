"""The largest batch that fits into the memory, with as many clips in an optimizer step as without looking for it.

    the step's clips ─→ one batch of all ─ out of memory ─→ two batches of half ─ … ─→ as many batches as clips

transformers' own `auto_find_batch_size` makes the batch a tenth smaller and leaves the number of batches in a step as it is,
so a step has fewer clips; and it goes on with the weights that the failed attempt left.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from ..data.records import write_whole

Result = TypeVar("Result")

#: in a run's folder, how its steps are cut
BATCH_FILE = "batch.json"


def batch_sizes(num_clips: int) -> list[int]:
    """The batches that a step of `num_clips` clips can be cut into without a rest, the largest first."""
    return [size for size in range(num_clips, 0, -1) if num_clips % size == 0]


def find_batch_size(
    attempt: Callable[[int, int], Result],
    num_clips: int,
    largest: int | None = None,
    on_smaller: Callable[[int, int], None] | None = None,
) -> Result:
    """Train in the largest batches that fit.

    ```python
    def attempt(batch_size, accumulate):
        stage = MusicLMPipeline.from_pretrained("me/my-musiclm").coarse_model  # as it was before the first step
        sizes = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulate}
        trainer = Trainer(stage, recommended_training_arguments(stage, "run/", **sizes), …)
        trainer.train()
        return trainer


    trainer = find_batch_size(attempt, num_clips=32)
    ```

    Args:
        attempt: trains with (batch size of the device, batches accumulated); it makes model and Trainer itself, so that
            nothing of an attempt that ran out of memory is left.
        num_clips: of an optimizer step on the device; every attempt has as many.
        largest: batch to begin with, by default `num_clips`.
        on_smaller: told (batch size, batches accumulated) of each attempt after the first.

    Returns:
        What the attempt returned.

    Raises:
        ValueError: `num_clips` or `largest` is below 1.
        MemoryError: not even one clip at a time fits. Errors of another kind are the attempt's own.
    """
    if num_clips < 1 or (largest is not None and largest < 1):
        raise ValueError(f"A step and a batch have at least one clip, got {num_clips} and {largest}.")
    for number, size in enumerate(size for size in batch_sizes(num_clips) if size <= (largest or num_clips)):
        if number:
            # outside of the `except`, whose error holds the attempt's frames and so its tensors
            torch.compiler.reset()
            clear_device_cache(garbage_collection=True)
            if on_smaller is not None:
                on_smaller(size, num_clips // size)
        try:
            return attempt(size, num_clips // size)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
    raise MemoryError(
        "Out of memory: not even one clip at a time fits. Train with less precision (bf16-true), gradient checkpointing, "
        "adapters, or a smaller stage."
    )


def kept_batch_size(folder: Path, num_clips: int) -> int | None:
    """The batch that a run in this folder had last, so that it goes on as it was; `None` if it had none."""
    try:
        size = json.loads((folder / BATCH_FILE).read_text(encoding="utf-8"))["batch_size"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return size if size in batch_sizes(num_clips) else None


def keep_batch_size(folder: Path, batch_size: int, accumulate: int) -> None:
    """Record how the steps of a run are cut."""
    write_whole(folder / BATCH_FILE, json.dumps({"batch_size": batch_size, "accumulate": accumulate}) + "\n")
