"""Do these parts belong together? Sizes, frame rates and codebook fingerprints along the chain, refused by name."""

from __future__ import annotations

from typing import Any

from ..models.streams import TokenStream
from .fingerprints import check_fingerprints, codec_fingerprint
from .networks import codec_bandwidth, codec_frame_rate


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
    stages = {name: components.get(name) for name in ("semantic_model", "coarse_model", "fine_model")}
    streams: dict[str, tuple[str, TokenStream]] = {}
    for stage_name, stage in stages.items():
        if stage is None:
            continue
        for stream in stage.config.token_streams:
            if stream.name in streams:
                other_name, other = streams[stream.name]
                check_streams(f"{other_name}'s stream {other.name!r}", other, f"{stage_name}'s", stream)
            if stream.name not in streams or streams[stream.name][1].codebook_fingerprint is None:
                streams[stream.name] = (stage_name, stream)

    clap, clap_quantizer = components.get("clap"), components.get("clap_quantizer")
    if clap is not None and clap_quantizer is not None:
        dims = clap.config.projection_dim, clap_quantizer.config.embedding_dim
        _compare("clap", "the embedding's size", dims[0], "clap_quantizer", dims[1])
    if clap_quantizer is not None and "clap" in streams:
        stage_name, stream = streams["clap"]
        check_streams(f"{stage_name}'s stream 'clap'", stream, "clap_quantizer", clap_stream(clap_quantizer))

    quantizer = components.get("semantic_quantizer")
    if quantizer is not None and "semantic" in streams:
        stage_name, stream = streams["semantic"]
        check_streams(f"{stage_name}'s stream 'semantic'", stream, "semantic_quantizer", semantic_stream(quantizer))

    codec = components.get("codec")
    if codec is not None:
        first = 0
        for name in ("coarse", "fine"):
            if name in streams:
                stage_name, stream = streams[name]
                found = acoustic_stream(codec, name, first, stream.num_codebooks)
                check_streams(f"{stage_name}'s stream {name!r}", stream, "codec", found)
                first += stream.num_codebooks
        codec_bandwidth(codec, max(first, 1))


def semantic_stream(quantizer) -> TokenStream:
    """The stream that a `SemanticQuantizer` makes."""
    config = quantizer.config
    return TokenStream(
        "semantic",
        config.codebook_size,
        1,
        float(config.frame_rate),
        config.num_edge_frames,
        quantizer.fingerprint,
        "semantic",
        first_codebook=0,
    )


def acoustic_stream(codec, name: str, first: int, num_codebooks: int) -> TokenStream:
    """The stream of the codec's codebooks `first` … `first + num_codebooks - 1`."""
    fingerprint = codec_fingerprint(codec, first, first + num_codebooks)
    return TokenStream(
        name, codec.config.codebook_size, num_codebooks, codec_frame_rate(codec), 0, fingerprint, "codec", first
    )


def clap_stream(quantizer) -> TokenStream:
    """The stream that a `ClapQuantizer` makes."""
    config = quantizer.config
    return TokenStream(
        "clap", config.codebook_size, config.num_quantizers, None, 0, quantizer.fingerprint, "clap", first_codebook=0
    )


def check_streams(what: str, stream: TokenStream, other: str, found: TokenStream) -> None:
    """Refuse two descriptions of one stream that differ in size, rate or (where both are known) fingerprint."""
    for field in ("codebook_size", "num_codebooks", "frame_rate", "num_edge_frames"):
        _compare(what, field, getattr(stream, field), other, getattr(found, field))
    check_fingerprints(what, stream.codebook_fingerprint, other, found.codebook_fingerprint)
