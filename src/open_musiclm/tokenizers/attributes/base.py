"""What every attribute can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from ...models.streams import PADDING_ID, TokenStream


class UnknownRequest(ValueError):
    """What was asked for cannot be said in the stream's tokens."""


class Attribute(ABC):
    """Something that can be said about a piece. It makes the ids of streams whose `source` is its name.

    Ids are int64 (frames, num_codebooks), one frame for a stream without a frame rate; `PADDING_ID` says nothing.
    """

    name: str
    #: what `from_request` takes, for messages and `--help`
    takes: ClassVar[str]
    #: confidence, from 0 to 1, from which on what is heard is believed; `None` for what is known, not heard
    least_confidence: ClassVar[float | None] = None
    #: whether it holds for a whole piece; else each window of one is heard by itself
    of_whole_piece: ClassVar[bool] = False
    #: whether a text is the name of a file that is read
    reads_files: ClassVar[bool] = False

    @abstractmethod
    def default_stream(self, **fields: Any) -> TokenStream:
        """The stream as a new model would have it; `fields` replace those of [`TokenStream`]."""

    @abstractmethod
    def from_request(self, request: Any, stream: TokenStream, duration_in_s: float) -> np.ndarray:
        """Ids of what a user asks for, over a piece of `duration_in_s`.

        Raises:
            UnknownRequest: it has no id here; the message says what would have.
        """

    def from_audio(
        self,
        waveform: np.ndarray,
        sampling_rate: int,
        stream: TokenStream,
        about: Mapping[str, Any] | None = None,
        least_confidence: float | None = None,
    ) -> np.ndarray:
        """Ids of what can be heard in a mono waveform (samples,), or is known `about` it; padding where unsure.

        Args:
            about: what is known about the piece, by name (its title, genre, lyrics, …).
            least_confidence: from which on what is heard is believed, by default the class's own.
        """
        return self.nothing(stream, len(waveform) / sampling_rate)

    def vocabulary_of(self, pieces: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
        """What a new stream's ids could stand for, from the metadata of many pieces; empty where nothing does."""
        return ()

    @staticmethod
    def nothing(stream: TokenStream, duration_in_s: float) -> np.ndarray:
        """A stream that says nothing: hidden from the stage."""
        return np.full((num_frames(stream, duration_in_s), stream.num_codebooks), PADDING_ID, dtype=np.int64)


def num_frames(stream: TokenStream, duration_in_s: float) -> int:
    """Frames of a stream over a piece; a frame that has begun counts."""
    if stream.frame_rate is None:
        return 1
    return max(int(np.ceil(round(duration_in_s * stream.frame_rate, 6))) - stream.num_edge_frames, 1)


def frame_times(stream: TokenStream, duration_in_s: float) -> np.ndarray:
    """The middle of each frame, in seconds (frames,)."""
    if stream.frame_rate is None:
        return np.array([duration_in_s / 2])
    return (np.arange(num_frames(stream, duration_in_s)) + 0.5) / stream.frame_rate
