"""What a call of the pipeline returns."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    similarities: torch.Tensor | None = None
    kept: torch.Tensor | None = None
