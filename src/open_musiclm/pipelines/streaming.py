"""Audio as it is made: `pipe.stream(prompt)`.

    semantic window ─┐
      coarse window ─┴─┐          every piece of audio asks the fine stage for its frames, which asks the coarse stage
          fine window ─┴─┐        for a window, which asks the semantic stage: each stage runs just as far ahead as the
                 codec ──┴→ audio one behind it needs, and memory does not grow

The pieces join to the whole call's audio: the same windows, generators and codec pieces, in another order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

import torch

from ..decoding.sampling import resolve_generators, spawn_generators
from ..tokenizers.codec_streaming import CodecStream, frames_a_piece
from .pieces import Piece, cut_conditions, last_frame, stage_windows
from .windows import Window, to_fraction

Prompt = str | Sequence[str]


class MusicStream(Iterator):
    """An iterator over pieces of audio `(batch, channels, samples)`; made by `MusicLMPipeline.stream`.

    Attributes:
        prompt: what is played; assign another text (or list of as many) at any time. It takes effect with the next
            window that the semantic stage begins, for what is new in that window.
        time_to_first_audio_in_s: from the first `next` to the first piece; `None` before.
        sampling_rate: of the audio, in Hz.
    """

    def __init__(
        self,
        pipe,
        prompt: Prompt | Callable[[float], Prompt],
        audio_length_in_s: float | None,
        num_waveforms_per_prompt: int,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        settings: dict[str, dict],
        output_type: str,
    ):
        self.pipe = pipe
        self.sampling_rate = pipe.sampling_rate
        self.output_type = output_type
        self.num_waveforms_per_prompt = num_waveforms_per_prompt
        self.time_to_first_audio_in_s: float | None = None
        self._ask = prompt if callable(prompt) else None
        self._prompt: Prompt = prompt(0.0) if callable(prompt) else prompt
        self._clap_token_ids: dict[tuple[str, ...], torch.Tensor] = {}
        self._batch_size = len(self._encode(self._prompt))
        #: (time in seconds from which on, CLAP tokens), in the order of time
        self._timeline: list[tuple[Fraction, torch.Tensor]] = []

        grid = pipe.time_grid
        duration = None if audio_length_in_s is None else pipe._duration(audio_length_in_s)
        self._samples_left = None if audio_length_in_s is None else round(audio_length_in_s * self.sampling_rate)
        own = spawn_generators(resolve_generators(generator, self._batch_size), 3)
        semantic, coarse, fine = pipe.semantic_model, pipe.coarse_model, pipe.fine_model
        durations = {
            semantic: None if duration is None else pipe._semantic_duration(duration),
            coarse: None if duration is None else pipe._coarse_duration(duration),
            fine: None if duration is None else pipe._coarse_duration(duration),
        }
        self._pieces = {
            stage: Piece(
                stage,
                stage_windows(stage, durations[stage], grid),
                conditions,
                own[index::3],
                settings=settings[name],
            )
            for index, (name, stage, conditions) in enumerate(
                [
                    ("semantic", semantic, self._semantic_conditions),
                    ("coarse", coarse, self._coarse_conditions),
                    ("fine", fine, self._fine_conditions),
                ]
            )
        }
        self._last_frame = None if duration is None else last_frame(fine, durations[fine], grid)
        self._num_frames = 0  # decoded
        self._codec = CodecStream(pipe.codec)
        self._frames_a_piece = frames_a_piece(pipe.codec)

    # ------------------------------------------------------------------ prompt

    @property
    def prompt(self) -> Prompt:
        return self._prompt

    @prompt.setter
    def prompt(self, prompt: Prompt) -> None:
        if len(self._encode(prompt)) != self._batch_size:
            raise ValueError(
                f"The stream has {self._batch_size} waveforms; the new prompt would make {len(self._encode(prompt))}."
            )
        self._ask, self._prompt = None, prompt

    def _encode(self, prompt: Prompt) -> torch.Tensor:
        texts = tuple(self.pipe._check_prompt(prompt))
        if texts not in self._clap_token_ids:
            if len(self._clap_token_ids) > 16:
                self._clap_token_ids.clear()
            tokens = self.pipe.encode_prompt(list(texts))
            self._clap_token_ids[texts] = tokens.repeat_interleave(self.num_waveforms_per_prompt, dim=0)
        return self._clap_token_ids[texts]

    def _clap_tokens_at(self, moment: Fraction) -> torch.Tensor:
        return next(tokens for start, tokens in reversed(self._timeline) if start <= moment)

    # -------------------------------------------------------------- conditions

    def _semantic_conditions(self, window: Window) -> dict[str, torch.Tensor]:
        known = self._pieces[self.pipe.semantic_model].num_frames
        begin = max(Fraction(known) / to_fraction(self.pipe.semantic_model.predicted_stream.frame_rate), window.start)
        if self._ask is not None:
            prompt = self._ask(float(begin))
            if len(self._encode(prompt)) != self._batch_size:
                raise ValueError(
                    f"The prompt changed from {self._batch_size} waveforms to {len(self._encode(prompt))}."
                )
            self._prompt = prompt
        self._timeline.append((begin if self._timeline else Fraction(0), self._encode(self._prompt)))
        return {"clap_token_ids": self._timeline[-1][1]}

    def _coarse_conditions(self, window: Window) -> dict[str, torch.Tensor]:
        stage = self.pipe.coarse_model
        semantic = self._tokens_for(self.pipe.semantic_model, window)
        known = Fraction(self._pieces[stage].num_frames) / to_fraction(stage.predicted_stream.frame_rate)
        clap = self._clap_tokens_at(max(known, window.start))
        return cut_conditions(stage, {"clap_token_ids": clap, "semantic_token_ids": semantic}, window)

    def _fine_conditions(self, window: Window) -> dict[str, torch.Tensor]:
        stage = self.pipe.fine_model
        coarse = self._tokens_for(self.pipe.coarse_model, window)
        clap = self._clap_tokens_at(window.start)
        return cut_conditions(stage, {"clap_token_ids": clap, "coarse_token_ids": coarse}, window)

    def _tokens_for(self, stage, window: Window) -> torch.Tensor:
        """The stage's tokens as far as the window reaches."""
        stream = stage.predicted_stream
        return self._pieces[stage].advance(window.frames(stream.frame_rate, stream.num_edge_frames).stop)

    # ------------------------------------------------------------------- audio

    @torch.no_grad()
    def __next__(self):
        if self._samples_left == 0:
            raise StopIteration
        started = time.perf_counter()
        stop = self._num_frames + self._frames_a_piece
        if self._last_frame is not None:
            stop = min(stop, self._last_frame)
        frames = slice(self._num_frames, stop)
        fine = self._pieces[self.pipe.fine_model].advance(stop)[:, frames]
        coarse = self._pieces[self.pipe.coarse_model].advance(stop)[:, frames]
        audio = self._codec.decode(torch.cat([coarse, fine], dim=-1).to(self.pipe.codec.device)).float()
        self._num_frames = stop
        if self._samples_left is not None:
            audio = audio[..., : self._samples_left]
            self._samples_left -= audio.shape[-1]
        audio = audio.cpu().numpy() if self.output_type == "np" else audio
        if self.time_to_first_audio_in_s is None:
            self.time_to_first_audio_in_s = time.perf_counter() - started
        return audio
