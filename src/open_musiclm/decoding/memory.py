"""What a batch needs, what there is, and an error that says which batch would fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

#: share of the free memory that an estimate may plan with: allocators round up and fragment
USABLE_SHARE = 0.9
#: copies of a feed-forward's inner states that are alive together in a prefill: projected, convolved, gated, normed
INNER_COPIES = 4


def bytes_a_sample(config, num_rows: int, dtype: torch.dtype) -> int:
    """Memory of one sample while a stage decodes a window of `num_rows` rows: keys, values, convolution inputs."""
    a_layer = 2 * num_rows * config.head_dim
    if config.use_conv_feed_forward:
        a_layer += config.conv_kernel_size * 2 * config.intermediate_size
    return config.num_hidden_layers * a_layer * dtype.itemsize


def bytes_of_prefill(config, num_rows: int, batch_size: int, rows_together: int, dtype: torch.dtype) -> int:
    """Memory that a prefill of `num_rows` rows a sample takes besides: inner states, the additive mask, its scores."""
    samples = min(batch_size, max(rows_together // num_rows, 1))
    inner = (2 if config.use_conv_feed_forward else 1) * config.intermediate_size
    mask = config.num_attention_heads * num_rows * num_rows
    return (samples * num_rows * (INNER_COPIES * inner + 4 * config.hidden_size) + 3 * mask) * dtype.itemsize


def free_bytes(device: torch.device) -> int | None:
    """Memory that could be allocated now, or `None` where that cannot be told."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "cpu":
        try:
            with open("/proc/meminfo") as file:
                lines = dict(line.split(":", 1) for line in file)
            return int(lines["MemAvailable"].split()[0]) * 1024
        except (OSError, KeyError, ValueError):
            return None
    return None


def largest_batch(config, num_rows: int, rows_together: int, dtype: torch.dtype, free: int) -> int:
    """How many samples fit into `free` bytes; 0 if not even one does."""

    def needed(batch_size: int) -> int:
        prefill = bytes_of_prefill(config, num_rows, batch_size, rows_together, dtype)
        return batch_size * bytes_a_sample(config, num_rows, dtype) + prefill

    usable = int(free * USABLE_SHARE)
    fits, too_many = 0, 1
    while needed(too_many) <= usable:
        fits, too_many = too_many, too_many * 2
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if needed(middle) <= usable else (fits, middle)
    return fits


def is_out_of_memory(error: BaseException) -> bool:
    """An allocation that failed, on a GPU or on a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


@contextmanager
def explain_out_of_memory(model, batch_size: int, num_rows: int, rows_together: int, release) -> Iterator[None]:
    """Turn an allocation that fails within into a `MemoryError` that names the batch that would fit.

    Args:
        model: the stage that decodes.
        batch_size, num_rows, rows_together: samples, rows of each one's window, rows prefilled together.
        release: called first, to let go of what was allocated.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        release()
        message = (
            f"Out of memory: {type(model).__name__} cannot make {batch_size} samples at a time on {model.device}."
        )
        free = free_bytes(model.device)
        if free is not None:
            fits = largest_batch(model.config, num_rows, rows_together, model.dtype, free)
            fits = min(fits, batch_size - 1)
            message += f" {free / 1e9:.1f} GB are free; "
            message += f"a batch of {fits} would fit." if fits else "not even one sample fits."
        raise MemoryError(f"{message} Make fewer at a time, or load the model in bfloat16.") from error
