"""How a stage is asked for tokens: `generate`.

    conditioning streams (+ a beginning of the predicted one) ─ prefill ─→ logits ─ sample ─→ tokens of a step
                                                              advance ←───────────────────────┘

A back-end (decoding/interface.py) turns steps so far into the next logits, and a sampler draws from them.

Every token has the same frame and codebook whatever is drawn, so there is no stopping: the number of steps is known. A
step holds the tokens that the stream's pattern puts there (patterns.py), one in the flat pattern.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList

from ..decoding.interface import Backend, Request, Stage
from ..decoding.registry import choose_backend
from ..decoding.sampling import StepSampler, resolve_generators
from ..given import shown
from .configuration import MusicLMStageConfig
from .generation_settings import check_settings, check_values
from .guidance import find_guidance_stream, id_of_scale
from .inputs import check_ranges, collect_streams, complete_streams
from .patterns import num_known_steps, num_steps, num_whole_frames, take_up
from .sequence import check_positions
from .streams import PADDING_ID, TokenStream, unflatten_tokens


class TokenRun:
    """A `generate` call under way.

    Args:
        backend: steps so far → next logits.
        sampler: draws from them, and holds the steps.
        num_given, num_frames: frames of the beginning, and frames to make with these counted in.
        on_token: called after each step with the number of steps done.
    """

    def __init__(
        self,
        backend: Backend,
        sampler: StepSampler,
        num_given: int,
        num_frames: int,
        on_token: Callable[[int], None] | None = None,
    ):
        self.backend = backend
        self.sampler = sampler
        self.stream = sampler.stream
        self.num_given, self.num_frames = num_given, num_frames
        self.on_token = on_token
        self.num_known = num_known_steps(self.stream, num_given)
        self.num_made = self.num_known if num_given < num_frames else sampler.steps.shape[1]

    @property
    def frames(self) -> torch.Tensor:
        """What there is: (batch, frames) for one codebook, else (batch, frames, num_codebooks)."""
        num_frames = max(num_whole_frames(self.stream, self.num_made), self.num_given)
        steps = self.sampler.steps[: self.sampler.num_samples, : num_steps(self.stream, num_frames)]
        return unflatten_tokens(take_up(steps, self.stream), self.stream)

    @property
    def is_done(self) -> bool:
        return self.num_made == self.sampler.steps.shape[1]

    @torch.no_grad()
    def advance(self, num_frames: int) -> None:
        """Go on until there are `num_frames` frames (or all that were asked for)."""
        stop = num_steps(self.stream, min(num_frames, self.num_frames))
        if self.num_made >= stop:
            return
        with self.backend.explain_out_of_memory():
            if self.num_made == self.num_known:
                logits = self.backend.prefill(self.sampler.steps[:, : self.num_known])
                self.sampler.draw(self.num_known, logits)
                self._report(self.num_known + 1)
            for num_made in self.backend.advance(self.sampler, self.num_made, stop):
                self._report(num_made)
        if self.is_done:
            self.backend.close()

    def _report(self, num_made: int) -> None:
        self.num_made = num_made
        if self.on_token is not None:
            self.on_token(num_made - self.num_known)


class StageGenerationMixin(GenerationMixin):
    """`generate` of a stage."""

    config: MusicLMStageConfig
    streams: list[TokenStream]

    @property
    def predicted_stream(self) -> TokenStream:
        return self.streams[-1]

    @property
    def condition_streams(self) -> list[TokenStream]:
        return self.streams[:-1]

    def adjust_generation_fn(self, *args, **kwargs) -> None:
        """Keeps the config's sampling settings where a stage comes without its generation_config.json."""
        own = self.generation_config
        super().adjust_generation_fn(*args, **kwargs)  # type: ignore[misc]
        if self.generation_config._from_model_config:
            self.generation_config = own

    def generate(  # type: ignore[override]
        self,
        num_frames: int,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        on_token: Callable[[int], None] | None = None,
        fast: bool | str | Sequence[str] | None = None,
        negative_streams: Mapping[str, torch.Tensor] | None = None,
        force_guidance: bool = False,
        **kwargs,
    ) -> torch.Tensor:
        """Continue the predicted stream, given the conditioning streams.

        Args:
            num_frames: frames of the predicted stream to return, a given beginning counted in.
            generator: one `torch.Generator`, or one for each sample; a sample's tokens depend on its own only. `None`
                draws from the system's entropy. The global random state is neither read nor set.
            generation_config: sampling settings; by default those saved beside the weights. Its
                `mask_condition_eos` hides the conditioning streams' EOS as in training.
            logits_processor: further processors, given the predicted ids so far (batch, tokens) and the scores; in a
                pattern of several columns each codebook by itself, with its own ids.
            on_token: called after each step with the number of steps done (for a progress bar).
            fast: which back-end computes the steps (decoding/registry.py). By default the fastest that makes the plain
                loop's tokens and serves this request. `False` goes through the model's own `forward` for every step, as
                does a model with hooks, adapters or quantized weights. `"compile"` compiles the step for one sample
                on a CPU: faster after half a minute's compiling, which is kept on disk; it needs a C++ compiler.
                `"int8"` reads weights rounded to int8 while one or two samples decode on a CPU in bfloat16: faster
                there, and not the same tokens. `"graph"`, the default on CUDA, records the step as a CUDA graph, and
                `"graph-int8"` reads rounded weights in it. One that is named and does not support the request is
                refused with the reason; several names are tried in their order.
            negative_streams: with guidance, what the other branch is given, by argument name, in place of nothing: a
                negative prompt's CLAP tokens. Conditioning streams that are not in it are hidden there. Fewer rows than
                the batch has are repeated.
            force_guidance: allow guidance of a stage that was never trained to do without its conditioning.
            kwargs: the conditioning streams as `{name}_token_ids`, optional ones left out or `-1` for samples that lack
                them; the predicted stream under its own name for a
                beginning to keep; and settings that override the generation config (`temperature=0.8`, `top_k=50`,
                `do_sample=False`, `use_cache=False`, …). `guidance_scale` (MusicGen, Copet et al. 2023, section 3.2) mixes
                two branches: the scores without the conditioning, and so many times what the conditioning adds; 1, or
                `None`, is no guidance. A stage that reads the scale as a token (guidance.py) computes one branch, unless
                there are negative streams or it was never taught a scale so small or large.

        Returns:
            (batch, num_frames) ids for one codebook, else (batch, num_frames, num_codebooks).

        Raises:
            ValueError: streams missing, unknown or out of range; a beginning longer than `num_frames`, or of broken
                frames; generators that do not match the batch.
        """
        if "checked" in kwargs:  # which is no setting
            raise ValueError("`generate` does not know the setting 'checked'.")
        run = self.start_generation(
            num_frames,
            generator,
            generation_config,
            logits_processor,
            on_token,
            fast,
            negative_streams,
            force_guidance,
            **kwargs,
        )
        run.advance(num_frames)
        return run.frames

    def start_generation(
        self,
        num_frames: int,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        on_token: Callable[[int], None] | None = None,
        fast: bool | str | Sequence[str] | None = None,
        negative_streams: Mapping[str, torch.Tensor] | None = None,
        force_guidance: bool = False,
        checked: bool = False,
        **kwargs,
    ) -> TokenRun:
        """[`generate`], to be carried on some frames at a time; its arguments and errors, and the same tokens.

        Args:
            checked: the ids are known to lie in their codebooks, and the beginning to hold no padding: then a GPU is not
                asked for their values, for which it would have to finish all that it was given before.
        """
        stage = cast(Stage, self)
        for name, value, kind in (
            ("generation_config", generation_config, GenerationConfig),
            ("logits_processor", logits_processor, list),
            ("negative_streams", negative_streams, Mapping),
        ):
            if value is not None and not isinstance(value, kind):
                raise ValueError(f"`{name}` must be a {kind.__name__}, got {shown(value)}.")
        for each in logits_processor or ():
            if not callable(each):
                raise ValueError(f"`logits_processor` must hold functions of ids and scores, got {shown(each)}.")
        for name, value in kwargs.items():
            if hasattr(value, "shape") and value.shape and not name.endswith("_token_ids"):
                raise ValueError(f"`{name}` must be one value, got {shown(value)}.")
        streams = {name: kwargs.pop(name) for name in list(kwargs) if name.endswith("_token_ids")}
        check_values(kwargs)
        settings, unknown = self._prepare_generation_config(generation_config, **kwargs)  # type: ignore[misc]
        if unknown:
            raise ValueError(f"`generate` does not know the setting {next(iter(unknown))!r}.")
        check_settings(kwargs, settings)
        streams, given = self._check_streams(streams, num_frames, generator, checked)
        generators = resolve_generators(generator, given.shape[0])
        scale = self._check_guidance(settings.guidance_scale, negative_streams, force_guidance)
        if scale is not None and negative_streams is None:
            scale = self._guide_by_token(scale, streams)
        settings.guidance_scale = None  # transformers' own takes two forward passes
        if scale is not None:
            negative = self._negative_streams(negative_streams or {}, streams)
            streams = {name: torch.cat([token_ids, negative[name]]) for name, token_ids in streams.items()}

        processors = self._get_logits_processor(  # type: ignore[misc]
            settings,
            input_ids_seq_length=given.shape[1],
            logits_processor=logits_processor if logits_processor is not None else LogitsProcessorList(),
            device=str(stage.device),
        )
        stream = self.predicted_stream
        sampler = StepSampler(stream, given, num_frames, processors, generators if settings.do_sample else None, scale)
        request = Request(
            streams,
            num_rows=len(sampler.steps),
            num_steps=sampler.steps.shape[1],
            mask_condition_eos=getattr(settings, "mask_condition_eos", True),
            use_cache=settings.use_cache is not False,
            guidance_scale=scale,
            sampling=sampler.standard,
            do_sample=settings.do_sample,
        )
        backend = choose_backend(stage, request, fast)
        return TokenRun(backend, sampler, given.shape[1] // stream.num_codebooks, num_frames, on_token)

    def _check_guidance(self, scale: float | None, negative_streams: Mapping | None, force: bool) -> float | None:
        """The scale, `None` for no guidance; refuses guidance that cannot work."""
        if scale is None or scale == 1:
            if negative_streams is not None:
                raise ValueError(f"`negative_streams` needs a `guidance_scale` other than 1, got {shown(scale)}.")
            return None
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
            raise ValueError(f"`guidance_scale` must be a number, got {shown(scale)}.")
        owner = type(self).__name__
        if not self.condition_streams:
            raise ValueError(f"{owner} has no conditioning streams, so there is nothing that guidance could add.")
        if not self.config.condition_dropout and not force:
            raise ValueError(
                f"`guidance_scale` {scale!r} compares {owner} with and without its conditioning, and it was never trained "
                "without (`condition_dropout` is 0 in its config). Leave guidance out, train with dropout, or pass "
                "`force_guidance=True` to hear what comes of it."
            )
        return float(scale)

    def _guide_by_token(self, scale: float, streams: dict[str, torch.Tensor]) -> float | None:
        """Says the scale to a stage that reads it, in its stream; what is left for two branches to do."""
        stream = find_guidance_stream(self.condition_streams)
        token_id = None if stream is None else id_of_scale(scale, stream)
        if stream is None or token_id is None or (streams[stream.argument] != PADDING_ID).any():
            return scale
        streams[stream.argument] = torch.full_like(streams[stream.argument], token_id)
        return None

    def _negative_streams(
        self, given: Mapping[str, torch.Tensor], streams: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The other branch's conditioning by argument name, as long as the first one's: what is given, the rest hidden."""
        conditions = self.condition_streams
        optional = [replace(stream, optional=True) for stream in conditions]
        flat = collect_streams(given, [*optional, self.predicted_stream], f"{type(self).__name__}'s negative branch")
        if self.predicted_stream.name in flat:
            raise ValueError(f"`negative_streams` cannot hold the predicted stream {self.predicted_stream.name!r}.")
        check_ranges(flat, conditions)
        negative = {}
        for stream in conditions:
            own = streams[stream.argument]
            token_ids = flat.get(stream.name)
            if token_ids is None:
                negative[stream.argument] = torch.full_like(own, PADDING_ID)
                continue
            if token_ids.shape[1] != own.shape[1] or not len(token_ids) or len(own) % len(token_ids):
                raise ValueError(
                    f"`negative_streams`: `{stream.argument}` has the shape {tuple(token_ids.shape)} where the "
                    f"conditional branch has {tuple(own.shape)}; they must be as long, and as many or so many that they "
                    "can be repeated."
                )
            negative[stream.argument] = token_ids.to(own.device).repeat(len(own) // len(token_ids), 1)
        return negative

    def _check_streams(
        self, streams: dict[str, torch.Tensor], num_frames: int, generator, checked: bool
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Refuse what cannot be generated from.

        Returns:
            The conditioning streams by argument name, and the predicted one's beginning, (batch, tokens) each.
        """
        stream = self.predicted_stream
        if isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 1:
            raise ValueError(f"`num_frames` must be a positive integer, got {shown(num_frames)}.")
        flat = collect_streams(streams, self.streams, type(self).__name__)
        if not checked:
            check_ranges(flat, self.streams)
        for name, token_ids in flat.items():
            if not len(token_ids):
                raise ValueError(f"`{name}_token_ids` is an empty batch.")
        batch_size = len(generator) if isinstance(generator, Sequence) else 1  # for a stage that is given nothing
        batch_size = next((len(token_ids) for token_ids in flat.values()), batch_size)
        flat = complete_streams(flat, self.streams, num_frames, batch_size, cast(Stage, self).device)
        given = flat.pop(stream.name)
        if given.shape[1] % stream.num_codebooks:
            raise ValueError(
                f"`{stream.argument}` has {given.shape[1]} tokens a sample: a beginning must be whole frames of "
                f"{stream.num_codebooks}."
            )
        if given.shape[1] > num_frames * stream.num_codebooks:
            raise ValueError(
                f"`{stream.argument}` already has {given.shape[1] // stream.num_codebooks} frames; `num_frames` "
                f"({num_frames}) counts them in."
            )
        if not checked and (given < 0).any():
            raise ValueError(f"`{stream.argument}`: the beginning of the predicted stream cannot hold padding.")
        check_positions(stream, num_steps(stream, num_frames), self.config.max_position_embeddings)
        return {each.argument: flat[each.name] for each in self.condition_streams}, given
