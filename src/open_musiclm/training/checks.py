"""Do tokens, stage and pipeline belong together? Asked before the first step, not after days of a stuck loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..data.records import TokenRecord
from ..models.configuration import MusicLMStageConfig
from ..models.streams import TokenStream
from ..tokenizers.attributes import find_attribute
from ..tokenizers.compatibility import check_streams
from ..tokenizers.sources import stream_as_made


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
        if stream.optional and not record.has(stream):
            continue  # it is hidden throughout
        found = record.described(stream)
        check_streams(
            f"{tokens_name}'s stream {stream.name!r}", found, f"{stage_name}'s stream {stream.name!r}", stream
        )
        has_codebook = find_attribute(str(stream.source)) is None
        if has_codebook and (found.codebook_fingerprint is None or stream.codebook_fingerprint is None):
            unknown.append(stream.name)
    for mine in record.streams:
        made = stream_as_made(mine, components or {})
        if made is not None:
            check_streams(f"{tokens_name}'s stream {mine.name!r}", mine, "the pipeline", made)
    return unknown


def streams_for_stage(record: TokenRecord, config: MusicLMStageConfig) -> list[dict]:
    """The streams of a stage to be trained from nothing on these tokens.

    Its own names and patterns, the tokens' sizes and codebooks; all codebooks that there are, where no column of the
    tokens has its stream's name.
    """
    streams = []
    for stream in (TokenStream(**fields) for fields in config.streams or ()):
        if stream.optional and not record.has(stream):
            streams.append(stream.to_dict())
            continue
        is_named = stream.context == "same" and any(own.name == stream.name for own in record.streams)
        if stream.context == "same" and not is_named:
            stream = replace(stream, num_codebooks=max(record.num_codebooks_from(stream), 1))
        found = record.described(stream).to_dict()
        laid = ["name", "pattern", "optional", "context", "context_in_s"]
        if not is_named:  # it is put together of columns; else it starts where the tokens' own does
            laid.append("first_codebook")
        streams.append(found | {field: getattr(stream, field) for field in laid})
    return streams
