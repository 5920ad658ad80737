"""What a call of the pipeline returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AudioPipelineOutput


@dataclass
class MusicLMPipelineOutput(AudioPipelineOutput):
    """
    What the pipeline returns.

    Args:
        audios (batch, channels, samples): the waveforms, those of the first prompt first; without samples if the call was
            interrupted.
        similarities (batch,): with `num_candidates`, the CLAP similarity of each waveform to its prompt.
        kept (batch,): with `num_candidates`, which of its prompt's candidates each waveform is.
        tokens: with `return_tokens`, every stream's ids by name, (batch, frames[, codebooks]): what was given and what the
            stages made.
    """

    similarities: torch.Tensor | None = None
    kept: torch.Tensor | None = None
    tokens: dict[str, torch.Tensor] | None = None

    def tokens_made(self, pipe: Any) -> dict[str, torch.Tensor]:
        """The tokens that stages made, which a call goes on from as its `beginnings`: the same beginning, then more."""
        if self.tokens is None:
            raise ValueError("This output has no tokens; call the pipeline with `return_tokens=True`.")
        return {name: self.tokens[name] for name in pipe.chain.makers if name in self.tokens}


@dataclass
class EditedAudio:
    """
    A recording with something new in it.

    Args:
        audios (variants, channels, samples): float32.
        sampling_rate: in Hz, the recording's own.
        start, stop: the new region's first sample and the first one behind it.
        log_likelihoods (variants,): mean log-probability a token of what follows, of the candidate that was kept; `None`
            where nothing was judged.
    """

    audios: np.ndarray
    sampling_rate: int
    start: int
    stop: int
    log_likelihoods: np.ndarray | None = None
