"""Streams that say something about a piece, read from audio and metadata while it is made into tokens.

    --streams melody,tempo,genre ── attribute_streams ──→ their descriptions ── hear ──→ ids of a file, a row a frame

A stream of a frame rate has a row a frame. One without has a row for the window that begins at each second, as the CLAP
tokens have, where it may change within a piece, and a single row where it holds for all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..models.streams import TokenStream, resolve_streams
from ..tokenizers.attributes import attribute_names, find_attribute

#: of the mono audio that is listened to, in Hz
ATTRIBUTE_RATE = 16_000
#: seconds between two windows that are listened to; those between them have what the nearest before them has
HEARD_EVERY_IN_S = 5
#: what stands for the names of all streams that the stages have
ALL = "all"
#: where a label's vocabulary comes from: the stage that has the stream, or the files' metadata
LABELS_FROM = ("stage", "files")


def attribute_streams(
    names: Sequence[str],
    stages: Iterable[Sequence[TokenStream]],
    pieces: Iterable[Mapping[str, Any]] = (),
    labels_from: str = "stage",
) -> list[TokenStream]:
    """The streams of these names: as a stage has them, else as a new one would.

    Args:
        names: of attributes, or `"all"` for those that any of the stages has.
        stages: streams of each stage.
        pieces: metadata of the files, of which the vocabularies of genre and artist are collected where no stage has
            the stream, or with `labels_from="files"`.

    Raises:
        ValueError: an unknown name, or a vocabulary that neither a stage nor the files give.
    """
    if labels_from not in LABELS_FROM:
        raise ValueError(f"Labels come from {' or '.join(LABELS_FROM)}, got {labels_from!r}.")
    there = {s.name: s for streams in stages for s in streams if find_attribute(str(s.source)) is not None}
    pieces, chosen = list(pieces), []
    for name in dict.fromkeys(there if list(names) == [ALL] else names):
        stream = there.get(name) or next((s for s in there.values() if s.source == name), None)
        attribute = find_attribute(str(stream.source) if stream is not None else name)
        if attribute is None:
            raise ValueError(
                f"There is no stream {name!r} that can be read from audio and metadata; there are "
                f"{', '.join(attribute_names())}."
            )
        if stream is not None and (stream.vocabulary is None or labels_from == "stage"):
            chosen.append(stream)
            continue
        try:
            vocabulary = attribute.vocabulary_of(pieces)
            fields = {"vocabulary": vocabulary} if vocabulary else {}
            chosen.append(attribute.default_stream(**fields))
        except ValueError as error:
            raise ValueError(
                f"The stream {name!r} needs names: no file has a {attribute.name} in its metadata, and no stage of the "
                "pipeline has the stream."
            ) from error
    return resolve_streams(chosen)


def check_confidences(confidences: Mapping[str, float], streams: Sequence[TokenStream]) -> None:
    """Refuse confidences of what is not heard, or out of range."""
    heard = [s.name for s in streams if _attribute(s).least_confidence is not None]
    for name, value in confidences.items():
        if name not in heard:
            raise ValueError(f"{name!r} is not heard with a confidence here; {', '.join(heard) or 'nothing'} is.")
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            raise ValueError(f"The confidence of {name} must be a number from 0 to 1, got {value!r}.")


def hear(
    stream: TokenStream,
    waveform: np.ndarray,
    about: Mapping[str, Any],
    window_in_s: float,
    least_confidence: float | None = None,
) -> np.ndarray:
    """Ids of a file, int64 (rows, codebooks); `PADDING_ID` where nothing is known or sure.

    Args:
        stream: see [`attribute_streams`].
        waveform: (samples,) at `ATTRIBUTE_RATE`.
        about: the file's metadata.
        window_in_s: length of the windows that a stream without a frame rate describes.
        least_confidence: see [`Attribute.from_audio`].
    """
    attribute = _attribute(stream)
    if stream.frame_rate is not None or attribute.of_whole_piece:
        return attribute.from_audio(waveform, ATTRIBUTE_RATE, stream, about, least_confidence)
    window = round(window_in_s * ATTRIBUTE_RATE)
    rows: list[np.ndarray] = []
    for second in range(max((len(waveform) - window) // ATTRIBUTE_RATE, 0) + 1):
        if second % HEARD_EVERY_IN_S:
            rows.append(rows[-1])
            continue
        start = second * ATTRIBUTE_RATE
        part = waveform[start : start + window]
        rows.append(attribute.from_audio(part, ATTRIBUTE_RATE, stream, about, least_confidence))
    return np.concatenate(rows)


def confidences_of(streams: Sequence[TokenStream], chosen: Mapping[str, float]) -> dict[str, float]:
    """The confidence from which on each stream is believed, of those that are heard, for a dataset's record."""
    own = {s.name: _attribute(s).least_confidence for s in streams}
    return {name: float(chosen.get(name, least)) for name, least in own.items() if least is not None}


def _attribute(stream: TokenStream) -> Any:
    return find_attribute(str(stream.source))
