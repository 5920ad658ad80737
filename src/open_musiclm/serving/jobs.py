"""A request on its way: waiting, under way, done; and what its asker may do to it meanwhile."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from .limits import Refusal
from .requests import MusicRequest

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Made:
    """
    One waveform.

    Args:
        audio (channels, samples): float32.
        request: what makes this one again.
        similarity: CLAP's of the prompt and the audio, where it was asked for.
        start, stop: of a recording that was changed, the new region's first sample and the first behind it.
    """

    audio: np.ndarray
    sampling_rate: int
    request: MusicRequest
    similarity: float | None = None
    start: int | None = None
    stop: int | None = None

    @property
    def length_in_s(self) -> float:
        return self.audio.shape[-1] / self.sampling_rate


@dataclass(frozen=True)
class Progress:
    """
    How far a job is.

    Args:
        stage: what is under way: a stage's short name, `"waiting"`, `"waveform"`.
        step, num_steps: of all stages together.
        seconds_left: at the pace so far; `None` before there is one.
        ahead: of a job that waits, how many wait before it.
    """

    stage: str = "waiting"
    step: int = 0
    num_steps: int = 0
    seconds_left: float | None = None
    ahead: int = 0


class Job:
    """One request.

    Args:
        request: what is asked for.
        time_limit_in_s: from now to the answer.
        measured: give the CLAP similarity of each waveform to the prompt.
        on_piece: asks for the sound while it is made: called (from the engine's thread) with each piece, (rows, channels,
            samples), and with `None` behind the last one.
    """

    def __init__(
        self,
        request: MusicRequest,
        time_limit_in_s: float,
        measured: bool = False,
        on_piece: Callable[[np.ndarray | None], None] | None = None,
    ):
        self.number = next(_numbers)
        self.request, self.measured, self.on_piece = request, measured, on_piece
        self.arrived = time.monotonic()
        self.deadline = self.arrived + time_limit_in_s
        self.result: Future[list[Made]] = Future()
        self.progress = Progress()
        self.prepared: Any = None
        self.made_in_s = self.taken_in_s = 0.0  # of a stream: sound there is, and that its asker took
        self.sound: list[np.ndarray] = []  # of a stream that is measured at its end
        self._cancelled = threading.Event()
        self._begun: tuple[float, int] | None = None

    @property
    def is_gone(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._cancelled.is_set() or time.monotonic() > self.deadline

    def cancel(self) -> None:
        """Its asker has left: what is under way for it alone stops with the next token."""
        self._cancelled.set()

    def report(self, stage: str, step: int, num_steps: int) -> None:
        """How far it is."""
        now = time.monotonic()
        if self._begun is None:
            self._begun = now, step
        began, first = self._begun
        pace = (now - began) / (step - first) if step > first else None
        left = None if pace is None else pace * max(num_steps - step, 0)
        self.progress = Progress(stage.removesuffix("_model"), step, num_steps, left)

    def finish(self, made: list[Made]) -> None:
        with suppress(InvalidStateError):
            self.result.set_result(made)
            self._end_pieces()

    def fail(self, error: BaseException) -> None:
        with suppress(InvalidStateError):
            self.result.set_exception(error)
            self._end_pieces()

    def _end_pieces(self) -> None:
        if self.on_piece is not None:
            self.on_piece(None)

    def fail_as_gone(self) -> None:
        """It was cancelled, or its time is up."""
        if self._cancelled.is_set():
            self.fail(Refusal("The request was cancelled.", "cancelled"))
        else:
            self.fail(Refusal("The request took longer than this server allows.", "too late"))
