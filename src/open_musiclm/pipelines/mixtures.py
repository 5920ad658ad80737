"""Weighted mixtures of texts and recordings in CLAP's space: what a stage is conditioned on is a direction there.

    "0.7 * warm strings + 0.3 * file.wav"       on the command line
    [(0.7, "warm strings"), (0.3, audio)]       in Python: a weight each, negative ones lead away

MusicLM is conditioned on a text's embedding, in training on an audio's (section 3.3); both lie in one space, so what lies
between them can be asked for too. A recording's embedding is the mean of those of its 10 s windows, 1 s apart (section
4.1), brought to unit length like every mixture.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..audio import read_audio, resample
from ..given import as_number, shown
from ..tokenizers.clap import clap_audio_embeddings, clap_text_embeddings

WINDOW_STRIDE_IN_S = 1.0
#: rates of sound files, in Hz: below lies no music, above no converter
LOWEST_RATE, HIGHEST_RATE = 100, 4_000_000
_WEIGHT = re.compile(r"^([+-]?\s*\d+(?:\.\d+)?)\s*\*\s*(.+)$", re.DOTALL)
#: a sum's parts are separated by a plus or minus before a weight: " + 0.3 * "
_JOINT = re.compile(r"([+-])\s*(?=\d+(?:\.\d+)?\s*\*)")


@dataclass(frozen=True, eq=False)
class Recording:
    """Audio that comes in.

    Args:
        channels: (channels, samples) float32; (samples,) is taken too.
        sampling_rate: in Hz.
        may_be_silent: a part of a recording may be; a recording that is says nothing to go by.

    Raises:
        ValueError: no samples, numbers that are not finite, silence.
    """

    channels: np.ndarray
    sampling_rate: int
    may_be_silent: bool = False

    def __post_init__(self):
        try:
            channels = np.atleast_2d(np.asarray(self.channels, dtype=np.float32))
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"A recording must hold numbers, got {shown(self.channels)}.") from None
        if channels.ndim != 2 or not channels.size:
            raise ValueError(
                f"A recording must have samples, (samples,) or (channels, samples); got {channels.shape}."
            )
        if channels.shape[0] > max(channels.shape[1], 8):
            raise ValueError(
                f"A recording must be (channels, samples); got {channels.shape}, which looks like its transpose."
            )
        needed = f"a number of Hz from {LOWEST_RATE} to {HIGHEST_RATE}"
        rate = as_number(
            "A recording's sampling rate", self.sampling_rate, needed, lambda hz: LOWEST_RATE <= hz <= HIGHEST_RATE
        )
        object.__setattr__(self, "sampling_rate", int(rate))
        if not np.isfinite(channels).all():
            raise ValueError("A recording must hold finite numbers.")
        if not self.may_be_silent and not np.abs(channels).max() > 0:
            raise ValueError("The recording is silent: it says nothing to go by.")
        object.__setattr__(self, "channels", channels)

    @classmethod
    def read(cls, path: str | Path) -> Recording:
        """From a file."""
        return cls(*read_audio(path, mono=False))

    @property
    def waveform(self) -> np.ndarray:
        """Mono: (samples,)."""
        return self.channels.mean(axis=0)

    def part(self, start: int, stop: int) -> Recording:
        """Its samples from `start` to `stop`, which may be silent."""
        return Recording(self.channels[:, start:stop], self.sampling_rate, may_be_silent=True)

    @property
    def length_in_s(self) -> float:
        return self.channels.shape[1] / self.sampling_rate


Part = str | Recording


@dataclass(frozen=True)
class Mixture:
    """Parts and their weights."""

    parts: tuple[Part, ...]
    weights: tuple[float, ...]

    def __post_init__(self):
        if not isinstance(self.parts, list | tuple) or not isinstance(self.weights, list | tuple):
            raise ValueError(
                f"A mixture has a list of parts and one of weights, got {shown((self.parts, self.weights))}."
            )
        if not self.parts or len(self.parts) != len(self.weights):
            raise ValueError("A mixture needs parts, and a weight for each.")
        for part, weight in zip(self.parts, self.weights, strict=True):
            as_number("The weight of a mixture's part", weight, "a number other than 0", lambda number: number != 0)
            if not isinstance(part, str | Recording):
                raise ValueError(f"A mixture's parts are texts and recordings, got {shown(part)}.")
            if isinstance(part, str) and not part.strip():
                raise ValueError("A mixture has a part without a text.")


def parse_mixture(text: str, read_files: bool = True) -> Mixture | None:
    """ "0.7 * warm strings - 0.3 * file.wav"; `None` for a text without weights. A part that is a file is read, unless
    `read_files` is off: a text that came from elsewhere is no name of a file here.

    Raises:
        ValueError: a part without a weight.
    """
    pieces = _JOINT.split(text.strip())
    if not _WEIGHT.match(pieces[0] or "".join(pieces[1:3])):
        return None
    signs = [None, *pieces[1::2]]
    parts: list[Part] = []
    weights = []
    for sign, piece in zip(signs, pieces[::2], strict=True):
        if not piece.strip():
            continue  # before a leading sign
        found = _WEIGHT.match(piece.strip())
        if found is None:
            raise ValueError(
                f'Every part of a mixture has a weight, as in "0.3 * warm strings"; got {shown(piece.strip())}.'
            )
        weight = float(found.group(1).replace(" ", ""))
        weights.append(-weight if sign == "-" else weight)
        words = found.group(2).strip()
        parts.append(Recording.read(words) if read_files and _is_file(words) else words)
    return Mixture(tuple(parts), tuple(weights))


def _is_file(words: str) -> bool:
    try:
        return Path(words).is_file()
    except OSError:  # more letters than a file's name may have
        return False


def recording_embedding(clap, processor, recording: Recording) -> torch.Tensor:
    """Unit-length mean of the embeddings of 10 s windows, 1 s apart: (1, embedding_dim).

    A recording shorter than a window is repeated by the feature extractor, as CLAP was trained.
    """
    extractor = processor.feature_extractor
    rate, size = extractor.sampling_rate, extractor.nb_max_samples
    mono = resample(recording.waveform, recording.sampling_rate, rate)
    stride = round(WINDOW_STRIDE_IN_S * rate)
    starts = range(0, max(len(mono) - size, 0) + 1, stride)
    total: torch.Tensor | float = 0.0
    for start in starts:  # one at a time: an hour's windows would fill the memory
        total = total + clap_audio_embeddings(clap, processor, mono[None, start : start + size]).float()
    return torch.nn.functional.normalize(torch.as_tensor(total), dim=-1)


def mixture_embedding(clap, processor, mixture: Mixture) -> torch.Tensor:
    """The weighted sum of the parts' embeddings, brought to unit length: (1, embedding_dim).

    Raises:
        ValueError: parts that cancel one another.
    """
    total: torch.Tensor | float = 0.0
    for part, weight in zip(mixture.parts, mixture.weights, strict=True):
        if isinstance(part, str):
            embedding = clap_text_embeddings(clap, processor, [part]).float()
        else:
            embedding = recording_embedding(clap, processor, part)
        total = total + weight * embedding
    mixed = torch.as_tensor(total)
    if not float(mixed.norm()) > 1e-4:
        raise ValueError("The parts of this mixture cancel one another; nothing is left to be conditioned on.")
    return torch.nn.functional.normalize(mixed, dim=-1)
