"""The machine: what it is, and how fast it reads memory and multiplies, measured."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from open_musiclm.decoding.packed_weights import PackedLinear

#: bytes read to measure the bandwidth: far more than any cache holds
BANDWIDTH_BYTES = {"cpu": 2**29, "cuda": 2**32}


def describe(device: torch.device) -> str:
    """One line: processor, cores in use, versions."""
    import transformers

    import open_musiclm

    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        name = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    where = f"{name}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    if os.environ.get("THP_MEM_ALLOC_ENABLE") == "1":
        where += ", large pages"
    if device.type == "cuda":
        where = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return (
        f"{where}; Python {platform.python_version()}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, open-musiclm {open_musiclm.__version__}; {time.strftime('%Y-%m-%d %H:%M')}"
    )


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def times(function: Callable[[], object], device: torch.device, repeats: int = 7, warm_up: int = 2) -> list[float]:
    """Seconds of each call, sorted."""
    for _ in range(warm_up):
        function()
    measured = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        function()
        synchronize(device)
        measured.append(time.perf_counter() - started)
    return sorted(measured)


@dataclass(frozen=True)
class Floor:
    """What no code on this machine goes below."""

    bytes_a_second: float  #: of reads from memory
    operations_a_second: float  #: of large matrix products, a multiplication and an addition counted as two
    dtype: torch.dtype

    def __str__(self) -> str:
        return (
            f"floor: {self.bytes_a_second / 1e9:.1f} GB/s read, {self.operations_a_second / 1e12:.2f} TFLOP/s "
            f"({str(self.dtype).removeprefix('torch.')})"
        )


class ReadSpeed:
    """How fast memory is read, in bytes a second: the best of several ways to read a large array once.

    On a shared machine it changes from minute to minute, so what is held against it is timed between two measurements.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype):
        self.device = device
        count = BANDWIDTH_BYTES[device.type] // dtype.itemsize
        self.bytes = count * dtype.itemsize
        data = torch.randn(2**20, device=device, dtype=dtype).repeat(count // 2**20)
        matrix = data.view(-1, 4096)
        vector = torch.randn(4096, device=device, dtype=dtype)
        as_floats = data.view(torch.float32)
        self.ways: list[Callable[[], object]] = [as_floats.sum, as_floats.max, lambda: torch.mv(matrix, vector)]
        if device.type == "cpu":  # and as decoding reads: 32 MB matrices in the order in which they are multiplied
            parts = [PackedLinear(part) for part in data.view(-1, 1024).split(2**23 // dtype.itemsize // 256)]
            self.ways.append(lambda: [part(vector[None, :1024]) for part in parts])

    @torch.inference_mode()
    def measure(self) -> float:
        return self.bytes / min(times(way, self.device, repeats=5, warm_up=1)[0] for way in self.ways)


def measure_floor(device: torch.device, dtype: torch.dtype, read_speed: ReadSpeed | None = None) -> Floor:
    """Reading, and a large square product."""
    size = 2048 if device.type == "cpu" else 8192
    square = torch.randn(size, size, device=device, dtype=dtype)
    with torch.inference_mode():
        product = times(lambda: square @ square, device)[0]
        if device.type == "cpu":
            packed = torch.ops.mkldnn._reorder_linear_weight(square, size)
            again = times(lambda: torch.ops.mkldnn._linear_pointwise(square, packed, None, "none", [], ""), device)
            product = min(product, again[0])
    read_speed = read_speed or ReadSpeed(device, dtype)
    return Floor(read_speed.measure(), 2 * size**3 / product, dtype)


class PeakMemory:
    """Peak memory of a block in bytes: resident on a CPU, allocated on a GPU."""

    def __init__(self, device: torch.device):
        self.device = device
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # Linux: forget the peak so far
        return self

    def __exit__(self, *_) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device)
            return
        self.bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        with contextlib.suppress(OSError, StopIteration), open("/proc/self/status") as file:
            self.bytes = int(next(line for line in file if line.startswith("VmHWM")).split()[1]) * 1024


def table(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    """A Markdown table, aligned to be read as it is."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, ["-" * width for width in widths], *rows]:
        yield "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
