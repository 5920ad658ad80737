"""`MusicLMPipeline`: text in, music out.

    prompt ── encode_prompt ──→ CLAP tokens                     (batch, 12)
           ── generate_tokens("semantic") ──→ semantic tokens   (batch, 50 · seconds)
           ── generate_tokens("coarse") ──→ coarse tokens       (batch, 75 · seconds, 3)
           ── generate_tokens("fine") ──→ fine tokens           (batch, 75 · seconds, 5)
           ── decode_streams ──→ waveform                       (batch, channels, 24000 · seconds)

These are MusicLM's three stages; the pipeline runs whatever stages it holds, in the order in which their streams depend
on one another (chain.py). Each step is a method, and is skipped by passing its result to the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, ClassVar

import torch

from ..decoding.sampling import resolve_generators, spawn_generators
from ..hub.pipelines import PublishedPipeline
from ..models.streams import check_token_range, flatten_tokens
from ..tokenizers.clap import clap_text_embeddings
from ..tokenizers.codec import as_codec
from ..tokenizers.compatibility import check_components
from .adapters import AdapterMixin
from .arguments import (
    check_length,
    check_nothing_missing,
    check_numbers,
    check_prompts,
    given_by_prompt,
    rows_of_batch,
    sort_arguments,
)
from .chain import StageChain
from .named_steps import NamedSteps
from .output import MusicLMPipelineOutput
from .pieces import count_steps, generate_piece, hidden_conditions
from .progress import GenerationInterruptedError, Progress, StepCallback
from .reranking import rank_by_clap
from .streaming import MusicStream, Prompt
from .windows import round_up, to_fraction


class MusicLMPipeline(NamedSteps, AdapterMixin, PublishedPipeline):
    """
    Text to music in autoregressive stages (MusicLM, Agostinelli et al. 2023, section 3).

    Args:
        clap ([`~transformers.ClapModel`]): joint embedding of text and music.
        clap_processor ([`~transformers.ClapProcessor`]): its tokenizer and feature extractor.
        clap_quantizer ([`ClapQuantizer`]): CLAP embedding → CLAP tokens.
        semantic_model ([`MusicLMSemanticModel`]), coarse_model ([`MusicLMCoarseModel`]), fine_model
            ([`MusicLMFineModel`]): MusicLM's three stages. What matters is their streams, not their slots: a pipeline of
            one or two stages leaves slots empty.
        codec ([`~transformers.EncodecModel`], [`~transformers.DacModel`], …): its decoder turns codes into a waveform.
        semantic_encoder ([`~transformers.HubertModel`] or its like, *optional*), semantic_quantizer
            ([`SemanticQuantizer`], *optional*): audio → semantic tokens; needed only where audio comes in.
        acoustic_model ([`MusicLMStageModel`], *optional*): a single acoustic stage in place of coarse and fine.

    Raises:
        ValueError: components whose sizes, frame rates or codebook fingerprints do not belong together; stages that do
            not make a chain.
    """

    model_cpu_offload_seq = "clap->semantic_model->coarse_model->fine_model->acoustic_model->codec"
    _optional_components: ClassVar[list[str]] = [
        "semantic_model",
        "coarse_model",
        "fine_model",
        "codec",
        "semantic_encoder",
        "semantic_quantizer",
        "acoustic_model",
    ]

    def __init__(
        self,
        clap,
        clap_processor,
        clap_quantizer,
        semantic_model=None,
        coarse_model=None,
        fine_model=None,
        codec=None,
        semantic_encoder=None,
        semantic_quantizer=None,
        acoustic_model=None,
    ):
        super().__init__()
        components = {
            "clap": clap,
            "clap_processor": clap_processor,
            "clap_quantizer": clap_quantizer,
            "semantic_model": semantic_model,
            "coarse_model": coarse_model,
            "fine_model": fine_model,
            "codec": codec,
            "semantic_encoder": semantic_encoder,
            "semantic_quantizer": semantic_quantizer,
            "acoustic_model": acoustic_model,
        }
        if codec is None:
            raise ValueError("A pipeline needs a `codec`, which turns codes into a waveform.")
        StageChain(components)
        check_components(components)
        self.register_modules(**components)
        self._interrupt = False

    @property
    def chain(self) -> StageChain:
        """The stages in order, and what follows from their streams."""
        return StageChain(self.components)

    @property
    def sampling_rate(self) -> int:
        """Of the audio that comes out, in Hz."""
        return as_codec(self.codec).sampling_rate

    @property
    def interrupt(self) -> bool:
        """Whether the call under way is to stop; set `pipe._interrupt = True` in a callback or from another thread."""
        return self._interrupt

    @property
    def time_grid(self) -> Fraction:
        """Length in seconds of a whole number of frames of every stream: windows start and stop on multiples of it."""
        return self.chain.grid

    # ------------------------------------------------------------------- steps

    def encode_prompt(self, prompt: str | Sequence[str]) -> torch.Tensor:
        """Texts → CLAP tokens (batch, num_quantizers)."""
        prompts = check_prompts(prompt)
        return self.clap_quantizer.encode(clap_text_embeddings(self.clap, self.clap_processor, prompts))

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
            tokens: the streams that it is conditioned on, by name, from time 0 on; optional ones may be left out.
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
        name = chain.component(stage)
        duration = chain.durations(self._duration(audio_length_in_s))[name]
        return self._generate(chain.stages[name], tokens, duration, chain.grid, generator, on_token, settings)

    @torch.no_grad()
    def decode_streams(
        self, tokens: Mapping[str, torch.Tensor], audio_length_in_s: float | None = None
    ) -> torch.Tensor:
        """Codes → waveform (batch, channels, samples) float32.

        Args:
            tokens: the streams of codes by name, (batch, frames, codebooks) each, from the codec's first codebook on; the
                last ones may be left out.
        """
        parts, place = [], 0
        for stream in self.chain.decoded:
            if stream.name not in tokens or stream.first_codebook != place:
                continue
            flat = flatten_tokens(tokens[stream.name], stream)
            check_token_range(flat, stream)
            parts.append(flat.unflatten(1, (-1, stream.num_codebooks)).to(self.codec.device))
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
            waveform = waveform[..., : round(audio_length_in_s * self.sampling_rate)]
        return waveform

    # -------------------------------------------------------------------- call

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        audio_length_in_s: float = 10.0,
        num_waveforms_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_candidates: int | None = None,
        settings: dict[str, Any] | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        **tokens_and_settings: Any,
    ) -> MusicLMPipelineOutput | tuple:
        """Generate music.

        Args:
            prompt: one text or several.
            audio_length_in_s: length of the audio; the result has exactly `round(length · sampling_rate)` samples.
            num_waveforms_per_prompt: waveforms for each prompt.
            num_candidates: waveforms to make for each prompt, of which the `num_waveforms_per_prompt` nearest to it by
                CLAP are returned, the nearest first.
            generator: one `torch.Generator`, or one for each waveform that is made. With one each, a waveform does not
                depend on what else is in the batch.
            settings: for the `generate` of all stages (`{"temperature": 0.8}`).
            output_type: `"np"` or `"pt"`.
            return_dict: return a `MusicLMPipelineOutput` rather than a tuple of the audios.
            callback_on_step_end: called after each token as `callback(pipe, step, num_steps, {"stage": name})`. Where it
                (or another thread) sets `pipe._interrupt = True`, the call stops and returns without samples.
            tokens_and_settings: `{stream}_token_ids` for any stream of the stages, (batch, frames, codebooks), with one
                codebook (batch, frames), the CLAP tokens (batch, 12): results of earlier steps, or conditioning that no
                prompt gives; a stage whose stream is given is skipped, and so are those that only it needed. A stream
                that is given once a prompt serves all of its waveforms. `{stage}_settings` for one stage's `generate`,
                by its short name (`coarse_settings` for `coarse_model`).

        Returns:
            `.audios` (batch, channels, samples), a float32 NumPy array or a tensor; with `num_candidates` also
            `.similarities` and `.kept`.

        Examples:

        ```python
        import torch
        from open_musiclm import MusicLMPipeline, mini_checkpoint, write_audio

        pipe = MusicLMPipeline.from_pretrained(mini_checkpoint())
        generator = torch.Generator().manual_seed(0)
        made = pipe("a calm piano melody", audio_length_in_s=4.0, generator=generator, num_candidates=2)
        write_audio("song.wav", made.audios[0], pipe.sampling_rate)
        print(f"CLAP similarity {made.similarities[0]:.3f}")
        ```

        Raises:
            ValueError: an empty prompt, a length that is not a positive number, tokens of a wrong shape or outside
                their codebook, generators that do not match the batch, an argument that no stage has.
        """
        duration = self._duration(audio_length_in_s)
        check_numbers(output_type, num_waveforms_per_prompt)
        num_made = num_waveforms_per_prompt if num_candidates is None else num_candidates
        if num_made < num_waveforms_per_prompt:
            raise ValueError(
                f"{num_candidates} candidates are fewer than {num_waveforms_per_prompt} waveforms to keep."
            )
        if num_candidates is not None and prompt is None:
            raise ValueError("`num_candidates` needs the `prompt`, which the candidates are held against.")

        # 1. What is given: the prompt as CLAP tokens, and any streams, one row for each waveform
        chain = self.chain
        given, of_stages = sort_arguments(chain, settings, tokens_and_settings)
        if prompt is not None:
            given |= given_by_prompt(chain, given, self.encode_prompt(prompt))
        needed = chain.needed(given)
        check_nothing_missing(chain, given)
        tokens = rows_of_batch(given, num_made)
        batch_size = len(next(iter(tokens.values()))) if tokens else num_made
        # each stage of each waveform draws from a generator of its own, so skipping a stage changes no other
        number = len(chain.stages)
        own = spawn_generators(resolve_generators(generator, batch_size), number)

        # 2. The stages that are needed, in order, and 3. codes → waveform
        self._interrupt = False
        durations = chain.durations(duration)
        num_steps = {name: count_steps(chain.stages[name], durations[name], chain.grid, batch_size) for name in needed}
        try:
            with Progress(self, num_steps, callback_on_step_end) as progress:
                for index, (name, stage) in enumerate(chain.stages.items()):
                    if name not in needed:
                        continue
                    on_token = progress.stage(name)
                    tokens[stage.predicted_stream.name] = self._generate(
                        stage, tokens, durations[name], chain.grid, own[index::number], on_token, of_stages[name]
                    )
                progress.say("waveform")
                decoded = {stream.name: tokens[stream.name] for stream in chain.decoded}
                audios = self.decode_streams(decoded, audio_length_in_s)
        except GenerationInterruptedError:
            self.maybe_free_model_hooks()
            audios = torch.zeros(batch_size, as_codec(self.codec).channels, 0)
            audios = audios.numpy() if output_type == "np" else audios
            return MusicLMPipelineOutput(audios) if return_dict else (audios,)

        # 4. Of the candidates, those nearest to the prompt
        similarities = kept = None
        if num_candidates is not None and prompt is not None:
            ranking = rank_by_clap(self.clap, self.clap_processor, check_prompts(prompt), audios, self.sampling_rate)
            kept = ranking.order[:, :num_waveforms_per_prompt]
            rows = (kept + num_candidates * torch.arange(len(kept))[:, None]).flatten()
            audios = audios[rows.to(audios.device)]
            similarities, kept = ranking.similarities.flatten()[rows], kept.flatten()
        self.maybe_free_model_hooks()
        if output_type == "np":
            audios = audios.cpu().numpy()
        return MusicLMPipelineOutput(audios, similarities, kept) if return_dict else (audios,)

    def stream(
        self,
        prompt: Prompt | Callable[[float], Prompt] | None = None,
        audio_length_in_s: float | None = 10.0,
        num_waveforms_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        settings: dict[str, Any] | None = None,
        output_type: str = "np",
        first_window_in_s: float | None = None,
        **tokens_and_settings: Any,
    ) -> MusicStream:
        """Music piece by piece, as it is made: the audio of a whole call with the same arguments.

        Args:
            prompt: a text, several, or a function of the time in seconds that returns them. It is asked once for each
                window of the first stage that reads it, with the time at which the window's new part begins. The prompt
                may also be replaced on the way: `stream.prompt = "now with drums"`.
            audio_length_in_s: length of the audio; `None` goes on until nobody asks for more.
            num_waveforms_per_prompt, generator, settings, output_type, tokens_and_settings: as for a whole call.
            first_window_in_s: begin the stages that wait for others with so short a window, so that the first audio
                comes after that much of each instead of after whole windows. What is played is then not a whole call's
                audio, and its beginning is made with less in view; 1.0 is a second of audio, as much as a piece.

        Returns:
            an iterator over (batch, channels, samples), of a second each (the last one may be shorter).

        Raises:
            ValueError: as a whole call does.
        """
        check_numbers(output_type, num_waveforms_per_prompt)
        chain = self.chain
        given, of_stages = sort_arguments(chain, settings, tokens_and_settings)
        return MusicStream(
            self, chain, prompt, audio_length_in_s, num_waveforms_per_prompt, generator, given, of_stages, output_type,
            first_window_in_s,
        )  # fmt: skip

    # ------------------------------------------------------------------ checks

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
        return generate_piece(stage, conditions, duration, grid, generators, on_token, **settings)
