"""Genre and artist: a vocabulary in the stream's description, one label or a mixture of two (Jukebox, section 4.1).

Jukebox (Dhariwal et al. 2020) adds the embeddings of a piece's artist and genres; two codebooks in the `parallel` pattern
do the same here: the second place is empty for a single label.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ...given import shown
from ...models.streams import PADDING_ID, TokenStream
from .base import Attribute, UnknownRequest

#: names that a vocabulary collected from metadata has at most
MOST_LABELS = 4096


class Label(Attribute):
    """Names from a list.

    Args:
        name: of the source, and of the field of a clip's metadata that holds the label.
    """

    takes = "a name, or two joined by '+'"
    of_whole_piece = True

    def __init__(self, name: str):
        self.name = name

    def default_stream(self, **fields: Any) -> TokenStream:
        vocabulary = fields.get("vocabulary")
        if not vocabulary:
            raise ValueError(f"A stream of the source {self.name!r} needs a `vocabulary`: the names that it knows.")
        return TokenStream(
            **{
                "name": self.name,
                "codebook_size": len(vocabulary),
                "num_codebooks": 2,
                "pattern": "parallel",
                "optional": True,
                **fields,
            }
        )

    def from_request(self, request: Any, stream: TokenStream, duration_in_s: float) -> np.ndarray:
        names = request.split("+") if isinstance(request, str) else request
        if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
            raise UnknownRequest(f"`{stream.name}` takes {self.takes}, got {shown(request)}.")
        if len(names) > stream.num_codebooks:
            raise UnknownRequest(
                f"`{stream.name}` takes up to {stream.num_codebooks} names, got {len(names)}: {shown(list(names))}."
            )
        ids = [self._id(name, stream) for name in names]
        return np.array([ids + [PADDING_ID] * (stream.num_codebooks - len(ids))], dtype=np.int64)

    def from_audio(
        self,
        waveform: np.ndarray,
        sampling_rate: int,
        stream: TokenStream,
        about: Mapping[str, Any] | None = None,
        least_confidence: float | None = None,
    ) -> np.ndarray:
        """What the clip's metadata says; a label outside the vocabulary says nothing."""
        names = labels_in(about or {}, self.name)
        known = [name for name in names if _plain(name) in _places(stream)][: stream.num_codebooks]
        if not known:
            return self.nothing(stream, len(waveform) / sampling_rate)
        return self.from_request(known, stream, len(waveform) / sampling_rate)

    def vocabulary_of(self, pieces: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
        """Their labels in the order of the alphabet, each as it is first written; of too many those on most pieces."""
        spelled: dict[str, str] = {}
        counts: Counter[str] = Counter()
        for about in pieces:
            for label in labels_in(about, self.name):
                spelled.setdefault(_plain(label), label)
                counts[_plain(label)] += 1
        kept = sorted(counts, key=lambda label: (-counts[label], label))[:MOST_LABELS]
        return tuple(spelled[label] for label in sorted(kept))

    def _id(self, name: str, stream: TokenStream) -> int:
        places = _places(stream)
        if _plain(name) not in places:
            near = difflib.get_close_matches(_plain(name), places, n=3, cutoff=0.0)
            known = ", ".join((stream.vocabulary or ())[places[match]] for match in near)
            raise UnknownRequest(
                f"This model knows no {stream.name} {shown(name.strip())}; the nearest it knows: {known[:200]}."
            )
        return places[_plain(name)]


def labels_in(about: Mapping[str, Any], name: str) -> list[str]:
    """The labels that a piece's metadata has under a name, whatever its case: a text with `+` between them, or a list."""
    label = next((value for key, value in about.items() if str(key).strip().casefold() == name), None)
    names = label.split("+") if isinstance(label, str) else label if isinstance(label, list | tuple) else []
    return [" ".join(name.split()) for name in names if isinstance(name, str) and name.strip()]


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())


def _places(stream: TokenStream) -> dict[str, int]:
    return {_plain(name): place for place, name in enumerate(stream.vocabulary or ())}
