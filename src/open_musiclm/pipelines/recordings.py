"""A recording's tokens: every stream that the stages predict, or those that are asked for, as training data has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..audio import resample
from ..models.streams import TokenStream
from .chain import StageChain
from .mixtures import Recording

if TYPE_CHECKING:
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
    from ..data.tokenizer import MusicTokenizer, TokenizingSettings

    chain = pipe.chain
    streams = [chain.streams[name] for name in (names if names is not None else chain.makers)]
    longest = max(float(stage.config.window_in_s) for stage in chain.stages.values())
    settings = TokenizingSettings(
        crop_in_s=max(longest, 1.0), overlap_in_s=longest / 5, clap_window_in_s=max(longest, 1.0), min_length_in_s=1.0
    )
    tokenizer = MusicTokenizer(pipe.components, streams, settings)
    waveforms = {
        rate: np.ascontiguousarray(resample(recording.waveform, recording.sampling_rate, rate), dtype=np.float32)
        for rate in tokenizer.sampling_rates
    }
    audio = DecodedAudio(len(recording.waveform) / recording.sampling_rate, waveforms)
    ((_, arrays),) = tokenizer.tokenize([(None, audio)])
    tokens = {s.name: torch.from_numpy(arrays[s.argument].astype(np.int64))[None] for s in tokenizer.streams}
    return {s.name: tokens[s.name].squeeze(-1) if s.num_codebooks == 1 else tokens[s.name] for s in tokenizer.streams}


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
