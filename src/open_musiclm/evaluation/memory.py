"""The most memory that a piece of work needed."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

__all__ = ["PeakMemory"]


class PeakMemory:
    """Context manager; afterwards `peak_in_bytes` and `kind` say what was needed.

    With a GPU it is the most that torch had allocated on it (`cuda`). Without one it is the largest resident size of
    the process (`resident`), weights and libraries included; Linux lets one restart that count, elsewhere it is that of
    the process since its start.
    """

    peak_in_bytes: int | None = None
    kind: str | None = None

    def __enter__(self) -> PeakMemory:
        import torch

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
        return self

    def __exit__(self, *_) -> None:
        import torch

        if torch.cuda.is_available():
            self.kind, self.peak_in_bytes = "cuda", int(torch.cuda.max_memory_allocated())
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
