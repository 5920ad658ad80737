"""The kinds that libsndfile does not read (AAC, Opus and Vorbis in MP4 or WebM, Windows Media, …), with PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .containers import Incomplete, NotAudio

#: how much less than it says a container may give: encoders count what they add in front and behind
MAX_LOSS_IN_S = 0.25
INSTALL = "pip install open-musiclm[audio]"


class NoReader(ImportError):
    """PyAV is not installed."""


def read_blocks(path: Path) -> tuple[int, Iterator[np.ndarray]]:
    """The sampling rate, and (samples, channels) float32 blocks of the first audio stream.

    Raises:
        NoReader: PyAV is not installed.
        Incomplete: the file cannot be decoded, or, while the blocks are read, gives less than it says.
    """
    try:
        import av
    except ImportError as error:
        raise NoReader(f"reading it needs PyAV: {INSTALL}") from error
    av.logging.set_level(av.logging.PANIC)  # what is wrong is said once, with the file's name
    with _opened(path) as container:
        if not container.streams.audio:
            raise NotAudio("it has no sound, only pictures")
        rate = container.streams.audio[0].codec_context.sample_rate
    if not rate:
        raise NotAudio("not audio that can be decoded: no sampling rate")
    return rate, _decode(path, rate)


@contextmanager
def _opened(path: Path):
    import av

    with open(path, "rb") as file:  # not by its name, which need not be Unicode
        try:
            container = av.open(file, options={"err_detect": "explode"})
        except (av.FFmpegError, ValueError) as error:
            raise NotAudio(f"not audio that can be decoded. {_told(error)}") from error
        with container:
            yield container


def _decode(path: Path, rate: int) -> Iterator[np.ndarray]:
    with _opened(path) as container:
        yield from _decode_stream(container, container.streams.audio[0], rate)


def _decode_stream(container, stream, rate: int) -> Iterator[np.ndarray]:
    import av

    expected = 0.0
    if container.format.name in ("aac", "mp3"):  # frames alone, whose length is a guess
        pass
    elif stream.duration is not None:
        expected = float(stream.duration * stream.time_base)
    elif container.duration is not None:
        expected = container.duration / 1_000_000
    to_float = av.AudioResampler(format="fltp", rate=rate)
    num_samples = 0
    try:
        for frame in container.decode(stream):
            if frame.sample_rate != rate:
                raise Incomplete(f"its rate changes from {rate} to {frame.sample_rate} Hz")
            for converted in to_float.resample(frame):
                num_samples += converted.samples
                yield converted.to_ndarray().T
    except av.FFmpegError as error:
        raise Incomplete(f"damaged after {num_samples / rate:.2f} s. {_told(error)}") from error
    if expected - num_samples / rate > MAX_LOSS_IN_S:
        raise Incomplete(f"only {num_samples / rate:.2f} of its {expected:.2f} s can be decoded")


def _told(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).splitlines()[0]
