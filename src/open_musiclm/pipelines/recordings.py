"""A recording's tokens: every stream that the stages predict, or those that are asked for, as training data has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..audio import resample
from ..given import shown
from ..models.streams import TokenStream
from .chain import StageChain
from .mixtures import Recording
from .windows import round_down, to_fraction

if TYPE_CHECKING:
    from ..data.tokenizer import MusicTokenizer
    from .musiclm import MusicLMPipeline


def encode_recording(
    pipe: MusicLMPipeline, recording: Recording, names: Sequence[str] | None = None
) -> dict[str, torch.Tensor]:
    """Tokens of a recording by the stream's name: (1, frames, codebooks), (1, frames) for one codebook.

    Args:
        names: the streams; by default all that stages predict.

    Raises:
        ValueError: the pipeline has not what makes a stream (a semantic encoder, say), or the recording is shorter than a
            few frames.
    """
    from ..data.decoding import DecodedAudio

    chain = pipe.chain
    tokenizer = recording_tokenizer(
        pipe, tuple(chain.makers) if names is None else known_names("streams", chain.streams, names)
    )
    waveforms = {
        rate: np.ascontiguousarray(resample(recording.waveform, recording.sampling_rate, rate), dtype=np.float32)
        for rate in tokenizer.sampling_rates
    }
    audio = DecodedAudio(len(recording.waveform) / recording.sampling_rate, waveforms)
    ((_, arrays),) = tokenizer.tokenize([(None, audio)])
    tokens = {s.name: torch.from_numpy(arrays[s.argument].astype(np.int64))[None] for s in tokenizer.streams}
    return {s.name: tokens[s.name].squeeze(-1) if s.num_codebooks == 1 else tokens[s.name] for s in tokenizer.streams}


def known_names(argument: str, streams: Mapping[str, Any], names: Any) -> list[str]:
    """Names of streams that a caller gives, one or several.

    Raises:
        ValueError: none, or one that is not among `streams`.
    """
    given = [names] if isinstance(names, str) else list(names) if isinstance(names, Iterable) else []
    for name in given or [names]:
        if not isinstance(name, str) or name not in streams:
            raise ValueError(f"`{argument}` names one or several of {', '.join(streams)}; got {shown(name)}.")
    return given


def recording_tokenizer(pipe: MusicLMPipeline, names: Sequence[str]) -> MusicTokenizer:
    """What makes streams of recordings, with the pipeline's own parts.

    Raises:
        ValueError: the pipeline has not what makes one of them.
    """
    from ..data.tokenizer import MusicTokenizer, TokenizingSettings

    chain = pipe.chain
    longest = max(float(stage.config.window_in_s) for stage in chain.stages.values())
    settings = TokenizingSettings(
        crop_in_s=max(longest, 1.0), overlap_in_s=longest / 5, clap_window_in_s=max(longest, 1.0), min_length_in_s=1.0
    )
    return MusicTokenizer(pipe.components, [chain.streams[name] for name in names], settings)


def kept_streams(
    pipe: MusicLMPipeline,
    recording: Recording,
    keep: str | Sequence[str] | None = None,
    longest_in_s: float = float("inf"),
) -> dict[str, Any]:
    """Arguments of the pipeline with which the stages behind make the rest of a recording anew.

    Args:
        keep: the streams whose tokens are the recording's, by default that of the first stage.
        longest_in_s: of the recording, how much.

    Returns:
        `{stream}_token_ids`, and `audio_length_in_s`.

    Raises:
        ValueError: `keep` names a stream that no stage makes.
    """
    chain = pipe.chain
    names = [next(iter(chain.makers))] if keep is None else known_names("keep", chain.makers, keep)
    tokens = encode_recording(pipe, recording, names)
    length = min(recording.length_in_s, longest_in_s)
    for name, token_ids in tokens.items():
        stream = chain.streams[name]
        length = min(length, (token_ids.shape[1] + stream.num_edge_frames) / float(stream.frame_rate or 1))
    longest = max(chain.durations(round_down(length, chain.grid) or chain.grid).values())
    kept: dict[str, Any] = {"audio_length_in_s": length}
    for name, token_ids in tokens.items():  # whole windows for the stages behind: the last frame goes on
        stream = chain.streams[name]
        missing = int((longest + chain.grid) * to_fraction(stream.frame_rate or 1)) - token_ids.shape[1]
        if missing > 0:
            token_ids = torch.cat([token_ids, token_ids[:, -1:].expand(-1, missing, *token_ids.shape[2:])], dim=1)
        kept[stream.argument] = token_ids
    return kept


def tokens_of_stream(
    chain: StageChain, tokens: Mapping[str, torch.Tensor], stream: TokenStream
) -> torch.Tensor | None:
    """What a stream holds, (1, frames, codebooks), (1, frames) for one codebook, of a recording's tokens by name.

    A stream of the time after a window shares its codebooks with streams of its source that stages predict. `None` if they
    are not all there.
    """
    parts, place = [], stream.first_codebook or 0
    end = place + stream.num_codebooks
    makers = [chain.streams[name] for name in chain.makers]
    for made in sorted(makers, key=lambda made: made.first_codebook or 0):
        first = made.first_codebook or 0
        if made.source == stream.source and made.name in tokens and first <= place < first + made.num_codebooks:
            codes = tokens[made.name].unsqueeze(-1) if made.num_codebooks == 1 else tokens[made.name]
            parts.append(codes[..., place - first : end - first])
            place += parts[-1].shape[-1]
    if place < end:
        return None
    joined = torch.cat(parts, dim=-1)
    return joined.squeeze(-1) if stream.num_codebooks == 1 else joined
