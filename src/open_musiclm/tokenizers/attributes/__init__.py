"""Streams that say something about a piece: its melody, tempo, key, genre, artist, place in time, lyrics.

A stage lists such a stream among its conditions with `source` naming one of the objects below, and nothing else has to
change. Each makes ids from what a user asks for (`from_request`) and hears them in audio (`from_audio`), for training on
somebody's own music; where it is not sure it says `PADDING_ID`, which hides the stream from the stage.

    stream.source ── find_attribute ──→ melody | tempo | key | labels | timing | lyrics
"""

from __future__ import annotations

from .base import Attribute, UnknownRequest
from .key import KeyAttribute
from .labels import Label
from .lyrics import Lyrics
from .melody import Melody
from .tempo import Tempo
from .timing import Timing

__all__ = ["Attribute", "UnknownRequest", "attribute_names", "find_attribute"]

_ATTRIBUTES: dict[str, Attribute] = {
    attribute.name: attribute
    for attribute in (
        Melody(),
        Tempo(),
        KeyAttribute(),
        Label("genre"),
        Label("artist"),
        Timing(),
        Lyrics(),
    )
}


def attribute_names() -> tuple[str, ...]:
    """The names that a stream's `source` may have here."""
    return tuple(_ATTRIBUTES)


def find_attribute(name: str) -> Attribute | None:
    """What makes streams of this source from a request, or `None`: networks make it (CLAP, the semantic encoder, the
    codec), or the user has to give ids."""
    return _ATTRIBUTES.get(name)
