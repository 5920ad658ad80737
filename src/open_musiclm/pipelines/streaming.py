"""Audio as it is made: `pipe.stream(prompt)`.

    semantic window ─┐
      coarse window ─┴─┐          every piece of audio asks the stages that make codes for its frames, which ask the
          fine window ─┴─┐        stages they are conditioned on for a window: each stage runs just as far ahead as the
                 codec ──┴→ audio one behind it needs, and memory does not grow

The pieces join to the whole call's audio: the same windows, generators and codec pieces, in another order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import torch

from ..decoding.sampling import resolve_generators, spawn_generators
from ..models.streams import TokenStream
from ..tokenizers.codec import as_codec
from .arguments import (
    PROMPT_SOURCE,
    check_length,
    check_nothing_missing,
    check_prompts,
    check_rows_of_beginnings,
    given_by_prompt,
    rows_of_batch,
)
from .asked import Asked
from .chain import StageChain
from .pieces import Piece, cut_conditions, hidden_conditions, last_frame, negative_of_piece, stage_windows
from .windows import Window, round_up, to_fraction

Prompt = Any


def _waits_for_others(stage) -> bool:
    """Whether a window needs tokens of its own time from elsewhere; else a stage makes just what is asked for."""
    return any(stream.frame_rate is not None for stream in stage.condition_streams)


class MusicStream(Iterator):
    """An iterator over pieces of audio `(batch, channels, samples)`; made by `MusicLMPipeline.stream`.

    Attributes:
        prompt: what is played; assign another text (or list of as many) at any time. It takes effect with the next
            window that the first stage that reads it begins, for what is new in that window.
        time_to_first_audio_in_s: from the first `next` to the first piece; `None` before.
        sampling_rate: of the audio, in Hz.
    """

    def __init__(
        self,
        pipe,
        chain: StageChain,
        prompt: Prompt | Callable[[float], Prompt] | None,
        audio_length_in_s: float | None,
        num_waveforms_per_prompt: int,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        asked: Asked,
        output_type: str,
        first_window_in_s: float | None = None,
    ):
        self.pipe, self.chain = pipe, chain
        given = asked.given
        self.sampling_rate = pipe.sampling_rate
        self.output_type = output_type
        self.num_waveforms_per_prompt = num_waveforms_per_prompt
        self.time_to_first_audio_in_s: float | None = None
        self._ask = prompt if callable(prompt) else None
        self._prompt: Prompt | None = prompt(0.0) if callable(prompt) else prompt
        self._encoded: dict[tuple[Any, ...], torch.Tensor] = {}
        #: (time in seconds from which on, what the prompt encodes to), in the order of time
        self._timeline: list[tuple[Fraction, torch.Tensor]] = []
        tokens = dict(given)
        if self._prompt is not None:
            encoded = pipe.encode_prompt(self._prompt)
            given = {
                n: rows.expand(len(encoded), *rows.shape[1:]) if len(rows) == 1 else rows for n, rows in given.items()
            }
            tokens = given | given_by_prompt(chain, given, encoded)
        needed = chain.needed(tokens)
        check_nothing_missing(chain, tokens)
        rows = rows_of_batch(tokens, num_waveforms_per_prompt)
        self._given = {name: rows[name] for name in given}
        self._batch_size = len(next(iter(rows.values()))) if rows else num_waveforms_per_prompt
        check_rows_of_beginnings(asked.beginnings, self._batch_size)
        #: streams that the prompt gives, and the stage that asks for it
        self._prompted = {stream.name for stream in chain.from_source(PROMPT_SOURCE)} - given.keys()
        self._asks_prompt = next((name for name in needed if self._reads_prompt(name)), None)

        grid = chain.grid
        duration = None if audio_length_in_s is None else pipe._duration(audio_length_in_s)
        self._samples_left = None if audio_length_in_s is None else round(audio_length_in_s * self.sampling_rate)
        first = None
        if first_window_in_s is not None:
            first = round_up(check_length(first_window_in_s, self.sampling_rate, "first_window_in_s"), grid)
        number = len(chain.stages)
        own = spawn_generators(resolve_generators(generator, self._batch_size), number)
        durations = dict.fromkeys(chain.stages) if duration is None else chain.durations(duration)
        self._pieces = {
            name: Piece(
                stage,
                stage_windows(stage, durations[name], grid, first if _waits_for_others(stage) else None),
                lambda window, name=name: self._conditions(name, window),
                own[index::number],
                settings=asked.settings[name],
                negative=self._negative(asked, stage),
                beginning=asked.beginnings.get(stage.predicted_stream.name),
                checked=True,  # where they came in
            )
            for index, (name, stage) in enumerate(chain.stages.items())
            if name in needed
        }
        self._last_frame = self._find_last_frame(durations)
        self._num_frames = 0  # taken up for decoding
        codec = as_codec(pipe.codec)
        self._codec = codec.batch_stream()
        self._frames_a_piece, self._lookahead = codec.frames_a_piece, codec.lookahead
        if self._samples_left is not None and (self._last_frame or 0) * codec.hop_length < self._samples_left:
            raise ValueError(
                f"The given tokens have {self._last_frame} frames; {audio_length_in_s:g} s need "
                f"{-(-self._samples_left // codec.hop_length)}."
            )

    def _negative(self, asked: Asked, stage: Any) -> Callable[[Window], dict[str, torch.Tensor]] | None:
        own, given = (
            asked.negative_conditions(stage, self._batch_size),
            asked.settings_of(stage).get("negative_streams"),
        )
        conditions = negative_of_piece(stage, own, given, self._batch_size)
        return None if conditions is None else lambda window: cut_conditions(stage, conditions, window)

    def _find_last_frame(self, durations: dict[str, Any]) -> int | None:
        """Frames that are decoded in all, `None` for a stream without end."""
        ends = [self._given[stream.name].shape[1] for stream in self.chain.decoded if stream.name in self._given]
        for stream in self.chain.decoded:
            name = self.chain.makers[stream.name]
            if name in self._pieces and durations[name] is not None:
                ends.append(last_frame(self.chain.stages[name], durations[name], self.chain.grid))
        return min(ends, default=None)

    # ------------------------------------------------------------------ prompt

    @property
    def prompt(self) -> Prompt | None:
        return self._prompt

    @prompt.setter
    def prompt(self, prompt: Prompt) -> None:
        if self._prompt is None:
            raise ValueError("This stream was begun without a prompt, from tokens; it has none to replace.")
        if len(self._encode(prompt)) != self._batch_size:
            raise ValueError(
                f"The stream has {self._batch_size} waveforms; the new prompt would make {len(self._encode(prompt))}."
            )
        self._ask, self._prompt = None, prompt

    def _encode(self, prompt: Prompt) -> torch.Tensor:
        texts = tuple(check_prompts(prompt))
        if texts not in self._encoded:
            if len(self._encoded) > 16:
                self._encoded.clear()
            tokens = self.pipe.encode_prompt(list(texts))
            self._encoded[texts] = tokens.repeat_interleave(self.num_waveforms_per_prompt, dim=0)
        return self._encoded[texts]

    def _reads_prompt(self, name: str) -> bool:
        return any(stream.name in self._prompted for stream in self.chain.stages[name].condition_streams)

    def _tokens_of_prompt(self, name: str, moment: Fraction) -> torch.Tensor:
        """What the prompt of a moment encodes to; the first stage that reads it asks for it."""
        if name == self._asks_prompt or not self._timeline:
            if self._ask is not None:
                prompt = self._ask(float(moment))
                if len(self._encode(prompt)) != self._batch_size:
                    raise ValueError(
                        f"The prompt changed from {self._batch_size} waveforms to {len(self._encode(prompt))}."
                    )
                self._prompt = prompt
            assert self._prompt is not None
            self._timeline.append((moment if self._timeline else Fraction(0), self._encode(self._prompt)))
            return self._timeline[-1][1]
        return next(tokens for start, tokens in reversed(self._timeline) if start <= moment)

    # -------------------------------------------------------------- conditions

    def _conditions(self, name: str, window: Window) -> dict[str, torch.Tensor]:
        """A stage's conditioning streams for a window, those that stages make as far as the window reaches."""
        stage, conditions = self.chain.stages[name], {}
        for stream in stage.condition_streams:
            if stream.name in self._given or stream.name in self.chain.makers:
                frames = (
                    None if stream.frame_rate is None else window.frames(stream.frame_rate, stream.num_edge_frames)
                )
                conditions[stream.argument] = self._tokens(stream, None if frames is None else frames.stop)
        if self._prompt is not None and self._reads_prompt(name):
            known = Fraction(self._pieces[name].num_frames) / to_fraction(stage.predicted_stream.frame_rate)
            encoded = self._tokens_of_prompt(name, max(known, window.start))
            conditions |= {s.argument: encoded for s in stage.condition_streams if s.name in self._prompted}
        if not conditions:
            return hidden_conditions(stage, self._batch_size, window.stop - window.start)
        return cut_conditions(stage, conditions, window)

    def _tokens(self, stream: TokenStream, num_frames: int | None) -> torch.Tensor:
        """A stream's tokens so far, at least `num_frames` frames of them."""
        if stream.name in self._given:
            return self._given[stream.name]
        return self._pieces[self.chain.makers[stream.name]].advance(num_frames)

    # ------------------------------------------------------------------- audio

    @torch.no_grad()
    def __next__(self):
        if self._samples_left == 0 or self._num_frames == self._last_frame:
            raise StopIteration
        started = time.perf_counter()
        stop = self._num_frames + self._frames_a_piece + (0 if self._num_frames else self._lookahead)
        if self._last_frame is not None:
            stop = min(stop, self._last_frame)
        parts = []
        for stream in self.chain.decoded:
            tokens = self._tokens(stream, stop)[:, self._num_frames : stop].to(self.pipe.codec.device)
            parts.append(tokens.reshape(*tokens.shape[:2], stream.num_codebooks))
        audio = self._codec.decode(torch.cat(parts, dim=-1), last=stop == self._last_frame).float()
        self._num_frames = stop
        if self._samples_left is not None:
            audio = audio[..., : self._samples_left]
            self._samples_left -= audio.shape[-1]
        audio = audio.cpu().numpy() if self.output_type == "np" else audio
        if self.time_to_first_audio_in_s is None:
            self.time_to_first_audio_in_s = time.perf_counter() - started
        return audio
