"""The most memory that a piece of work needed."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

__all__ = ["PeakMemory", "computer"]


class PeakMemory:
    """Context manager; afterwards `peak_in_bytes` and `kind` say what was needed.

    On a GPU it is the most that torch had allocated on it (`cuda`). Elsewhere it is the largest resident size of
    the process (`resident`), weights and libraries included; Linux lets one restart that count, elsewhere it is that of
    the process since its start.

    Args:
        device: Where the work is done.
    """

    peak_in_bytes: int | None = None
    kind: str | None = None

    def __init__(self, device: str = "cpu"):
        self.device = device

    def __enter__(self) -> PeakMemory:
        import torch

        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
        return self

    def __exit__(self, *_) -> None:
        import torch

        if self.device.startswith("cuda"):
            self.kind, self.peak_in_bytes = "cuda", int(torch.cuda.max_memory_allocated(self.device))
            return
        self.kind, self.peak_in_bytes = "resident", _resident_peak()


def _resident_peak() -> int | None:
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def computer(device: str) -> str:
    """What computes, in words, to stand beside a time: the GPU's name, or the CPU's threads."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{device}, {torch.get_num_threads()} threads"
