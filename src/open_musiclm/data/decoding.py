"""Reading audio files ahead of the computation, and saying why one cannot be used."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import SkippedFile, resample
from ..audio.levels import is_silent, remove_offset, sounding_time
from ..audio.reading import read_recording
from .discovery import AudioFile

#: nothing of a silent file is above this, in dB of full scale: some six times the smallest step of 16 bits
SILENCE_IN_DB = -75.0
#: seconds of audio that stand decoded beside the file at hand
MAX_AHEAD_IN_S = 300.0


@dataclass(frozen=True)
class DecodedAudio:
    """One file as mono audio at every rate that is needed: `waveforms[rate]` (samples,) float32, and what is known about
    it."""

    duration_in_s: float
    waveforms: dict[int, np.ndarray]
    about: dict[str, Any] = field(default_factory=dict)


def decode(
    path: Path,
    sampling_rates: Iterable[int],
    min_length_in_s: float,
    silence_in_db: float = SILENCE_IN_DB,
    on_block: Callable[[float], None] | None = None,
) -> DecodedAudio:
    """Read a file, average its channels, take out a constant offset, and resample it to each of the rates, in Hz.

    Raises:
        SkippedFile: as `read_audio`, or it is shorter than `min_length_in_s`, or silent.
    """
    recording = read_recording(path, mono=True, on_block=on_block)
    rate, duration = recording.sampling_rate, recording.length_in_s
    audio = remove_offset(recording.samples[0])
    if duration < min_length_in_s:  # all digits that there are: 1.99998 s is not 2 s
        raise SkippedFile(path, "too short", f"{duration:.8g} s, at least {min_length_in_s:g} s are needed")
    if is_silent(audio, rate, silence_in_db):
        sounding = sounding_time(audio, rate, silence_in_db)
        told = f"all but {sounding:.1f} s of it" if sounding else "all of it"
        raise SkippedFile(path, "silent", f"{told} is below {silence_in_db:g} dB of full scale")
    return DecodedAudio(duration, {target: resample(audio, rate, target) for target in sorted(set(sampling_rates))})


def decode_ahead(
    files: Iterable[AudioFile],
    sampling_rates: Iterable[int],
    min_length_in_s: float,
    num_threads: int = 2,
    silence_in_db: float = SILENCE_IN_DB,
    max_ahead_in_s: float = MAX_AHEAD_IN_S,
) -> Iterator[tuple[AudioFile, DecodedAudio | SkippedFile]]:
    """Decode files in threads while the caller computes, in their order, a few ahead of what is asked for.

    Besides the file at hand and the next one, at most `num_threads` - 1 files and `max_ahead_in_s` of audio are held, so
    memory grows neither with the number of files nor with that of threads.
    """
    rates = tuple(sampling_rates)
    room = _Room(max_ahead_in_s)

    def attempt(number: int, file: AudioFile) -> DecodedAudio | SkippedFile:
        try:
            if file.problem is not None:
                raise SkippedFile(file.path, "missing", file.problem)
            return decode(file.path, rates, min_length_in_s, silence_in_db, lambda seconds: room.take(number, seconds))
        except SkippedFile as skipped:
            return skipped

    pending: deque[tuple[AudioFile, Future]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="decode") as pool:
        try:
            for number, file in enumerate(files):
                pending.append((file, pool.submit(attempt, number, file)))
                if len(pending) > num_threads:
                    file, future = pending.popleft()
                    yield file, future.result()
                    room.leave()
            while pending:
                file, future = pending.popleft()
                yield file, future.result()
                room.leave()
        finally:
            room.close()
            for _, future in pending:
                future.cancel()


class _Room:
    """Seconds of decoded audio that wait for their turn; the file whose turn it is always goes on."""

    def __init__(self, seconds: float):
        self.limit = seconds
        self.first = 0
        self.taken: dict[int, float] = {}
        self.closed = False
        self.changed = threading.Condition()

    def take(self, number: int, seconds: float) -> None:
        """Add to what file `number` holds, as soon as there is room."""
        with self.changed:
            while number != self.first and not self.closed and self._waiting() + seconds > self.limit:
                self.changed.wait()
            self.taken[number] = self.taken.get(number, 0.0) + seconds

    def leave(self) -> None:
        """The first file is done with."""
        with self.changed:
            self.taken.pop(self.first, None)
            self.first += 1
            self.changed.notify_all()

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def _waiting(self) -> float:
        return sum(seconds for number, seconds in self.taken.items() if number != self.first)
