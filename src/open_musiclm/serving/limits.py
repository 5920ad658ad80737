"""How much one request may ask for, and how much may wait."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..given import as_length, as_number, shown
from ..pipelines.arguments import MOST_WAVEFORMS


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
            as_number(
                f"The limit `{field.name}`", getattr(self, field.name), "a number above 0", lambda value: value > 0
            )
        as_length("The limit `duration_in_s`", self.duration_in_s)
        for name in ("rows", "variants"):
            if getattr(self, name) > MOST_WAVEFORMS:
                raise ValueError(
                    f"The limit `{name}` must be at most {MOST_WAVEFORMS}, what one call makes, got "
                    f"{shown(getattr(self, name))}."
                )
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
