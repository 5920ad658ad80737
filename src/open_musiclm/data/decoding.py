"""Reading audio files ahead of the computation, and saying why one cannot be used."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..audio import resample
from .discovery import AudioFile

#: a file whose loudest sample is below this is silent (-60 dB of full scale)
SILENCE_PEAK = 1e-3
#: samples (of all channels together) decoded at a time: a long file's channels never stand in memory as a whole, and
#: libsndfile, which fills up a hole in an Ogg file within one call, shows it between calls
BLOCK_SIZE = 1 << 14
#: a file that gives this much less than its header says has a hole, or breaks off
MAX_LOSS_IN_S = 0.1


class SkippedFile(Exception):
    """Why a file is left out.

    Args:
        reason: `"missing"`, `"empty"`, `"unreadable"`, `"not finite"`, `"too short"` or `"silent"`.
        detail: the same in a sentence.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class DecodedAudio:
    """One file as mono audio at every rate that is needed: `waveforms[rate]` (samples,) float32."""

    duration_in_s: float
    waveforms: dict[int, np.ndarray]


def read_mono(path: Path) -> tuple[np.ndarray, int]:
    """A file's channels averaged: (samples,) float32 and its sampling rate.

    Raises:
        SkippedFile: it is missing, empty, unreadable (wholly or in the middle), or holds NaN or infinity.
    """
    import soundfile

    blocks = []
    try:
        if path.is_dir():
            raise SkippedFile("unreadable", "a folder, not a file")
        if not path.is_file():
            raise SkippedFile("missing", "there is no such file")
        if path.stat().st_size == 0:
            raise SkippedFile("empty", "the file has no bytes")
        with soundfile.SoundFile(os.fsencode(path)) as file:  # as bytes: names need not be Unicode
            rate, expected = file.samplerate, file.frames
            num_frames = max(BLOCK_SIZE // file.channels, 1)
            while len(block := file.read(num_frames, dtype="float32", always_2d=True)):
                blocks.append(block.mean(axis=1))
            exact = file.format != "MP3"  # whose header may only guess its length
    except (soundfile.LibsndfileError, RuntimeError, TypeError, OSError) as error:
        # libsndfile calls some damaged files missing, so its own words come second
        message = " ".join(str(error).split()).replace(str(path), path.name)
        message = message.encode("utf-8", errors="replace").decode()
        raise SkippedFile("unreadable", f"not audio that can be decoded. {message}") from error
    audio = np.concatenate(blocks) if blocks else np.empty(0, dtype=np.float32)
    if exact and expected - len(audio) > MAX_LOSS_IN_S * rate:
        raise SkippedFile("unreadable", f"only {len(audio) / rate:.2f} of its {expected / rate:.2f} s can be decoded")
    if not len(audio):
        raise SkippedFile("empty", "the file holds no samples")
    if not np.isfinite(audio).all():
        raise SkippedFile("not finite", f"{int((~np.isfinite(audio)).sum())} samples are NaN or infinite")
    return audio, rate


def decode(path: Path, sampling_rates: Iterable[int], min_length_in_s: float) -> DecodedAudio:
    """Read a file and resample it to each of the rates, in Hz.

    Raises:
        SkippedFile: as `read_mono`, or it is shorter than `min_length_in_s`, or silent.
    """
    audio, rate = read_mono(path)
    duration = len(audio) / rate
    if duration < min_length_in_s:
        raise SkippedFile("too short", f"{duration:.3f} s, at least {min_length_in_s:g} s are needed")
    peak = float(np.abs(audio).max())
    if peak < SILENCE_PEAK:
        raise SkippedFile("silent", f"its loudest sample is {peak:.2g} of full scale")
    return DecodedAudio(duration, {target: resample(audio, rate, target) for target in sorted(set(sampling_rates))})


def decode_ahead(
    files: Iterable[AudioFile],
    sampling_rates: Iterable[int],
    min_length_in_s: float,
    num_threads: int = 2,
) -> Iterator[tuple[AudioFile, DecodedAudio | SkippedFile]]:
    """Decode files in threads while the caller computes, in their order, a few ahead of what is asked for.

    At most `num_threads` + 1 files are held, so memory does not grow with their number.
    """
    rates = tuple(sampling_rates)

    def attempt(file: AudioFile) -> DecodedAudio | SkippedFile:
        try:
            return decode(file.path, rates, min_length_in_s)
        except SkippedFile as skipped:
            return skipped

    pending: deque[tuple[AudioFile, Future]] = deque()
    with ThreadPoolExecutor(num_threads, thread_name_prefix="decode") as pool:
        try:
            for file in files:
                pending.append((file, pool.submit(attempt, file)))
                if len(pending) > num_threads:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            for _, future in pending:
                future.cancel()
