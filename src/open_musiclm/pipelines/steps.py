"""The steps of a call: one stage's tokens, codes to audio. Each can be made by itself, and skipped by giving its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch

from ..decoding.sampling import resolve_generators
from ..given import shown
from ..tokenizers.codec import as_codec
from .arguments import check_length, given_streams
from .asked import Asked, prompt_over_time
from .chain import StageChain
from .pieces import generate_piece, hidden_conditions
from .windows import round_up, to_fraction


class PipelineSteps:
    """`MusicLMPipeline`'s steps."""

    chain: StageChain
    codec: Any
    sampling_rate: int
    time_grid: Fraction

    def generate_tokens(
        self,
        stage: str,
        tokens: Mapping[str, torch.Tensor],
        audio_length_in_s: float,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        on_token: Callable[[int], None] | None = None,
        **settings,
    ) -> torch.Tensor:
        """One stage's tokens for a piece.

        Args:
            stage: its component, its short name (`"coarse"` for `coarse_model`), or the stream that it predicts.
            tokens: the streams that it is conditioned on, by name, from time 0 on, as tensors, arrays or lists; optional
                ones may be left out.
            audio_length_in_s: of the piece. The tokens are longer where a stage behind needs a whole window.
            generator: one, or one for each sample.
            on_token: called after each step.
            settings: for the stage's `generate`.

        Returns:
            (batch, frames), or (batch, frames, codebooks) for several codebooks.

        Raises:
            ValueError: no such stage; streams missing, unknown, or too short.
        """
        chain = self.chain
        name, tokens = chain.component(stage), given_streams(chain, tokens)
        if on_token is not None and not callable(on_token):
            raise ValueError(f"`on_token` must be a function of the number of steps done, got {shown(on_token)}.")
        for decided in ("num_frames", "generator", "on_token"):
            if decided in settings:
                raise ValueError(f"`{decided}` follows from the other arguments; it is no setting.")
        duration = chain.durations(self._duration(audio_length_in_s))[name]
        return self._generate(chain.stages[name], tokens, duration, chain.grid, generator, on_token, settings)

    @torch.no_grad()
    def decode_streams(
        self, tokens: Mapping[str, torch.Tensor], audio_length_in_s: float | None = None
    ) -> torch.Tensor:
        """Codes → waveform (batch, channels, samples) float32.

        Args:
            tokens: the streams of codes by name, (batch, frames, codebooks) each, as tensors, arrays or lists, from the codec's first codebook on; the
                last ones may be left out.
        """
        tokens, parts, place = given_streams(self.chain, tokens), [], 0
        for stream in self.chain.decoded:
            if stream.name not in tokens or stream.first_codebook != place:
                continue
            rows = tokens[stream.name].to(self.codec.device)
            parts.append(rows.reshape(len(rows), -1, stream.num_codebooks))
            place += stream.num_codebooks
        if len(parts) < len(tokens) or not parts:
            raise ValueError(
                f"To decode, pass the streams {', '.join(s.name for s in self.chain.decoded)} from the first on, got "
                f"{', '.join(tokens) or 'none'}."
            )
        sizes = [tuple(part.shape[:2]) for part in parts]
        if len(set(sizes)) > 1:
            raise ValueError(f"Tokens to decode must have one batch size and number of frames, got {sizes}.")
        if min(int(part.min()) for part in parts) < 0:
            raise ValueError("Tokens to decode cannot hold padding.")
        codes = torch.cat(parts, dim=-1)
        waveform = as_codec(self.codec).decode(codes).float()
        if audio_length_in_s is not None:
            waveform = waveform[..., : round(check_length(audio_length_in_s, self.sampling_rate) * self.sampling_rate)]
        return waveform

    def _duration(self, audio_length_in_s: float) -> Fraction:
        """The asked length, rounded up to the time grid."""
        return round_up(check_length(audio_length_in_s, self.sampling_rate), self.time_grid)

    def _generate(
        self,
        stage: Any,
        tokens: Mapping[str, torch.Tensor],
        duration: Fraction,
        grid: Fraction,
        generator: torch.Generator | Sequence[torch.Generator] | None,
        on_token: Callable[[int], None] | None,
        settings: dict[str, Any],
        asked: Asked | None = None,
    ) -> torch.Tensor:
        conditions = {s.argument: tokens[s.name] for s in stage.condition_streams if s.name in tokens}
        for stream in stage.condition_streams:
            if stream.frame_rate is None or stream.argument not in conditions or stream.context != "same":
                continue
            needed = int(duration * to_fraction(stream.frame_rate)) - stream.num_edge_frames
            found = conditions[stream.argument].shape[1]
            if found < needed:
                raise ValueError(f"`{stream.argument}` has {found} frames; {float(duration):g} s need {needed}.")
        if conditions:
            batch_size = max(len(rows) for rows in conditions.values())
        else:
            batch_size = 1 if generator is None or isinstance(generator, torch.Generator) else len(generator)
            conditions = hidden_conditions(stage, batch_size, duration)
        generators = resolve_generators(generator, batch_size)
        negative = beginning = None
        of_time: Any = conditions
        if asked is not None:
            beginning = asked.beginnings.get(stage.predicted_stream.name)
            negative = asked.negative_conditions(stage, batch_size)
            told = [s.argument for s in stage.condition_streams if s.name in asked.prompted]
            if asked.story is not None and told:
                prompt_at = prompt_over_time(self, asked.story, batch_size)  # type: ignore[arg-type]
                of_time = lambda moment: {**conditions, **dict.fromkeys(told, prompt_at(moment))}  # noqa: E731
        if "checked" in settings:  # which is no setting
            raise ValueError("`generate` does not know the setting 'checked'.")
        # tokens that are given were checked where they came in, the others are made here
        return generate_piece(
            stage, of_time, duration, grid, generators, on_token, negative, beginning, checked=True, **settings
        )
