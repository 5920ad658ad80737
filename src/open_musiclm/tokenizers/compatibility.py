"""Do these parts belong together? Sizes, frame rates and codebook fingerprints along the chain, refused by name."""

from __future__ import annotations

from typing import Any

from ..models.chain import stages_among, streams_of
from ..models.streams import TokenStream
from .fingerprints import check_fingerprints
from .sources import SOURCES, ClapSource, CodecSource, SemanticSource, stream_as_made


def _compare(what: str, field: str, value: Any, other: str, found: Any) -> None:
    if value != found:
        raise ValueError(
            f"{what} and {other} do not belong together: {field} is {value} for the one, {found} for the other."
        )


def check_components(components: dict[str, Any]) -> None:
    """Check a pipeline's components, by their names there; those that are `None` are passed over.

    Raises:
        ValueError: two components whose sizes, rates or codebooks differ; the message names both.
    """
    streams: dict[str, tuple[str, TokenStream]] = {}
    for stage_name, stage in stages_among(components).items():
        for stream in streams_of(stage):
            if stream.name in streams:
                other_name, other = streams[stream.name]
                check_streams(f"{other_name}'s stream {other.name!r}", other, f"{stage_name}'s", stream)
            if stream.name not in streams or streams[stream.name][1].codebook_fingerprint is None:
                streams[stream.name] = (stage_name, stream)

    clap, clap_quantizer = components.get("clap"), components.get("clap_quantizer")
    if clap is not None and clap_quantizer is not None:
        dims = clap.config.projection_dim, clap_quantizer.config.embedding_dim
        _compare("clap", "the embedding's size", dims[0], "clap_quantizer", dims[1])
    for stage_name, stream in streams.values():
        found = stream_as_made(stream, components)
        if found is not None:
            maker = ", ".join(SOURCES[str(stream.source)].codebook_parts)
            check_streams(f"{stage_name}'s stream {stream.name!r}", stream, maker, found)


def semantic_stream(quantizer) -> TokenStream:
    """The stream that a `SemanticQuantizer` makes."""
    return SemanticSource({"semantic_quantizer": quantizer}).stream("semantic")


def acoustic_stream(codec, name: str, first: int, num_codebooks: int) -> TokenStream:
    """The stream of the codec's codebooks `first` … `first + num_codebooks - 1`."""
    return CodecSource({"codec": codec}).stream(name, first, num_codebooks)


def clap_stream(quantizer) -> TokenStream:
    """The stream that a `ClapQuantizer` makes."""
    return ClapSource({"clap_quantizer": quantizer}).stream("clap")


def check_streams(what: str, stream: TokenStream, other: str, found: TokenStream) -> None:
    """Refuse two descriptions of one stream that differ in size, rate or (where both are known) fingerprint."""
    for field in ("codebook_size", "num_codebooks", "frame_rate", "num_edge_frames"):
        _compare(what, field, getattr(stream, field), other, getattr(found, field))
    if stream.vocabulary is not None and found.vocabulary is not None and stream.vocabulary != found.vocabulary:
        names = next(
            (
                f"id {place} is {one!r} for the one, {another!r} for the other"
                for place, (one, another) in enumerate(zip(stream.vocabulary, found.vocabulary, strict=False))
                if one != another
            ),
            "one has more names",
        )
        raise ValueError(f"{what} and {other} do not belong together: their names differ, {names}.")
    check_fingerprints(what, stream.codebook_fingerprint, other, found.codebook_fingerprint)
