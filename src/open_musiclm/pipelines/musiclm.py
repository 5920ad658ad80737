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

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, ClassVar

import torch

from ..decoding.sampling import resolve_generators, spawn_generators
from ..given import shown
from ..hub.pipelines import PublishedPipeline
from ..tokenizers.codec import as_codec
from ..tokenizers.compatibility import check_components
from .adapters import AdapterMixin
from .arguments import (
    check_nothing_missing,
    check_numbers,
    check_prompts,
    check_rows_of_beginnings,
    rows_of_batch,
)
from .asked import DEFAULT_REFERENCE_WEIGHT, PromptPart, embed_prompts, make_prompt, understand
from .chain import StageChain
from .editing_steps import EditingSteps
from .loops import close_loops, whole_bars
from .named_steps import NamedSteps
from .output import MusicLMPipelineOutput
from .pieces import count_steps
from .progress import GenerationInterruptedError, Progress, StepCallback
from .reranking import rank_by_clap
from .steps import PipelineSteps
from .streaming import MusicStream


class MusicLMPipeline(PipelineSteps, NamedSteps, EditingSteps, AdapterMixin, PublishedPipeline):
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

    def encode_prompt(self, prompt: PromptPart | Sequence[PromptPart]) -> torch.Tensor:
        """Texts, recordings or mixtures of them → CLAP tokens (batch, num_quantizers)."""
        return self.clap_quantizer.encode(embed_prompts(self, check_prompts(prompt)))

    # -------------------------------------------------------------------- call

    @torch.no_grad()
    def __call__(
        self,
        prompt: Any = None,
        audio_length_in_s: float = 10.0,
        num_waveforms_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_candidates: int | None = None,
        negative_prompt: str | None = None,
        guidance_scale: float | None = None,
        reference_audio: Any = None,
        reference_weight: float = DEFAULT_REFERENCE_WEIGHT,
        transition_in_s: float = 0.0,
        loop: bool = False,
        beginnings: Mapping[str, torch.Tensor] | None = None,
        decode_up_to: str | None = None,
        settings: dict[str, Any] | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        return_tokens: bool = False,
        callback_on_step_end: StepCallback | None = None,
        **streams_and_settings: Any,
    ) -> MusicLMPipelineOutput | tuple:
        """Generate music.

        Args:
            prompt: one text or several; a `Mixture` or `Recording` may stand for a text. A list of (seconds, text) is a story
                (story.py). `None` asks for anything, of stages that were trained without conditions too.
            audio_length_in_s: length of the audio; the result has exactly `round(length · sampling_rate)` samples.
            num_waveforms_per_prompt: waveforms for each prompt.
            num_candidates: waveforms to make for each prompt, of which the `num_waveforms_per_prompt` nearest to it by
                CLAP are returned, the nearest first.
            negative_prompt, guidance_scale: lead towards the prompt and away from the other one (or from what the stages
                make without any), where they were trained with condition dropout (MusicGen, section 2.2): 3 is usual.
            reference_audio: a recording to be like: a file, (audio, sampling rate), or samples at the pipeline's rate; with
                a prompt, `reference_weight` of it.
            transition_in_s: of a story, how long the change from one text to the next takes.
            loop: the end runs into the beginning; with a `tempo` the length is rounded to whole bars of four beats.
            beginnings: first tokens of streams that stages make, by the stream's name, to go on from.
            decode_up_to: the last stream of codes to decode; the stages behind it do not run (`"coarse"`: a draft, at the
                codec's lower bit rate).
            generator: one `torch.Generator`, or one for each waveform that is made. With one each, a waveform does not
                depend on what else is in the batch.
            settings: for the `generate` of all stages (`{"temperature": 0.8}`).
            output_type: `"np"` or `"pt"`.
            return_dict: return a `MusicLMPipelineOutput` rather than a tuple of the audios.
            return_tokens: return all streams' tokens too, as `.tokens`.
            callback_on_step_end: called after each token as `callback(pipe, step, num_steps, {"stage": name})`. Where it
                (or another thread) sets `pipe._interrupt = True`, the call stops and returns without samples.
            streams_and_settings: what else the stages' streams can be asked for, by the stream's name: `tempo=120`,
                `melody="hum.wav"` (tokenizers/attributes says what each takes). `{stream}_token_ids` for any stream of the stages, (batch, frames, codebooks), with one
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
        check_numbers(output_type, num_waveforms_per_prompt, num_candidates, callback_on_step_end)
        for name, choice in (("loop", loop), ("return_dict", return_dict), ("return_tokens", return_tokens)):
            if not isinstance(choice, bool):
                raise ValueError(f"`{name}` must be True or False, got {shown(choice)}.")
        num_made = num_waveforms_per_prompt if num_candidates is None else num_candidates
        if num_candidates is not None and prompt is None:
            raise ValueError("`num_candidates` needs the `prompt`, which the candidates are held against.")

        # 1. What is asked for, as streams with one row for each waveform
        chain = self.chain
        if loop and decode_up_to is not None:
            raise ValueError("A loop is closed by every stage: leave `decode_up_to` out.")
        if loop:
            duration = self._duration(whole_bars(audio_length_in_s, streams_and_settings.get("tempo")))
            audio_length_in_s = float(duration)
        asked = understand(
            self,
            chain,
            duration,
            prompt,
            reference_audio,
            reference_weight,
            negative_prompt,
            guidance_scale,
            transition_in_s,
            beginnings,
            settings,
            streams_and_settings,
        )
        heard, needed = chain.heard(decode_up_to), chain.needed(asked.given, decode_up_to)
        check_nothing_missing(chain, asked.given, decode_up_to)
        tokens = rows_of_batch(asked.given, num_made)
        batch_size = len(next(iter(tokens.values()))) if tokens else num_made
        check_rows_of_beginnings(asked.beginnings, batch_size)
        # each stage of each waveform draws from a generator of its own, so skipping a stage changes no other
        number = len(chain.stages)
        own = spawn_generators(resolve_generators(generator, batch_size), number)

        # 2. The stages that are needed, in order, and 3. codes → waveform
        self._interrupt = False
        durations = chain.durations(duration)
        num_steps = {
            name: count_steps(stage, durations[name], chain.grid, batch_size, asked.num_known(stage))
            for name, stage in chain.stages.items()
            if name in needed
        }
        try:
            with Progress(self, num_steps, callback_on_step_end) as progress:
                for index, (name, stage) in enumerate(chain.stages.items()):
                    if name not in needed:
                        continue
                    on_token = progress.stage(name)
                    tokens[stage.predicted_stream.name] = self._generate(
                        stage,
                        tokens,
                        durations[name],
                        chain.grid,
                        own[index::number],
                        on_token,
                        asked.settings[name],
                        asked,
                    )
                progress.say("waveform")
                made = [tokens[s.name].shape[1] for s in heard if chain.makers[s.name] in needed]
                decoded = {s.name: tokens[s.name][:, : min(made, default=None)] for s in heard}
                audios = self.decode_streams(decoded, audio_length_in_s)
        except GenerationInterruptedError:
            self.maybe_free_model_hooks()
            audios = torch.zeros(batch_size, as_codec(self.codec).channels, 0)
            audios = audios.numpy() if output_type == "np" else audios
            return MusicLMPipelineOutput(audios) if return_dict else (audios,)

        # 4. Of the candidates, those nearest to the prompt
        similarities = kept = None
        if num_candidates is not None and asked.prompts is not None:
            ranking = rank_by_clap(
                self.clap, self.clap_processor, [], audios, self.sampling_rate, embed_prompts(self, asked.prompts)
            )
            kept = ranking.order[:, :num_waveforms_per_prompt]
            rows = (kept + num_candidates * torch.arange(len(kept))[:, None]).flatten()
            audios = audios[rows.to(audios.device)]
            tokens = {name: token_ids[rows.to(token_ids.device)] for name, token_ids in tokens.items()}
            similarities, kept = ranking.similarities.flatten()[rows], kept.flatten()
        if loop:
            audios = close_loops(self, audios, asked.prompts, generator, asked.settings)
        self.maybe_free_model_hooks()
        if output_type == "np":
            audios = audios.cpu().numpy()
        if not return_dict:
            return (audios,)
        return MusicLMPipelineOutput(audios, similarities, kept, tokens if return_tokens else None)

    def stream(
        self,
        prompt: Any = None,
        audio_length_in_s: float | None = 10.0,
        num_waveforms_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        negative_prompt: str | None = None,
        guidance_scale: float | None = None,
        reference_audio: Any = None,
        reference_weight: float = DEFAULT_REFERENCE_WEIGHT,
        transition_in_s: float = 0.0,
        beginnings: Mapping[str, torch.Tensor] | None = None,
        settings: dict[str, Any] | None = None,
        output_type: str = "np",
        first_window_in_s: float | None = None,
        **streams_and_settings: Any,
    ) -> MusicStream:
        """Music piece by piece, as it is made: the audio of a whole call with the same arguments.

        Args:
            prompt: as for a whole call, a story too; or a function of the time in seconds that returns it. It is asked once
                for each window of the first stage that reads it, with the time at which the window's new part begins. The
                prompt may also be replaced on the way: `stream.prompt = "now with drums"`.
            audio_length_in_s: length of the audio; `None` goes on until nobody asks for more.
            num_waveforms_per_prompt, …: as for a whole call.
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
        asked = understand(
            self,
            chain,
            None if audio_length_in_s is None else self._duration(audio_length_in_s),
            negative_prompt=negative_prompt,
            guidance_scale=guidance_scale,
            beginnings=beginnings,
            settings=settings,
            others=streams_and_settings,
        )
        prompt = make_prompt(self, prompt, reference_audio, reference_weight, transition_in_s)
        return MusicStream(
            self,
            chain,
            prompt,
            audio_length_in_s,
            num_waveforms_per_prompt,
            generator,
            asked,
            output_type,
            first_window_in_s,
        )
