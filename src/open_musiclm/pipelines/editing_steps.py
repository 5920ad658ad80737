"""What a pipeline does with recordings: encode, continue, edit, loop, make anew from some of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .asked import as_recording
from .editing import (
    DEFAULT_CANDIDATES,
    asked_or_the_same,
    continue_recording,
    edit_recording,
    loop_recording,
    refuse_decided,
)
from .mixtures import Recording
from .output import EditedAudio
from .recordings import encode_recording, kept_streams

Generators = torch.Generator | Sequence[torch.Generator] | None


class EditingSteps:
    """Recordings in. `audio` is a file, (audio, sampling rate), samples at the pipeline's rate, or a `Recording`."""

    sampling_rate: int

    def encode_audio(self, audio: Any, streams: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
        """A recording's tokens by the stream's name, (1, frames[, codebooks]) each; by default of all that stages make."""
        return encode_recording(self, self.recording(audio), streams)  # type: ignore[arg-type]

    def continue_audio(
        self,
        audio: Any,
        audio_length_in_s: float = 10.0,
        prompt: Any = None,
        num_variants: int = 1,
        generator: Generators = None,
        **arguments: Any,
    ) -> EditedAudio:
        """A recording and `audio_length_in_s` more (Open-MusicLM's and MusicGen's continuation).

        The given samples stay as they are. Without a prompt, more of the same is asked for.
        """
        recording = self.recording(audio)
        return continue_recording(self, recording, audio_length_in_s, prompt, num_variants, generator, **arguments)  # type: ignore[arg-type]

    def edit_audio(
        self,
        audio: Any,
        start_in_s: float,
        stop_in_s: float,
        way: str = "replace",
        new_length_in_s: float | None = None,
        prompt: Any = None,
        num_variants: int = 1,
        num_candidates: int = DEFAULT_CANDIDATES,
        generator: Generators = None,
        **arguments: Any,
    ) -> EditedAudio:
        """Replace, extend, vary or repeat a region; samples outside stay as they are. See `editing.edit_recording`."""
        return edit_recording(
            self,  # type: ignore[arg-type]
            self.recording(audio),
            start_in_s,
            stop_in_s,
            way,
            new_length_in_s,
            prompt,
            num_variants,
            num_candidates,
            generator,
            **arguments,
        )

    def loop_audio(
        self, audio: Any, seam_in_s: float = 1.0, prompt: Any = None, generator: Generators = None, **arguments: Any
    ) -> EditedAudio:
        """A recording whose end runs into its beginning: its last `seam_in_s` are made anew."""
        recording = self.recording(audio)
        return loop_recording(self, recording, seam_in_s, prompt, generator=generator, **arguments)  # type: ignore[arg-type]

    def remake_audio(
        self,
        audio: Any,
        keep: str | Sequence[str] | None = None,
        prompt: Any = None,
        num_waveforms: int = 1,
        generator: Generators = None,
        **arguments: Any,
    ) -> np.ndarray:
        """A recording from some of its tokens: the stages behind them make the rest anew.

        With MusicLM's semantic tokens kept, another prompt gives the same music another sound; with the coarse ones, the
        fine stage brings a recording of low quality up to the codec's (Jukebox's upsampling).

        Args:
            keep: the streams whose tokens are the recording's; by default that of the first stage.
            prompt: what to make of it; by default the recording itself.

        Returns:
            (num_waveforms, channels, samples) float32 at the pipeline's rate, as long as the recording.

        Raises:
            ValueError: `keep` names a stream that no stage makes.
        """
        refuse_decided(arguments)
        recording = self.recording(audio)
        kept = kept_streams(self, recording, keep)  # type: ignore[arg-type]
        for name in kept.keys() & arguments.keys():
            raise ValueError(f"`{name}` is what is kept of the recording; pass another `keep`, or leave it out.")
        return self(  # type: ignore[operator]
            asked_or_the_same(self, prompt, recording, {**kept, **arguments}),  # type: ignore[arg-type]
            audio_length_in_s=kept.pop("audio_length_in_s"),
            num_waveforms_per_prompt=num_waveforms,
            generator=generator,
            **kept,
            **arguments,
        ).audios

    def recording(self, audio: Any) -> Recording:
        """Audio in any of these forms as a `Recording`."""
        return as_recording(audio, self.sampling_rate, "audio")
