"""Where in its piece a moment is (Jukebox, section 4.1): total length, time since the start, share that has passed.

Jukebox gives each window one set of three; here they are a stream of their own with a frame every two seconds, so that
each window of a long piece, wherever it begins, reads its own.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...given import as_number, shown
from ...models.streams import TokenStream
from .base import Attribute, UnknownRequest, frame_times

NUM_BINS = 64
#: lengths and times on a scale that is fine for short ones: second s falls into bin NUM_BINS · log(1 + s) / log(1 + 600)
LONGEST_IN_S = 600.0


class Timing(Attribute):
    """Total length, time since the start, and the share of the piece that has passed."""

    name = "timing"
    of_whole_piece = True
    takes = "the whole piece's length in seconds, or a pair: that length and where in it this one starts"

    def default_stream(self, **fields: Any) -> TokenStream:
        return TokenStream(
            **{
                "name": self.name,
                "codebook_size": NUM_BINS,
                "num_codebooks": 3,
                "frame_rate": 0.5,
                "pattern": "parallel",
                "optional": True,
                **fields,
            }
        )

    def from_request(self, request: Any, stream: TokenStream, duration_in_s: float) -> np.ndarray:
        parts: Any = (request, 0.0) if isinstance(request, numbers.Real) else request
        try:
            total, start = (as_number("a time", part, "a number of seconds") for part in parts)
        except (TypeError, ValueError):
            total = start = 0.0
        if not 0 <= start < total:
            raise UnknownRequest(f"`timing` takes {self.takes}, got {shown(request)}.")
        elapsed = start + frame_times(stream, duration_in_s)
        share = np.clip(elapsed / total, 0.0, 1.0)
        bins = stream.codebook_size
        ids = [
            np.full(len(elapsed), self._bin(np.array(total), bins)),
            self._bin(elapsed, bins),
            np.minimum(share * bins, bins - 1),
        ]
        return np.stack(ids, axis=1).astype(np.int64)

    def from_audio(
        self,
        waveform: np.ndarray,
        sampling_rate: int,
        stream: TokenStream,
        about: Mapping[str, Any] | None = None,
        least_confidence: float | None = None,
    ) -> np.ndarray:
        """A whole recording begins at its beginning and is as long as it is."""
        duration = len(waveform) / sampling_rate
        return self.from_request((duration, 0.0), stream, duration)

    @staticmethod
    def _bin(time: np.ndarray, num_bins: int) -> np.ndarray:
        return np.minimum(num_bins * np.log1p(time) / np.log1p(LONGEST_IN_S), num_bins - 1)
