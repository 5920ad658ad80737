"""Lyrics as characters over time: each frame holds the one being sung, or none (Jukebox, section 4.2, made discrete).

Jukebox hands each window the characters near it and learns to find its place; here the place is given. Lines without
times are spread evenly over the piece, which is Jukebox's own guess of where a window's lyrics are.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ...given import lies_in, shown
from ...models.streams import TokenStream
from .base import Attribute, UnknownRequest, frame_times

#: of a line's times, in seconds: a day
LONGEST_IN_S = 86_400.0
VOWELS = ("a", "e", "i", "o", "u")


class Lyrics(Attribute):
    """Characters of the stream's vocabulary; the id behind the last one is silence."""

    name = "lyrics"
    takes = "a text, or a list of (start, stop, text) in seconds"
    of_whole_piece = True

    def default_stream(self, **fields: Any) -> TokenStream:
        vocabulary = tuple(fields.pop("vocabulary", VOWELS))
        return TokenStream(
            **{
                "name": self.name,
                "codebook_size": len(vocabulary) + 1,
                "frame_rate": 12.5,
                "optional": True,
                "vocabulary": vocabulary,
                **fields,
            }
        )

    def from_request(self, request: Any, stream: TokenStream, duration_in_s: float) -> np.ndarray:
        times = frame_times(stream, duration_in_s)
        ids = np.full(len(times), len(stream.vocabulary or ()), dtype=np.int64)
        for start, stop, text in self._lines(request, duration_in_s):
            sung = self._ids(text, stream)
            inside = np.flatnonzero((times >= start) & (times < stop))
            if sung and len(inside):
                place = ((times[inside] - start) / (stop - start) * len(sung)).astype(int)
                ids[inside] = np.array(sung)[np.minimum(place, len(sung) - 1)]
        return ids[:, None]

    def from_audio(
        self,
        waveform: np.ndarray,
        sampling_rate: int,
        stream: TokenStream,
        about: Mapping[str, Any] | None = None,
        least_confidence: float | None = None,
    ) -> np.ndarray:
        """The clip's `lyrics`, where its metadata has them: nothing here hears words."""
        duration = len(waveform) / sampling_rate
        lyrics = (about or {}).get(self.name)
        if not isinstance(lyrics, str | list | tuple) or not lyrics:
            return self.nothing(stream, duration)
        try:
            return self.from_request(lyrics, stream, duration)
        except UnknownRequest:
            return self.nothing(stream, duration)

    def vocabulary_of(self, pieces: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
        """The letters of their lyrics."""
        letters: set[str] = set()
        for about in pieces:
            lyrics = about.get(self.name)
            lines = [lyrics] if isinstance(lyrics, str) else [line[-1] for line in lyrics or () if line]
            letters.update(*(_letters(line) for line in lines if isinstance(line, str)))
        return tuple(sorted(letters))

    def _lines(self, request: Any, duration_in_s: float) -> list[tuple[float, float, str]]:
        if isinstance(request, str):
            return [(0.0, duration_in_s, request)]
        lines = list(request) if isinstance(request, Sequence) else []
        for line in lines:
            if (
                not isinstance(line, tuple | list)
                or len(line) != 3
                or not all(lies_in(time, 0.0, LONGEST_IN_S) for time in line[:2])
                or not line[0] < line[1]
                or not isinstance(line[2], str)
            ):
                raise UnknownRequest(f"`lyrics` takes {self.takes}, got the line {shown(line)}.")
        if not lines or any(a[1] > b[0] for a, b in itertools.pairwise(lines)):
            raise UnknownRequest(f"`lyrics` takes {self.takes}, one after another, got {shown(request)}.")
        return [(float(start), float(stop), text) for start, stop, text in lines]

    def _ids(self, text: str, stream: TokenStream) -> list[int]:
        places = {character: place for place, character in enumerate(stream.vocabulary or ())}
        letters = _letters(text)
        known = [places[character] for character in letters if character in places]
        if letters and not known:
            raise UnknownRequest(
                f"`lyrics`: none of the letters of {shown(text)} is in this model's alphabet, {shown(''.join(places))}."
            )
        return known


def _letters(text: str) -> list[str]:
    """Its letters, small and without accents."""
    plain = (c for c in unicodedata.normalize("NFD", text.casefold()) if not unicodedata.combining(c))
    return [character for character in plain if character.isalpha()]
