"""The queue before a model, and the one thread that owns it.

submit ──→ waiting ── those of the first one's key, up to `limits.rows` ──→ one batch ──→ each job's result
                  └─ sound while it is made ──→ streams: between two batches each goes on by some pieces
"""

from __future__ import annotations

import gc
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ..decoding.memory import is_out_of_memory
from .capabilities import capabilities_of
from .exactness import rows_needed
from .jobs import Job, Progress
from .limits import Limits, Refusal
from .metrics import Metrics
from .requests import MusicRequest
from .work import chosen, make_alone, make_together, open_stream, prepare

LOG = logging.getLogger("open_musiclm.serving")
#: sound that a stream is ahead of what its listener took, at most
AHEAD_IN_S = 30.0
#: streams that go on at a time; others wait
MOST_STREAMS = 8


class _NobodyWaitsError(Exception):
    """Raised inside a call whose askers have all left."""


class Engine:
    """A pipeline that makes music for many.

    Args:
        pipe: the pipeline; from now on only this engine's thread may use it.
        name: what requests call it.
        limits: of requests.
        metrics: what is counted.
        num_threads: of the CPU; by default as many as there are now.
    """

    def __init__(
        self,
        pipe: Any,
        name: str = "mini",
        limits: Limits | None = None,
        metrics: Metrics | None = None,
        num_threads: int | None = None,
    ):
        self.pipe, self.name = pipe, name
        self.limits = limits or Limits()
        self.metrics = metrics or Metrics()
        self.num_threads = num_threads or torch.get_num_threads()
        self.capabilities = capabilities_of(pipe)
        self.least_rows = rows_needed(pipe, self.limits.rows)
        pipe.set_progress_bar_config(disable=True)
        self.waiting: list[Job] = []
        self.streams: list[tuple[Job, Any]] = []
        self.under_way: Sequence[Job] = ()
        self.last_batch_in_s = 1.0
        self.changed = threading.Condition()
        self.is_closing = False
        for gauge in (self.metrics.queue, self.metrics.streams):
            gauge.labels(name).set(0)
        self.thread = threading.Thread(target=self._work, name=f"open-musiclm {name}", daemon=True)
        self.thread.start()

    # ------------------------------------------------------------------- asking

    def submit(
        self,
        request: MusicRequest,
        measured: bool = False,
        on_piece: Callable[[np.ndarray | None], None] | None = None,
        time_limit_in_s: float | None = None,
    ) -> Job:
        """Put a request into the queue; see [`Job`].

        Raises:
            ValueError: it asks for what there is not.
            Refusal: the queue is full, or the server is being stopped.
        """
        request.check(self.limits, self.capabilities)
        job = Job(request, time_limit_in_s or self.limits.request_time_in_s, measured, on_piece)
        with self.changed:
            if self.is_closing or not self.thread.is_alive():
                raise Refusal("This server is being stopped; ask again later.", "stopping", 10.0)
            if len(self.waiting) >= self.limits.queue:
                raise Refusal(
                    f"{len(self.waiting)} requests wait already; ask again later.", "full", self._wait_in_s()
                )
            job.progress = Progress(ahead=len(self.waiting))
            self.waiting.append(job)
            self._count()
            self.changed.notify_all()
        return job

    def cancel(self, job: Job) -> None:
        """Whoever asked has left: its place is free."""
        job.cancel()
        with self.changed:
            if job in self.waiting:
                self.waiting.remove(job)
                job.fail_as_gone()
                self._count()
            self.changed.notify_all()

    def took(self, job: Job, seconds: float) -> None:
        """So much of a stream's sound was taken."""
        job.taken_in_s += seconds
        with self.changed:
            self.changed.notify_all()

    def close(self, finish: bool = True, timeout_in_s: float | None = None) -> None:
        """Take nothing more, finish what there is (or refuse what waits), and end the thread."""
        with self.changed:
            self.is_closing = True
            if not finish:
                for job in (*self.waiting, *self.under_way, *(each for each, _ in self.streams)):
                    job.cancel()
            self.changed.notify_all()
        self.thread.join(timeout_in_s)

    def _wait_in_s(self) -> float:
        rows = sum(job.request.num_rows for job in self.waiting)
        return max(math.ceil(rows / self.limits.rows * self.last_batch_in_s), 1)

    def _count(self) -> None:
        self.metrics.queue.labels(self.name).set(len(self.waiting))
        self.metrics.streams.labels(self.name).set(len(self.streams))
        for place, job in enumerate(self.waiting):
            job.progress = Progress(ahead=place)

    # ------------------------------------------------------------------ working

    def _work(self) -> None:
        torch.set_num_threads(self.num_threads)
        while True:
            with self.changed:
                while not (self._has_work() or self.is_closing):
                    self.changed.wait(1.0)  # deadlines pass without a notice
                if self.is_closing and not self.waiting and not self.streams:
                    return
                self._drop_what_is_gone()
            try:
                self._go_on_with_streams()
                batch = self._take()
                if batch:
                    self._make(batch)
                elif self.streams and not self._has_work():
                    with self.changed:
                        self.changed.wait(0.2)  # for a listener to take what there is
            except Exception as error:
                LOG.exception("the engine's own work failed")
                for job in self.under_way:
                    job.fail(error)
            self.under_way = ()

    def _has_work(self) -> bool:
        can_open = len(self.streams) < MOST_STREAMS
        return any(job.on_piece is None or can_open for job in self.waiting) or any(
            job.is_gone or self._lacks(job) for job, _ in self.streams
        )

    @staticmethod
    def _lacks(job: Job) -> bool:
        """Whether a stream is not far enough ahead of its listener."""
        return job.made_in_s - job.taken_in_s < AHEAD_IN_S

    def _drop_what_is_gone(self) -> None:
        for job in [job for job in self.waiting if job.is_gone]:
            self.waiting.remove(job)
            job.fail_as_gone()
        self._count()

    def _take(self) -> list[Job]:
        """The first that waits, and others that can be made with it."""
        batch: list[Job] = []
        rows = 0
        with self.changed:
            waiting = list(self.waiting)
        for job in waiting:
            if job.on_piece is not None:
                if len(self.streams) < MOST_STREAMS and self._remove(job):
                    self._open(job)
                continue
            if rows + job.request.num_rows > self.limits.rows:
                continue
            if job.prepared is None and not self._prepare(job):
                continue
            key = job.prepared.key
            if (not batch or (key is not None and key == batch[0].prepared.key)) and self._remove(job):
                batch.append(job)
                rows += job.request.num_rows
                if key is None or rows == self.limits.rows:
                    break
        return batch

    def _remove(self, job: Job) -> bool:
        """Whether it still waited."""
        with self.changed:
            if job not in self.waiting:
                return False
            self.waiting.remove(job)
            self._count()
            return True

    def _prepare(self, job: Job) -> bool:
        try:
            job.prepared = prepare(self.pipe, job.request)
            return True
        except Exception as error:
            self._remove(job)
            self._fail(job, error)
            return False

    def _fail(self, job: Job, error: Exception) -> None:
        """One job's end without music."""
        if is_out_of_memory(error):
            self.metrics.out_of_memory.labels(self.name).inc()
            error = Refusal("There is not enough memory for this request; ask for less at a time.", "memory")
        elif not isinstance(error, ValueError | Refusal):
            LOG.error("a request failed: %r", job.request.told(), exc_info=error)
        job.fail(error)

    def _make(self, batch: list[Job]) -> None:
        """A batch; where it fails, each of it by itself, so that one request cannot take others with it."""
        self.under_way = batch
        started = time.perf_counter()

        def callback(_: Any, step: int, num_steps: int, details: dict) -> None:
            if all(job.is_gone for job in batch):
                raise _NobodyWaitsError
            for job in batch:
                job.report(details["stage"], step + 1, num_steps)

        try:
            if batch[0].prepared.key is None:
                made = [make_alone(self.pipe, batch[0], callback)]
            else:
                made = make_together(self.pipe, batch, self.least_rows, callback)
        except _NobodyWaitsError:
            for job in batch:
                job.fail_as_gone()
            return
        except Exception as error:
            self._after_failure(error)
            if len(batch) == 1:
                self._fail(batch[0], error)
                return
            middle = len(batch) // 2 if is_out_of_memory(error) else 1
            del error
            parts = [batch[:middle], batch[middle:]] if middle > 1 else [[job] for job in batch]
            for part in parts:
                self._make(part)
            return
        self._note(batch, made, time.perf_counter() - started)
        for job, each in zip(batch, made, strict=True):
            if job.is_gone:
                job.fail_as_gone()
            else:
                job.finish(each)

    def _after_failure(self, error: Exception) -> None:
        if is_out_of_memory(error):
            self.metrics.out_of_memory.labels(self.name).inc()
            error.__traceback__ = None  # it holds what was allocated
            gc.collect()
            if self.pipe.device.type == "cuda":
                torch.cuda.empty_cache()

    def _note(self, batch: list[Job], made: list, seconds: float) -> None:
        sound = sum(each.length_in_s for of_job in made for each in of_job)
        self.last_batch_in_s = seconds
        self.metrics.batch_rows.labels(self.name).observe(sum(job.request.num_rows for job in batch))
        self._sounded(sound, seconds)

    def _sounded(self, sound: float, seconds: float) -> None:
        self.metrics.audio.labels(self.name).inc(sound)
        self.metrics.work.labels(self.name).inc(seconds)
        self.metrics.speed.labels(self.name).set(sound / max(seconds, 1e-9))

    # ------------------------------------------------------------------ streams

    def _open(self, job: Job) -> None:
        self.under_way = [job]
        try:
            with torch.no_grad():
                stream = open_stream(self.pipe, job.request, self.least_rows)
        except Exception as error:
            self._after_failure(error)
            self._fail(job, error)
            return
        with self.changed:
            self.streams.append((job, stream))
            self._count()

    def _go_on_with_streams(self) -> None:
        """Each as far as it is played while a batch is made, or to its end where nobody else waits."""
        for job, stream in list(self.streams):
            pieces = 1 + math.ceil(self.last_batch_in_s)
            while pieces and self._lacks(job) and not job.is_gone:
                pieces -= 1
                if not self._next_piece(job, stream):
                    self._end(job, stream)
                    break
            if job.is_gone:
                job.fail_as_gone()
                self._end(job, stream)

    def _end(self, job: Job, stream: Any) -> None:
        with self.changed:
            if (job, stream) in self.streams:
                self.streams.remove((job, stream))
                self._count()

    def _next_piece(self, job: Job, stream: Any) -> bool:
        """One piece more; `False` behind the last one."""
        started = time.perf_counter()
        try:
            piece = next(stream, None)
        except Exception as error:
            self._after_failure(error)
            self._fail(job, error)
            return False
        if piece is None:
            self._finish_stream(job)
            return False
        piece = piece[: job.request.num_variants]
        if job.measured:
            job.sound.append(piece)
        seconds = piece.shape[-1] / self.pipe.sampling_rate
        job.made_in_s += seconds
        self._sounded(seconds * len(piece), time.perf_counter() - started)
        tenths = round(10 * job.made_in_s), round(10 * job.request.duration_in_s)
        job.report("sound", *tenths)
        assert job.on_piece is not None
        job.on_piece(piece)
        return True

    def _finish_stream(self, job: Job) -> None:
        """What was sent is the result too, where it is measured."""
        try:
            whole = [np.concatenate(job.sound, axis=-1)] if job.sound else []
            job.sound.clear()
            job.finish([made for audios in whole for made in chosen(self.pipe, job, audios, self.pipe.sampling_rate)])
        except Exception as error:
            self._fail(job, error)
