"""How much one request may ask for, and how much may wait."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """
    Args:
        duration_in_s: length of a piece, and of a recording that is sent.
        variants: waveforms of one request, candidates counted in.
        queue: requests that wait; one more is refused, with the time after which to ask again.
        rows: waveforms that are made together.
        request_time_in_s: from a request's arrival to its answer.
        upload_bytes: of one recording that is sent.
        text: characters of a prompt, and of any other text.
    """

    duration_in_s: float = 120.0
    variants: int = 8
    queue: int = 128
    rows: int = 16
    request_time_in_s: float = 300.0
    upload_bytes: int = 16_000_000
    text: int = 1000

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"The limit `{field.name}` must be a number above 0, got {value!r}.")
        if self.rows < self.variants:
            object.__setattr__(self, "rows", self.variants)

    @property
    def body_bytes(self) -> int:
        """Of a request in JSON: three recordings in base64, and the rest."""
        return 4 * self.upload_bytes + 100_000


class Refusal(Exception):
    """Why a request has no music for an answer.

    Args:
        message: for who asked.
        kind: of the reasons there are; each has a status of HTTP (http.py).
        retry_after_in_s: when to ask again.
    """

    def __init__(self, message: str, kind: str, retry_after_in_s: float | None = None):
        super().__init__(message)
        self.kind, self.retry_after_in_s = kind, retry_after_in_s


class BrokenOffError(Exception):
    """An answer that had begun cannot be finished: its connection is closed before its end."""
