"""Beats a minute as one id: tempos on a logarithmic scale, so that a step is the same share everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...evaluation.metrics.tempo import MAX_TEMPO, MIN_TEMPO, tempo_and_strength
from ...given import as_number, shown
from ...models.streams import TokenStream
from .base import Attribute, UnknownRequest

#: ids from 40 to 240 beats a minute: a step is 4.1 %, about what a listener notices
NUM_TEMPOS = 45


class Tempo(Attribute):
    """A tempo in beats a minute."""

    name = "tempo"
    takes = f"beats a minute, {MIN_TEMPO:g} to {MAX_TEMPO:g}"
    #: autocorrelation of the onsets at the beat, against that at no lag
    least_confidence = 0.15

    def default_stream(self, **fields: Any) -> TokenStream:
        return TokenStream(**{"name": self.name, "codebook_size": NUM_TEMPOS, "optional": True, **fields})

    def from_request(self, request: Any, stream: TokenStream, duration_in_s: float) -> np.ndarray:
        return np.full((1, 1), self._id(self.read(request), stream), dtype=np.int64)

    def read(self, request: Any) -> float:
        """Beats a minute of what a user asks for, a number or a text like "120 bpm".

        Raises:
            UnknownRequest: it is no tempo here.
        """
        try:
            given = float(request.lower().removesuffix("bpm")) if isinstance(request, str) else request
            return as_number("a tempo", given, "in range", lambda tempo: MIN_TEMPO <= tempo <= MAX_TEMPO)
        except ValueError:
            raise UnknownRequest(f"`tempo` takes {self.takes}, got {shown(request)}.") from None

    def from_audio(
        self,
        waveform: np.ndarray,
        sampling_rate: int,
        stream: TokenStream,
        about: Mapping[str, Any] | None = None,
        least_confidence: float | None = None,
    ) -> np.ndarray:
        found = tempo_and_strength(waveform, sampling_rate)
        least = self.least_confidence if least_confidence is None else least_confidence
        if found is None or found[1] < least or not MIN_TEMPO <= found[0] <= MAX_TEMPO:
            return self.nothing(stream, len(waveform) / sampling_rate)
        return np.full((1, 1), self._id(found[0], stream), dtype=np.int64)

    @staticmethod
    def _id(tempo: float, stream: TokenStream) -> int:
        return round(math.log(tempo / MIN_TEMPO) / math.log(MAX_TEMPO / MIN_TEMPO) * (stream.codebook_size - 1))

    @staticmethod
    def tempo_of(token_id: int, stream: TokenStream) -> float:
        """Beats a minute in the middle of an id's range."""
        return MIN_TEMPO * (MAX_TEMPO / MIN_TEMPO) ** (token_id / (stream.codebook_size - 1))
