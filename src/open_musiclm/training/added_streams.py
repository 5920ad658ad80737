"""Conditioning streams that a stage is given beside its own: of tokens that say something about a piece."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..data.records import TokenRecord
from ..models.configuration import MusicLMStageConfig
from ..models.stages import MusicLMStageModel
from ..models.streams import TokenStream
from ..tokenizers.attributes import find_attribute


def attributes_of(record: TokenRecord, names: Sequence[str]) -> list[TokenStream]:
    """The streams of these names as the tokens have them, optional.

    Raises:
        ValueError: the tokens have no such stream, or it is none that says something about a piece.
    """
    there = {s.name: s for s in record.streams if find_attribute(str(s.source)) is not None}
    for name in names:
        if name not in there:
            raise ValueError(
                f"The tokens have no stream {name!r} that a stage could be conditioned on besides its own; they have "
                f"{', '.join(there) or 'none'}. Make tokens with `open-musiclm tokenize --streams {','.join(names)}`."
            )
    return [replace(there[name], optional=True) for name in dict.fromkeys(names)]


def with_streams(config: MusicLMStageConfig, streams: Sequence[TokenStream]) -> tuple[MusicLMStageConfig, list[str]]:
    """A stage's config with further conditioning streams, in front of its own, and the names of those that are new to it.

    A stream that it has stays as it is, unless these say something else about it (other genres): then theirs takes its
    place, and is new.
    """
    asked = {stream.name: stream for stream in streams}
    own = {stream.name: stream for stream in config.token_streams}
    new = [name for name, stream in asked.items() if name not in own or _says(own[name]) != _says(stream)]
    changed = copy.deepcopy(config)
    changed.streams = [asked[name].to_dict() for name in new if name not in own]
    if config.loss_weights is not None:
        changed.loss_weights = [0.0] * len(changed.streams) + list(config.loss_weights)
    for fields in config.streams or []:
        changed.streams.append(asked[fields["name"]].to_dict() if fields["name"] in new else fields)
    return changed, new


@torch.no_grad()
def add_streams(
    stage: MusicLMStageModel, streams: Sequence[TokenStream], condition_dropout: float | None = None
) -> MusicLMStageModel:
    """The same stage with further conditioning streams: new embeddings, everything else as it was.

    Where the new streams are hidden, what they add to the sequence is their start vectors; they begin as that of the
    stage's first stream, so that little changes.

    Args:
        condition_dropout: of the new stage, by default as before.
    """
    config, new = with_streams(stage.config, streams)
    if condition_dropout is not None:
        config.condition_dropout = condition_dropout
    if not new and config.condition_dropout == stage.config.condition_dropout:
        return stage
    grown = type(stage)(config)
    kept = {
        name: value
        for name, value in stage.state_dict().items()
        if not any(part in new for part in name.split("."))  # of a stream whose place another takes
    }
    grown.load_state_dict(kept, strict=False)
    for name in new:
        grown.start_vectors[name].copy_(stage.start_vectors[stage.streams[0].name])
    grown.generation_config = copy.deepcopy(stage.generation_config)
    return grown.train(stage.training)


def _says(stream: TokenStream) -> tuple:
    return stream.source, stream.codebook_size, stream.num_codebooks, stream.frame_rate, stream.vocabulary
