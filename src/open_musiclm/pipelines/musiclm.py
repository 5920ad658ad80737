"""`MusicLMPipeline`: text in, music out.

    prompt ── encode_prompt ──→ CLAP tokens                     (batch, 12)
           ── generate_semantic_tokens ──→ semantic tokens      (batch, 50 · seconds)
           ── generate_coarse_tokens ──→ coarse tokens          (batch, 75 · seconds, 3)
           ── generate_fine_tokens ──→ fine tokens              (batch, 75 · seconds, 5)
           ── decode_tokens ──→ waveform                        (batch, channels, 24000 · seconds)

Each step is a method, and is skipped by passing its result to the call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import ClassVar

import torch

from ..decoding.sampling import resolve_generators, spawn_generators
from ..hub.pipelines import PublishedPipeline
from ..models.stages import MusicLMStageModel
from ..models.streams import check_token_range, flatten_tokens
from ..tokenizers.codec_streaming import decode_in_pieces
from ..tokenizers.compatibility import check_components
from ..tokenizers.networks import clap_text_embeddings
from .output import MusicLMPipelineOutput
from .pieces import count_steps, generate_piece
from .progress import GenerationInterruptedError, Progress, StepCallback
from .reranking import rank_by_clap
from .streaming import MusicStream, Prompt
from .windows import round_up, time_grid, to_fraction

#: longest piece asked for by mistake, in seconds: a day
MAX_LENGTH_IN_S = 86_400.0


class MusicLMPipeline(PublishedPipeline):
    """
    Text to music in three stages (MusicLM, Agostinelli et al. 2023, section 3).

    Args:
        clap ([`~transformers.ClapModel`]): joint embedding of text and music.
        clap_processor ([`~transformers.ClapProcessor`]): its tokenizer and feature extractor.
        clap_quantizer ([`ClapQuantizer`]): CLAP embedding → CLAP tokens.
        semantic_model ([`MusicLMSemanticModel`]), coarse_model ([`MusicLMCoarseModel`]), fine_model
            ([`MusicLMFineModel`]): the three stages.
        codec ([`~transformers.EncodecModel`]): its decoder turns coarse and fine tokens into a waveform.
        semantic_encoder ([`~transformers.HubertModel`] or its like, *optional*), semantic_quantizer
            ([`SemanticQuantizer`], *optional*): audio → semantic tokens; needed only where audio comes in.

    Raises:
        ValueError: components whose sizes, frame rates or codebook fingerprints do not belong together.
    """

    model_cpu_offload_seq = "clap->semantic_model->coarse_model->fine_model->codec"
    _optional_components: ClassVar[list[str]] = ["semantic_encoder", "semantic_quantizer"]

    def __init__(
        self,
        clap,
        clap_processor,
        clap_quantizer,
        semantic_model,
        coarse_model,
        fine_model,
        codec,
        semantic_encoder=None,
        semantic_quantizer=None,
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
        }
        check_components(components)
        self.register_modules(**components)
        self._interrupt = False

    @property
    def sampling_rate(self) -> int:
        """Of the audio that comes out, in Hz."""
        return self.codec.config.sampling_rate

    @property
    def interrupt(self) -> bool:
        """Whether the call under way is to stop; set `pipe._interrupt = True` in a callback or from another thread."""
        return self._interrupt

    @property
    def time_grid(self) -> Fraction:
        """Length in seconds of a whole number of frames of every stream: windows start and stop on multiples of it."""
        stages = (self.semantic_model, self.coarse_model, self.fine_model)
        return time_grid([s.frame_rate for stage in stages for s in stage.streams if s.frame_rate is not None])

    # ------------------------------------------------------------------- steps

    def encode_prompt(self, prompt: str | Sequence[str]) -> torch.Tensor:
        """Texts → CLAP tokens (batch, num_quantizers)."""
        prompts = self._check_prompt(prompt)
        return self.clap_quantizer.encode(clap_text_embeddings(self.clap, self.clap_processor, prompts))

    def generate_semantic_tokens(
        self, clap_token_ids: torch.Tensor, audio_length_in_s: float, generator=None, on_token=None, **settings
    ) -> torch.Tensor:
        """CLAP tokens → semantic tokens (batch, frames): as long as the audio, and at least one coarse window."""
        duration = self._semantic_duration(self._duration(audio_length_in_s))
        return self._generate(
            self.semantic_model, {"clap_token_ids": clap_token_ids}, duration, generator, on_token, settings
        )

    def generate_coarse_tokens(
        self,
        clap_token_ids: torch.Tensor,
        semantic_token_ids: torch.Tensor,
        audio_length_in_s: float,
        generator=None,
        on_token=None,
        **settings,
    ) -> torch.Tensor:
        """CLAP and semantic tokens → coarse tokens (batch, frames, codebooks): at least one fine window."""
        duration = self._coarse_duration(self._duration(audio_length_in_s))
        conditions = {"clap_token_ids": clap_token_ids, "semantic_token_ids": semantic_token_ids}
        return self._generate(self.coarse_model, conditions, duration, generator, on_token, settings)

    def generate_fine_tokens(
        self,
        clap_token_ids: torch.Tensor,
        coarse_token_ids: torch.Tensor,
        audio_length_in_s: float,
        generator=None,
        on_token=None,
        **settings,
    ) -> torch.Tensor:
        """CLAP and coarse tokens → fine tokens (batch, frames, codebooks)."""
        conditions = {"clap_token_ids": clap_token_ids, "coarse_token_ids": coarse_token_ids}
        duration = self._coarse_duration(self._duration(audio_length_in_s))
        return self._generate(self.fine_model, conditions, duration, generator, on_token, settings)

    @torch.no_grad()
    def decode_tokens(
        self, coarse_token_ids: torch.Tensor, fine_token_ids: torch.Tensor, audio_length_in_s: float | None = None
    ) -> torch.Tensor:
        """Coarse and fine tokens (batch, frames, codebooks) → waveform (batch, channels, samples) float32."""
        frames = []
        for stage, token_ids in ((self.coarse_model, coarse_token_ids), (self.fine_model, fine_token_ids)):
            stream = stage.predicted_stream
            flat = flatten_tokens(token_ids, stream)
            check_token_range(flat, stream)
            frames.append(flat.unflatten(1, (-1, stream.num_codebooks)).to(self.codec.device))
        if frames[0].shape[:2] != frames[1].shape[:2]:
            raise ValueError(
                "Coarse and fine tokens must have one batch size and number of frames, got "
                f"{tuple(frames[0].shape[:2])} and {tuple(frames[1].shape[:2])}."
            )
        if min(int(part.min()) for part in frames) < 0:
            raise ValueError("Tokens to decode cannot hold padding.")
        codes = torch.cat(frames, dim=-1)
        waveform = decode_in_pieces(self.codec, codes).float()
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
        clap_token_ids: torch.Tensor | None = None,
        semantic_token_ids: torch.Tensor | None = None,
        coarse_token_ids: torch.Tensor | None = None,
        fine_token_ids: torch.Tensor | None = None,
        semantic_settings: dict | None = None,
        coarse_settings: dict | None = None,
        fine_settings: dict | None = None,
        num_candidates: int | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
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
            clap_token_ids (batch, 12), semantic_token_ids (batch, frames), coarse_token_ids and fine_token_ids
                (batch, frames, codebooks): results of earlier steps; the steps up to them are skipped.
            semantic_settings, coarse_settings, fine_settings: for the stages' `generate` (`{"temperature": 0.8}`).
            output_type: `"np"` or `"pt"`.
            return_dict: return a `MusicLMPipelineOutput` rather than a tuple of the audios.
            callback_on_step_end: called after each token as `callback(pipe, step, num_steps, {"stage": name})`. Where it
                (or another thread) sets `pipe._interrupt = True`, the call stops and returns without samples.

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
                their codebook, generators that do not match the batch.
        """
        duration = self._duration(audio_length_in_s)
        if output_type not in ("np", "pt"):
            raise ValueError(f"`output_type` must be 'np' or 'pt', got {output_type!r}.")
        if isinstance(num_waveforms_per_prompt, bool) or num_waveforms_per_prompt < 1:
            raise ValueError(f"`num_waveforms_per_prompt` must be at least 1, got {num_waveforms_per_prompt!r}.")

        num_made = num_waveforms_per_prompt if num_candidates is None else num_candidates
        if num_made < num_waveforms_per_prompt:
            raise ValueError(
                f"{num_candidates} candidates are fewer than {num_waveforms_per_prompt} waveforms to keep."
            )
        if num_candidates is not None and prompt is None:
            raise ValueError("`num_candidates` needs the `prompt`, which the candidates are held against.")

        if fine_token_ids is not None and coarse_token_ids is None:
            raise ValueError("`fine_token_ids` need the `coarse_token_ids` that they were made for.")

        # 1. Prompt → CLAP tokens, one row for each waveform
        if (prompt is None) == (clap_token_ids is None):
            raise ValueError("Pass a `prompt` or `clap_token_ids`, one of the two.")
        if clap_token_ids is None:
            clap_token_ids = self.encode_prompt(prompt)
        clap_token_ids = clap_token_ids.repeat_interleave(num_made, dim=0)
        batch_size = clap_token_ids.shape[0]
        # each stage of each waveform draws from a generator of its own, so skipping a stage changes no other
        own = spawn_generators(resolve_generators(generator, batch_size), 3)

        self._interrupt = False
        num_steps = self._num_steps(batch_size, duration, semantic_token_ids, coarse_token_ids, fine_token_ids)
        try:
            with Progress(self, num_steps, callback_on_step_end) as progress:
                # 2. CLAP → semantic tokens
                if "semantic_model" in num_steps:
                    semantic_token_ids = self.generate_semantic_tokens(
                        clap_token_ids,
                        audio_length_in_s,
                        own[0::3],
                        progress.stage("semantic_model"),
                        **(semantic_settings or {}),
                    )
                # 3. CLAP, semantic → coarse tokens
                if "coarse_model" in num_steps:
                    coarse_token_ids = self.generate_coarse_tokens(
                        clap_token_ids,
                        semantic_token_ids,
                        audio_length_in_s,
                        own[1::3],
                        progress.stage("coarse_model"),
                        **(coarse_settings or {}),
                    )
                # 4. CLAP, coarse → fine tokens
                if "fine_model" in num_steps:
                    fine_token_ids = self.generate_fine_tokens(
                        clap_token_ids,
                        coarse_token_ids,
                        audio_length_in_s,
                        own[2::3],
                        progress.stage("fine_model"),
                        **(fine_settings or {}),
                    )

                # 5. Tokens → waveform
                progress.say("waveform")
                audios = self.decode_tokens(coarse_token_ids, fine_token_ids, audio_length_in_s)
        except GenerationInterruptedError:
            self.maybe_free_model_hooks()
            audios = torch.zeros(batch_size, 1, 0)
            audios = audios.numpy() if output_type == "np" else audios
            return MusicLMPipelineOutput(audios) if return_dict else (audios,)

        # 6. Of the candidates, those nearest to the prompt
        similarities = kept = None
        if num_candidates is not None:
            ranking = rank_by_clap(
                self.clap, self.clap_processor, self._check_prompt(prompt), audios, self.sampling_rate
            )
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
        prompt: Prompt | Callable[[float], Prompt],
        audio_length_in_s: float | None = 10.0,
        num_waveforms_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        semantic_settings: dict | None = None,
        coarse_settings: dict | None = None,
        fine_settings: dict | None = None,
        output_type: str = "np",
    ) -> MusicStream:
        """Music piece by piece, as it is made: the audio of a whole call with the same arguments.

        Args:
            prompt: a text, several, or a function of the time in seconds that returns them. It is asked once for each
                window of the semantic stage, with the time at which the window's new part begins. The prompt may also
                be replaced on the way: `stream.prompt = "now with drums"`.
            audio_length_in_s: length of the audio; `None` goes on until nobody asks for more.
            num_waveforms_per_prompt, generator, semantic_settings, coarse_settings, fine_settings, output_type: as for
                a whole call.

        Returns:
            an iterator over (batch, channels, samples), of a second each (the last one may be shorter).

        Raises:
            ValueError: as a whole call does; and a codec that cannot decode in pieces.
        """
        if output_type not in ("np", "pt"):
            raise ValueError(f"`output_type` must be 'np' or 'pt', got {output_type!r}.")
        if isinstance(num_waveforms_per_prompt, bool) or num_waveforms_per_prompt < 1:
            raise ValueError(f"`num_waveforms_per_prompt` must be at least 1, got {num_waveforms_per_prompt!r}.")
        settings = {
            "semantic": semantic_settings or {},
            "coarse": coarse_settings or {},
            "fine": fine_settings or {},
        }
        return MusicStream(self, prompt, audio_length_in_s, num_waveforms_per_prompt, generator, settings, output_type)

    # ------------------------------------------------------------------ checks

    @staticmethod
    def _check_prompt(prompt: str | Sequence[str]) -> list[str]:
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise ValueError("`prompt` is an empty list; pass at least one text.")
        for text in prompts:
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"Every prompt must be a text that says something, got {text!r}.")
        return prompts

    def _duration(self, audio_length_in_s: float) -> Fraction:
        """The asked length, rounded up to the time grid."""
        number = isinstance(audio_length_in_s, int | float) and not isinstance(audio_length_in_s, bool)
        if not number or not math.isfinite(audio_length_in_s) or not 0 < audio_length_in_s <= MAX_LENGTH_IN_S:
            raise ValueError(
                f"`audio_length_in_s` must be a number of seconds above 0 and up to {MAX_LENGTH_IN_S:.0f}, got "
                f"{audio_length_in_s!r}."
            )
        return round_up(audio_length_in_s, self.time_grid)

    def _coarse_duration(self, duration: Fraction) -> Fraction:
        """A fine window is always whole, as in training."""
        return max(duration, round_up(to_fraction(self.fine_model.config.window_in_s), self.time_grid))

    def _semantic_duration(self, duration: Fraction) -> Fraction:
        """A coarse window is always whole, as in training."""
        shortest = round_up(to_fraction(self.coarse_model.config.window_in_s), self.time_grid)
        return max(self._coarse_duration(duration), shortest)

    def _generate(
        self, stage: MusicLMStageModel, conditions: dict, duration: Fraction, generator, on_token, settings: dict
    ) -> torch.Tensor:
        for stream in stage.condition_streams:
            if stream.frame_rate is None:
                continue
            token_ids = conditions[stream.argument]
            needed = int(duration * to_fraction(stream.frame_rate)) - stream.num_edge_frames
            if token_ids.shape[1] < needed:
                raise ValueError(
                    f"`{stream.argument}` has {token_ids.shape[1]} frames; {float(duration):g} s need {needed}."
                )
        generators = resolve_generators(generator, conditions["clap_token_ids"].shape[0])
        return generate_piece(stage, conditions, duration, self.time_grid, generators, on_token, **settings)

    def _num_steps(self, batch_size: int, duration: Fraction, semantic, coarse, fine) -> dict[str, int]:
        """Steps of the stages that will run, by name, in order."""
        durations = {}
        if semantic is None and coarse is None:
            durations["semantic_model"] = self._semantic_duration(duration)
        if coarse is None:
            durations["coarse_model"] = self._coarse_duration(duration)
        if fine is None:
            durations["fine_model"] = self._coarse_duration(duration)
        return {
            name: count_steps(getattr(self, name), durations[name], self.time_grid, batch_size) for name in durations
        }
