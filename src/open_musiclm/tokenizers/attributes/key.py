"""A key as one id: the tonic, and 12 more for a minor key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...evaluation.metrics.chroma import NUM_CHROMA, Key, key_scores, mean_chroma, parse_key
from ...given import shown
from ...models.streams import TokenStream
from .base import Attribute, UnknownRequest

#: standard deviation of the chroma over its mean, from which on there are notes rather than noise
LEAST_CONTRAST = 0.15


class KeyAttribute(Attribute):
    """One of 24 keys."""

    name = "key"
    takes = 'a key like "A minor", "F# major" or "Bbm"'
    #: how far the best key's correlation stands above the next one's
    least_confidence = 0.05

    def default_stream(self, **fields: Any) -> TokenStream:
        return TokenStream(**{"name": self.name, "codebook_size": 2 * NUM_CHROMA, "optional": True, **fields})

    def from_request(self, request: Any, stream: TokenStream, duration_in_s: float) -> np.ndarray:
        key = request if isinstance(request, Key) else parse_key(request) if isinstance(request, str) else None
        if key is None:
            raise UnknownRequest(f"`key` takes {self.takes}, got {shown(request)}.")
        return np.full((1, 1), self._id(key), dtype=np.int64)

    def from_audio(
        self,
        waveform: np.ndarray,
        sampling_rate: int,
        stream: TokenStream,
        about: Mapping[str, Any] | None = None,
        least_confidence: float | None = None,
    ) -> np.ndarray:
        chroma = mean_chroma(waveform, sampling_rate)
        if not chroma.std() > LEAST_CONTRAST * chroma.mean():
            return self.nothing(stream, len(waveform) / sampling_rate)
        scores = key_scores(chroma)
        best, second = sorted(scores, key=lambda key: -scores[key])[:2]
        least = self.least_confidence if least_confidence is None else least_confidence
        if scores[best] - scores[second] < least:
            return self.nothing(stream, len(waveform) / sampling_rate)
        return np.full((1, 1), self._id(best), dtype=np.int64)

    @staticmethod
    def _id(key: Key) -> int:
        return key.tonic + NUM_CHROMA * (key.mode == "minor")

    @staticmethod
    def key_of(token_id: int) -> Key:
        """The key that an id stands for."""
        return Key(token_id % NUM_CHROMA, "minor" if token_id >= NUM_CHROMA else "major")
