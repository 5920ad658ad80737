"""The one reader of audio files: whole, or refused with the reason."""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .containers import Container, Incomplete, NotAudio, inspect
from .resampling import resample

#: endings of files that are audio: the first are read with libsndfile, the others with PyAV
SOUNDFILE_ENDINGS = (
    ".wav", ".wave", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au", ".w64", ".rf64", ".caf",
)  # fmt: skip
AV_ENDINGS = (
    ".m4a", ".m4b", ".mp4", ".aac", ".wma", ".webm", ".weba", ".mka", ".mp2", ".wv", ".ape", ".tta", ".mpc",
)  # fmt: skip
AUDIO_ENDINGS = SOUNDFILE_ENDINGS + AV_ENDINGS
#: samples (of all channels together) decoded at a time: a long file's channels never stand in memory as a whole, and
#: libsndfile, which fills up a hole in an Ogg file within one call, shows it between calls
BLOCK_SIZE = 1 << 14
#: more than full scale by this is no music: a file of floats that were never brought to [-1, 1]
MAX_PEAK = 10.0
#: an average of channels that is this much quieter than they are has lost the music
CANCELLED = 10 ** (-40 / 20)


class SkippedFile(ValueError):
    """Why a file cannot be used.

    Args:
        path: the file.
        reason: one or two words: `"missing"`, `"empty"`, `"unreadable"`, `"incomplete"`, `"needs PyAV"`,
            `"not finite"`, `"too loud"`, `"channels cancel"`, and where there are such limits `"too short"`, `"too long"`, `"silent"`.
        detail: the same in a sentence.
    """

    def __init__(self, path: str | os.PathLike, reason: str, detail: str):
        name = os.fsencode(path).decode("utf-8", errors="replace")
        detail = detail.rstrip(".")
        super().__init__(f"{name!r} cannot be used ({reason}): {detail}.")
        self.path, self.reason, self.detail = Path(path), reason, detail

    def __reduce__(self):  # it crosses processes
        return SkippedFile, (self.path, self.reason, self.detail)


@dataclass(frozen=True)
class Recording:
    """A file's samples.

    Args:
        samples: (channels, samples) float32; one channel if they were averaged.
        sampling_rate: Hz.
        num_channels: of the file.
        loudest_channel: the largest magnitude in any channel.
    """

    samples: np.ndarray
    sampling_rate: int
    num_channels: int
    loudest_channel: float

    @property
    def length_in_s(self) -> float:
        return self.samples.shape[1] / self.sampling_rate


def read_audio(path: str | os.PathLike, sampling_rate: int | None = None, mono: bool = True) -> tuple[np.ndarray, int]:
    """Read an audio file whole: WAV, FLAC, MP3, OGG and more, and with PyAV M4A, AAC, WebM, Windows Media.

    Args:
        sampling_rate: resample to this rate, in Hz; by default keep the file's.
        mono: average the channels.

    Returns:
        (channels, samples) float32 and the sampling rate.

    Raises:
        SkippedFile: a `ValueError` that names the file and says why it cannot be read: it is missing, empty, not audio,
            cut off, has a hole, holds NaN, is far beyond full scale, or its channels cancel each other.
    """
    recording = read_recording(path, mono)
    audio, rate = recording.samples, recording.sampling_rate
    if sampling_rate is not None:
        audio, rate = resample(audio, rate, sampling_rate), sampling_rate
    return np.ascontiguousarray(audio), rate


def read_recording(
    path: str | os.PathLike, mono: bool = True, on_block: Callable[[float], None] | None = None
) -> Recording:
    """As `read_audio`, at the file's own rate.

    Args:
        on_block: told the seconds of each block that was decoded; may wait.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise SkippedFile(path, "unreadable", "a folder, not a file")
        if not path.is_file():
            raise SkippedFile(path, "missing", "there is no such file")
        if path.stat().st_size == 0:
            raise SkippedFile(path, "empty", "the file has no bytes")
        return _checked(path, _read_blocks(path, lambda: _open(path), mono, on_block), mono)
    except OSError as error:
        raise SkippedFile(path, "unreadable", error.strerror or "it cannot be opened") from error


def read_audio_bytes(data: bytes, name: str = "the upload", longest_in_s: float = float("inf")) -> Recording:
    """A recording of a file's bytes, all channels, by libsndfile in memory: whole, or refused as a file is.

    Args:
        name: what messages call it; nothing is looked for under it.
        longest_in_s: refuse more, before it is decoded.

    Raises:
        SkippedFile: as [`read_audio`]; `"too long"`.
    """
    path, decoded_in_s = Path(name), 0.0

    def on_block(seconds: float) -> None:
        nonlocal decoded_in_s
        decoded_in_s += seconds
        if decoded_in_s > longest_in_s:
            raise SkippedFile(path, "too long", f"it has more than {longest_in_s:g} s")

    def opened() -> tuple[int, Iterator[np.ndarray]]:
        container = inspect(data)
        if container.reader == "av":
            raise SkippedFile(path, "unreadable", f"{container.kind} is not taken here; send WAV, FLAC, OGG or MP3")
        parts = [io.BytesIO(part.head + data[part.start : part.stop]) for part in container.parts]
        try:
            return _with_soundfile(path, container, parts or [io.BytesIO(data)])
        except _CannotOpen as error:
            raise NotAudio(f"not audio that can be decoded. {error}") from error

    if not data:
        raise SkippedFile(path, "empty", "it has no bytes")
    return _checked(path, _read_blocks(path, opened, False, on_block), False)


def _checked(path: Path, read: tuple[list[np.ndarray], int, float, float, int], mono: bool) -> Recording:
    """What was read, unless it is no music: see [`read_audio`]."""
    blocks, rate, peak, power, num_channels = read
    if not blocks:
        raise SkippedFile(path, "empty", "the file holds no samples")
    audio = np.concatenate(blocks)
    blocks.clear()
    if not np.isfinite(peak):
        broken = int((~np.isfinite(audio)).reshape(len(audio), -1).any(axis=1).sum())
        raise SkippedFile(path, "not finite", f"{broken} samples are NaN or infinite")
    if peak > MAX_PEAK:
        raise SkippedFile(path, "too loud", f"its samples reach {peak:.3g} where full scale is 1: scale it to [-1, 1]")
    if mono and num_channels > 1:
        _check_average(path, audio, power / len(audio))
    samples = audio[None] if mono else np.ascontiguousarray(audio.T)
    return Recording(samples, rate, num_channels, peak)


def check_channels(path: Path, average: np.ndarray, channels: np.ndarray) -> None:
    """Refuse a file whose channels cancel each other: `average` (samples,) of `channels` (channels, samples)."""
    if len(channels) > 1:
        _check_average(path, average, float(np.square(channels, dtype=np.float64).mean()))


def _check_average(path: Path, average: np.ndarray, power: float) -> None:
    left = np.sqrt(np.square(average, dtype=np.float64).mean())
    if power > 0 and left < CANCELLED * np.sqrt(power):
        detail = "its channels are each other's opposites, so that their average is silent; invert one of them"
        raise SkippedFile(path, "channels cancel", detail)


def _read_blocks(
    path: Path, open_it: Callable, mono: bool, on_block
) -> tuple[list[np.ndarray], int, float, float, int]:
    """Blocks, (samples,) if mono else (samples, channels); the rate; the peak, and the sum of the channels' mean power."""
    blocks: list[np.ndarray] = []
    peak = power = 0.0
    num_channels = 0
    try:
        rate, decoded = open_it()
        for block in decoded:
            if not len(block):
                continue
            if num_channels not in (0, block.shape[1]):
                raise Incomplete(f"its number of channels changes from {num_channels} to {block.shape[1]}")
            num_channels = block.shape[1]
            with np.errstate(invalid="ignore", over="ignore"):
                peak = float(np.max([peak, block.max(), -block.min()]))  # NaN stays
                power += float(np.vdot(block, block)) / num_channels
                blocks.append(block.mean(axis=1) if mono else block)
            if on_block is not None:
                on_block(len(block) / rate)
    except Incomplete as error:
        reason = "unreadable" if isinstance(error, NotAudio) else "incomplete"
        raise SkippedFile(path, reason, str(error)) from error
    return blocks, rate, peak, power, num_channels


def _open(path: Path) -> tuple[int, Iterator[np.ndarray]]:
    """The sampling rate and the blocks of a file, (samples, channels) float32."""
    from .with_av import INSTALL, NoReader, read_blocks

    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        container = inspect(data)
        parts = [(part.head + data[part.start : part.stop]) for part in container.parts]
    if container.reader is None and path.suffix.lower() in (".mp3", *AV_ENDINGS):
        raise NotAudio("not audio that can be decoded: nothing in it is known")
    if container.reader != "av":
        try:
            return _with_soundfile(path, container, [io.BytesIO(part) for part in parts] or [path])
        except _CannotOpen as error:
            if container.missing_share:
                raise Incomplete("it breaks off: its header promises more than there is") from error
            try:  # libsndfile does not know the codec in it
                if container.reader is not None:
                    return read_blocks(path)
            except (NoReader, Incomplete):
                pass
            raise NotAudio(f"not audio that can be decoded. {error}") from error
    try:
        return read_blocks(path)
    except NoReader as error:
        raise SkippedFile(path, "needs PyAV", f"{container.kind} is read with PyAV: {INSTALL}") from error


class _CannotOpen(Exception):
    """libsndfile does not know a file's kind or codec."""


def _with_soundfile(path: Path, container: Container, sources: list) -> tuple[int, Iterator[np.ndarray]]:
    import soundfile

    def opened(source) -> soundfile.SoundFile:
        try:  # as bytes: names need not be Unicode
            return soundfile.SoundFile(os.fsencode(source) if isinstance(source, Path) else source)
        except (soundfile.LibsndfileError, RuntimeError, TypeError) as error:
            raise _CannotOpen(_told(error)) from error

    with opened(sources[0]) as file:
        rate = file.samplerate

    def blocks() -> Iterator[np.ndarray]:
        for source in sources:
            if not isinstance(source, Path):
                source.seek(0)
            try:
                with opened(source) as file:
                    yield from _blocks_of(file, rate, container)
            except _CannotOpen as error:
                raise Incomplete(f"damaged: a part of it cannot be decoded. {error}") from error
            except (soundfile.LibsndfileError, RuntimeError) as error:
                raise Incomplete(f"damaged. {_told(error)}") from error

    return rate, blocks()


def _blocks_of(file, rate: int, container: Container) -> Iterator[np.ndarray]:
    if file.samplerate != rate:
        raise Incomplete(f"its rate changes from {rate} to {file.samplerate} Hz: separate its parts")
    num_frames, num_read = max(BLOCK_SIZE // file.channels, 1), 0
    while len(block := file.read(num_frames, dtype="float32", always_2d=True)):
        num_read += len(block)
        yield block
    missing = (file.frames - num_read) / rate
    promised = file.frames / rate
    if container.missing_share:
        missing = num_read / rate * container.missing_share
        promised = num_read / rate + missing
    if missing > container.max_loss_in_s:
        raise Incomplete(
            f"only {num_read / rate:.2f} of its {promised:.2f} s can be decoded: it breaks off or has a hole"
        )


def _told(error: Exception) -> str:
    """What libsndfile says, without the file's name; it calls some damaged files missing, so its words come second."""
    return " ".join(str(getattr(error, "error_string", error)).split())
