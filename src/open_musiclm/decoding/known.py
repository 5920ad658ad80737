"""What is found out on a device while a model decodes there; it is kept with the packed weights."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class KnownSteps:
    """About the steps that could be recorded (step_check.py)."""

    #: (batch size, how a step ends) → way → what is wrong with it, `None` if nothing
    faults: dict[tuple, dict[str, str | None]] = field(default_factory=dict)
    #: (batch size, rows, tokens, how a step ends) → the fastest way
    fastest: dict[tuple, str] = field(default_factory=dict)


#: shapes of windows that are remembered
REMEMBERED_WINDOWS = 64


@dataclass
class KnownWindows:
    """About the prefills that could be recorded (recorded_prefill.py)."""

    #: shape of a window's ids → row of its predicted stream's first step, for shapes that came up
    first_rows: dict[tuple, int] = field(default_factory=dict)
    #: why prefills are not recorded here, once that was tried in vain
    fault: str | None = None

    def remember(self, shape: tuple, first_row: int) -> None:
        """A window of this shape came up; the shapes that came up last are remembered."""
        self.first_rows.pop(shape, None)
        self.first_rows[shape] = first_row
        for oldest in list(self.first_rows)[:-REMEMBERED_WINDOWS]:
            del self.first_rows[oldest]
