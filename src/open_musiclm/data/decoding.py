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
from ..audio.reading import check_channels, read_recording
from .discovery import AudioFile

#: nothing of a silent file is above this, in dB of full scale: some six times the smallest step of 16 bits
SILENCE_IN_DB = -75.0
#: seconds of audio that stand decoded beside the file at hand
MAX_AHEAD_IN_S = 300.0


@dataclass(frozen=True)
class DecodedAudio:
    """One file, float32, at every rate that is needed.

    Args:
        waveforms: by rate, mono (samples,).
        about: what is known about it.
        of_channels: by rate and number of channels, (channels, samples).
    """

    duration_in_s: float
    waveforms: dict[int, np.ndarray]
    about: dict[str, Any] = field(default_factory=dict)
    of_channels: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)

    def at(self, rate: int, channels: int) -> np.ndarray:
        """(samples,) for one channel, else (channels, samples): those of the file, or where only mono is known, it in each."""
        if channels == 1:
            return self.waveforms[rate]
        found = self.of_channels.get((rate, channels))
        return np.stack([self.waveforms[rate]] * channels) if found is None else found


def decode(
    path: Path,
    sampling_rates: Iterable[int],
    min_length_in_s: float,
    silence_in_db: float = SILENCE_IN_DB,
    on_block: Callable[[float], None] | None = None,
    several_channels: Iterable[tuple[int, int]] = (),
) -> DecodedAudio:
    """Read a file, average its channels, take out a constant offset, and resample it to each of the rates, in Hz.

    Args:
        several_channels: rates and numbers of channels at which it is needed besides.

    Raises:
        SkippedFile: as `read_audio`, or it is shorter than `min_length_in_s`, or silent.
    """
    several = sorted(set(several_channels))
    recording = read_recording(path, mono=not several, on_block=on_block)
    rate, duration = recording.sampling_rate, recording.length_in_s
    average = recording.samples.mean(axis=0) if several else recording.samples[0]
    if several:
        check_channels(path, average, recording.samples)
    audio = remove_offset(average)
    if duration < min_length_in_s:  # all digits that there are: 1.99998 s is not 2 s
        raise SkippedFile(path, "too short", f"{duration:.8g} s, at least {min_length_in_s:g} s are needed")
    if is_silent(audio, rate, silence_in_db):
        sounding = sounding_time(audio, rate, silence_in_db)
        told = f"all but {sounding:.1f} s of it" if sounding else "all of it"
        raise SkippedFile(path, "silent", f"{told} is below {silence_in_db:g} dB of full scale")
    waveforms = {target: resample(audio, rate, target) for target in sorted(set(sampling_rates))}
    of_channels = {}
    for target, number in several:
        dealt = deal_channels(np.stack([remove_offset(channel) for channel in recording.samples]), number)
        of_channels[target, number] = np.stack([resample(channel, rate, target) for channel in dealt])
    return DecodedAudio(duration, waveforms, of_channels=of_channels)


def deal_channels(audio: np.ndarray, number: int) -> np.ndarray:
    """(channels, samples) → (number, samples): one stands for all; more are dealt out in turn, each the average of its own."""
    if len(audio) < number:
        return np.stack([audio[index % len(audio)] for index in range(number)])
    return np.stack([audio[index::number].mean(axis=0) for index in range(number)])


def decode_ahead(
    files: Iterable[AudioFile],
    sampling_rates: Iterable[int],
    min_length_in_s: float,
    num_threads: int = 2,
    silence_in_db: float = SILENCE_IN_DB,
    max_ahead_in_s: float = MAX_AHEAD_IN_S,
    several_channels: Iterable[tuple[int, int]] = (),
) -> Iterator[tuple[AudioFile, DecodedAudio | SkippedFile]]:
    """Decode files in threads while the caller computes, in their order, a few ahead of what is asked for.

    Besides the file at hand and the next one, at most `num_threads` - 1 files and `max_ahead_in_s` of audio are held, so
    memory grows neither with the number of files nor with that of threads.
    """
    rates, several = tuple(sampling_rates), tuple(several_channels)
    room = _Room(max_ahead_in_s)

    def attempt(number: int, file: AudioFile) -> DecodedAudio | SkippedFile:
        try:
            if file.problem is not None:
                raise SkippedFile(file.path, "missing", file.problem)
            take = lambda seconds: room.take(number, seconds)  # noqa: E731
            return decode(file.path, rates, min_length_in_s, silence_in_db, take, several)
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
