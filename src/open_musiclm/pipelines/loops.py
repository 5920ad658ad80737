"""Pieces whose end runs into their beginning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..tokenizers.attributes.tempo import Tempo
from .editing import loop_recording
from .mixtures import Recording

if TYPE_CHECKING:
    from .musiclm import MusicLMPipeline

BEATS_A_BAR = 4
#: of a loop's end, made anew; of a short loop at most a quarter
SEAM_IN_S = 1.0


def whole_bars(length_in_s: float, tempo: Any) -> float:
    """The length, rounded to bars of four beats if there is a tempo in beats a minute."""
    if tempo is None:
        return length_in_s
    bar = BEATS_A_BAR * 60.0 / Tempo().read(tempo)
    return max(round(length_in_s / bar), 1) * bar


def close_loops(
    pipe: MusicLMPipeline,
    audios: torch.Tensor,
    prompts: Sequence[Any] | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    settings: dict[str, dict[str, Any]],
) -> torch.Tensor:
    """Each of the waveforms (batch, channels, samples) with its last second made anew, so that it runs into the first."""
    from ..models.chain import short_name

    arguments: dict[str, Any] = {f"{short_name(name)}_settings": own for name, own in settings.items()}
    closed = []
    rows_a_prompt = max(len(audios) // len(prompts), 1) if prompts else 1
    for row, audio in enumerate(audios):
        own = generator[row] if isinstance(generator, Sequence) else generator
        recording = Recording(audio.float().cpu().numpy(), pipe.sampling_rate)
        edited = loop_recording(
            pipe,
            recording,
            min(SEAM_IN_S, recording.length_in_s / 4),
            prompts[row // rows_a_prompt] if prompts else None,
            generator=own,
            **arguments,
        )
        closed.append(torch.from_numpy(edited.audios[0]))
    return torch.stack(closed)
