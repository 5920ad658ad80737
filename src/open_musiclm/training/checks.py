"""Do tokens, stage and pipeline belong together? Asked before the first step, not after days of a stuck loss."""

from __future__ import annotations

from typing import Any

from ..data.records import TokenRecord
from ..models.configuration import MusicLMStageConfig
from ..models.streams import TokenStream
from ..tokenizers.compatibility import acoustic_stream, check_streams, clap_stream, semantic_stream


def check_tokens(
    record: TokenRecord,
    stage: MusicLMStageConfig,
    components: dict[str, Any] | None = None,
    tokens_name: str = "the token dataset",
    stage_name: str = "the stage",
) -> list[str]:
    """Refuse tokens that a stage (or the pipeline it goes into) does not understand.

    Args:
        record: of the token dataset.
        stage: a stage's config, or the stage.
        components: of a pipeline: `clap_quantizer`, `semantic_quantizer`, `codec`, as far as there are any.

    Returns:
        The names of streams whose codebooks could not be compared, because one side does not know its own.

    Raises:
        ValueError: sizes, frame rates or codebooks differ; the message names both fingerprints.
    """
    config = getattr(stage, "config", stage)
    unknown = []
    for stream in config.token_streams:
        found = record.stream(stream.name)
        check_streams(
            f"{tokens_name}'s stream {stream.name!r}", found, f"{stage_name}'s stream {stream.name!r}", stream
        )
        if found.codebook_fingerprint is None or stream.codebook_fingerprint is None:
            unknown.append(stream.name)
    for name, found in component_streams(record, components or {}).items():
        mine = record.stream(name)
        check_streams(f"{tokens_name}'s stream {name!r}", mine, "the pipeline", found)
    return unknown


def component_streams(record: TokenRecord, components: dict[str, Any]) -> dict[str, TokenStream]:
    """The streams that a pipeline's quantizers and codec would make today."""
    streams: dict[str, TokenStream] = {}
    if components.get("clap_quantizer") is not None:
        streams["clap"] = clap_stream(components["clap_quantizer"])
    if components.get("semantic_quantizer") is not None:
        streams["semantic"] = semantic_stream(components["semantic_quantizer"])
    codec, first = components.get("codec"), 0
    if codec is not None:
        for name in ("coarse", "fine"):
            num_codebooks = record.stream(name).num_codebooks
            streams[name] = acoustic_stream(codec, name, first, num_codebooks)
            first += num_codebooks
    return {name: stream for name, stream in streams.items() if any(s.name == name for s in record.streams)}


def streams_for_stage(record: TokenRecord, config: MusicLMStageConfig) -> list[dict]:
    """The streams of a stage to be trained from nothing on these tokens: its own names, the tokens' sizes and codebooks."""
    laid = ("pattern", "optional", "context", "context_in_s")
    return [
        record.stream(stream["name"]).to_dict() | {field: stream[field] for field in laid}
        for stream in config.streams or ()
    ]
