"""Sound in and out of requests, in memory: no upload is looked for by a name, and none reaches the disk."""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Any

import numpy as np

from ..audio import encode_audio, read_audio_bytes
from ..pipelines.mixtures import Recording
from .limits import Limits

#: format → its media type, and libsndfile's names for it (none for bare samples)
FORMATS = {
    "wav": ("audio/wav", ("WAV", "PCM_16")),
    "flac": ("audio/flac", ("FLAC", "PCM_16")),
    "mp3": ("audio/mpeg", ("MP3", "MPEG_LAYER_III")),
    "ogg": ("audio/ogg", ("OGG", "VORBIS")),
    "opus": ("audio/ogg", ("OGG", "OPUS")),
    "pcm": ("audio/pcm", None),
}
#: those that can be sent while the sound is made
STREAMED = ("wav", "pcm")
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
#: of a recording that is sent
LEAST_RATE, MOST_RATE, MOST_CHANNELS = 4000, 192_000, 8


def check_format(name: str, sampling_rate: int, channels: int) -> None:
    """Refuse a format that there is not, or not for this model's sound.

    Raises:
        ValueError: it names those there are.
    """
    if name not in FORMATS:
        raise ValueError(f"`response_format` is one of {', '.join(FORMATS)}; got {name!r}.")
    rates = {"opus": OPUS_RATES, "mp3": MP3_RATES}.get(name)
    if (rates is not None and sampling_rate not in rates) or (name == "mp3" and channels > 2):
        raise ValueError(
            f"{name} does not take this model's {channels} channels at {sampling_rate} Hz; wav and flac do."
        )


def encode(audio: np.ndarray, sampling_rate: int, name: str, metadata: dict[str, Any] | None = None) -> bytes:
    """(channels, samples) floats as a file's bytes, with what it was made from in the comment where there is one."""
    _, written_as = FORMATS[name]
    if written_as is None:
        return pcm(audio)
    return encode_audio(audio, sampling_rate, *written_as, metadata=metadata)


def pcm(audio: np.ndarray) -> bytes:
    """(channels, samples) floats → 16 bits a sample, little-endian, interleaved; the same as a WAV holds."""
    return encode_audio(audio, 8000, "RAW", "PCM_16")  # bare samples have no rate


def wav_header(sampling_rate: int, channels: int, num_samples: int) -> bytes:
    """Of a WAV of 16 bits a sample that is sent while it is made."""
    size = 2 * channels * num_samples
    return struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, channels, sampling_rate, 2 * channels * sampling_rate, 2 * channels, 16,
        b"data", size,
    )  # fmt: skip


def recording_of(data: bytes, name: str, limits: Limits) -> Recording:
    """A recording of an upload's bytes.

    Raises:
        ValueError: it is too large, no sound, cut off, silent, or too long.
    """
    if len(data) > limits.upload_bytes:
        raise ValueError(f"`{name}` has {len(data)} bytes; up to {limits.upload_bytes} are taken.")
    read = read_audio_bytes(data, name, limits.duration_in_s)
    if not LEAST_RATE <= read.sampling_rate <= MOST_RATE or read.num_channels > MOST_CHANNELS:
        raise ValueError(
            f"`{name}` has {read.num_channels} channels at {read.sampling_rate} Hz; up to {MOST_CHANNELS} channels at "
            f"{LEAST_RATE} to {MOST_RATE} Hz are taken."
        )
    if read.length_in_s < 0.25:
        raise ValueError(f"`{name}` has {read.length_in_s:.2f} s, which are too few to go by.")
    return Recording(read.samples, read.sampling_rate)


def from_base64(text: str, name: str, limits: Limits) -> Recording:
    """A recording of a file's bytes in base64, with or without a `data:` address before them."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"`{name}` must be a sound file's bytes in base64.") from error
    return recording_of(data, name, limits)
