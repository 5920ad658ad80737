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
