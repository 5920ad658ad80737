"""Streams that say something about a piece: its melody, tempo, key, genre, artist, place in time, lyrics.

A stage lists such a stream among its conditions with `source` naming one of the objects below, and nothing else has to
change. Each makes ids from what a user asks for (`from_request`) and hears them in audio (`from_audio`), for training on
somebody's own music; where it is not sure it says `PADDING_ID`, which hides the stream from the stage.

    stream.source ── find_source ──→ melody | tempo | key | labels | timing | lyrics
"""

from __future__ import annotations

from .base import StreamSource, UnknownRequest
from .key import KeySource
from .labels import LabelSource
from .lyrics import LyricsSource
from .melody import MelodySource
from .tempo import TempoSource
from .timing import TimingSource

__all__ = ["StreamSource", "UnknownRequest", "find_source", "source_names"]

_SOURCES: dict[str, StreamSource] = {
    source.name: source
    for source in (
        MelodySource(),
        TempoSource(),
        KeySource(),
        LabelSource("genre"),
        LabelSource("artist"),
        TimingSource(),
        LyricsSource(),
    )
}


def source_names() -> tuple[str, ...]:
    """The names that a stream's `source` may have here."""
    return tuple(_SOURCES)


def find_source(name: str) -> StreamSource | None:
    """What makes streams of this source from a request, or `None`: networks make it (CLAP, the semantic encoder, the
    codec), or the user has to give ids."""
    return _SOURCES.get(name)
