"""How a stage is asked for tokens: `generate`.

    conditioning streams (+ a beginning of the predicted one) ─ prefill ─→ logits ─ sample ─→ tokens of a step
                                                      decode_one_step ←───────────────────────┘

A decoder (`FastDecoder`, or `PlainDecoder` through the model's own forward) turns steps so far into the next logits.

Every token has the same frame and codebook whatever is drawn, so there is no stopping: the number of steps is known. A
step holds the tokens that the stream's pattern puts there (patterns.py), one in the flat pattern.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList

from ..decoding.compiled import CompiledDecoder, can_compile_steps
from ..decoding.cuda_graph import GraphDecoder, can_record_steps
from ..decoding.memory import explain_out_of_memory
from ..decoding.packed import FastDecoder, can_decode_fast
from ..decoding.sampling import GumbelNoise, resolve_generators, sample_tokens, standard_sampling
from .inputs import check_ranges, collect_streams, complete_streams
from .patterns import lay, num_columns, num_known_steps, num_steps, num_whole_frames, places_to_draw, take_up
from .sequence import check_positions
from .streams import TokenStream, unflatten_tokens

#: what `fast` may be besides True and False
FAST_WAYS = ("compile", "int8", "graph")


class PlainDecoder:
    """Tokens one at a time through the model's own `forward`, with a growing cache or with none."""

    def __init__(self, model, streams: dict[str, torch.Tensor], mask_condition_eos: bool, use_cache: bool):
        self.model = model
        self.streams = streams
        self.argument = model.predicted_stream.argument
        self.options = {"mask_condition_eos": mask_condition_eos, "use_cache": use_cache}
        self.cache = None

    def prefill(self, steps: torch.Tensor) -> torch.Tensor:
        """The conditioning and the known steps (batch, steps, columns) → next logits (batch, columns, vocabulary)."""
        outputs = self.model(**self.streams, **{self.argument: steps}, in_steps=True, **self.options)
        self.cache = outputs.past_key_values
        return outputs.logits[:, -1]

    def decode_one_step(self, steps: torch.Tensor) -> torch.Tensor:
        """All steps so far (batch, steps, columns), the last one new → next logits (batch, columns, vocabulary)."""
        if self.cache is None:
            return self.prefill(steps)
        newest = {self.argument: steps[:, -1:]}
        return self.model(**newest, past_key_values=self.cache, use_cache=True, in_steps=True).logits[:, -1]

    def explain_out_of_memory(self, batch_size: int, num_steps: int):
        """See memory.py."""
        rows = sum(token_ids.shape[1] for token_ids in self.streams.values()) + num_steps

        def release() -> None:
            self.cache = None

        return explain_out_of_memory(self.model, batch_size, rows, batch_size * rows, release)


class TokenRun:
    """A `generate` call under way.

    Args:
        decoder: steps so far → next logits.
        stream: the predicted stream.
        given (batch, tokens): its beginning, whole frames.
        num_frames: frames to make, the beginning counted in.
        processors: of the scores, in float32 and with EOS forbidden.
        noise: of each sample's steps, for all columns; `None` takes the best token.
        on_token: called after each step with the number of steps done.
    """

    def __init__(
        self,
        decoder: PlainDecoder | FastDecoder,
        stream: TokenStream,
        given: torch.Tensor,
        num_frames: int,
        processors: LogitsProcessorList,
        noise: GumbelNoise | None,
        on_token: Callable[[int], None] | None = None,
    ):
        self.decoder = decoder
        self.stream = stream
        self.processors = processors
        self.standard = standard_sampling(processors, stream.codebook_size)
        self.noise = iter(noise) if noise is not None else None
        self.on_token = on_token
        self.num_frames = num_frames
        self.num_given_frames = given.shape[1] // stream.num_codebooks
        self.num_given = self.num_made = num_known_steps(stream, self.num_given_frames)
        if self.num_given_frames == num_frames:
            self.num_made = num_steps(stream, num_frames)
        missing = num_frames * stream.num_codebooks - given.shape[1]
        #: (batch, steps, columns): what is known, and in the places to draw nothing yet
        self.steps = lay(F.pad(given, (0, missing)), stream).contiguous()
        self.places = places_to_draw(stream, self.num_given_frames, num_frames).to(given.device)

    @property
    def frames(self) -> torch.Tensor:
        """What there is: (batch, frames) for one codebook, else (batch, frames, num_codebooks)."""
        num_frames = max(num_whole_frames(self.stream, self.num_made), self.num_given_frames)
        made = take_up(self.steps[:, : num_steps(self.stream, num_frames)], self.stream)
        return unflatten_tokens(made, self.stream)

    @property
    def is_done(self) -> bool:
        return self.num_made == self.steps.shape[1]

    @torch.no_grad()
    def advance(self, num_frames: int) -> None:
        """Go on until there are `num_frames` frames (or all that were asked for)."""
        stop = num_steps(self.stream, min(num_frames, self.num_frames))
        if self.num_made < stop:
            with self.decoder.explain_out_of_memory(*self.steps.shape[:2]):
                self._advance(stop)

    def _advance(self, stop: int) -> None:
        while self.num_made < stop:
            so_far = self.steps[:, : self.num_made]
            first = self.num_made == self.num_given
            if isinstance(self.decoder, GraphDecoder) and not first:
                for num_made in self.decoder.decode_and_sample(self.steps[..., 0], self.num_made, stop, self.noise):
                    self._report(num_made)
                break
            logits = self.decoder.prefill(so_far) if first else self.decoder.decode_one_step(so_far)
            noise = next(self.noise).view_as(logits) if self.noise is not None else None
            drawn = self._sample(logits, noise)
            self.steps[:, self.num_made] = torch.where(self.places[self.num_made], drawn, self.steps[:, self.num_made])
            self._report(self.num_made + 1)
        if self.is_done and isinstance(self.decoder, GraphDecoder):
            self.decoder.close()

    def _report(self, num_made: int) -> None:
        self.num_made = num_made
        if self.on_token is not None:
            self.on_token(num_made - self.num_given)

    def _sample(self, logits: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        """Logits and noise (batch, columns, vocabulary) → ids (batch, columns), a column as its own history goes on."""
        if self.standard is not None:
            drawn = self.standard(logits.flatten(0, 1), None if noise is None else noise.flatten(0, 1))
            return drawn.view(logits.shape[:2])
        scores = logits.float()
        scores[..., self.stream.eos_id] = -torch.inf  # a stream's length is what was asked for
        columns = []
        for column in range(scores.shape[1]):
            begun = column if self.stream.pattern == "delay" else 0
            history = self.steps[:, begun : self.num_made, column]
            own_noise = None if noise is None else noise[:, column]
            columns.append(sample_tokens(self.processors(history, scores[:, column]), own_noise))
        return torch.stack(columns, dim=1)


class StageGenerationMixin(GenerationMixin):
    """`generate` of a stage."""

    def adjust_generation_fn(self, *args, **kwargs) -> None:
        """Keeps the config's sampling settings where a stage comes without its generation_config.json."""
        own = self.generation_config
        super().adjust_generation_fn(*args, **kwargs)
        if self.generation_config._from_model_config:
            self.generation_config = own

    def generate(
        self,
        num_frames: int,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        on_token: Callable[[int], None] | None = None,
        fast: bool | str = True,
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
            fast: decode on packed weights where the model allows it (see packed.py); `False` goes through the
                model's own `forward` for every token, as does a model with hooks, adapters or quantized weights.
                `"compile"` compiles the step for a single sample on a CPU (see compiled.py): faster after half a
                minute's compiling, which is kept on disk; it needs a C++ compiler.
                `"int8"` reads weights rounded to int8 while one or two samples decode on a CPU in bfloat16: faster
                there, and not the same tokens.
                `"graph"` records the step as a CUDA graph (see cuda_graph.py): new, and not yet run on many GPUs.
            kwargs: the conditioning streams as `{name}_token_ids`, optional ones left out or `-1` for samples that lack
                them; the predicted stream under its own name for a
                beginning to keep; and settings that override the generation config (`temperature=0.8`, `top_k=50`,
                `do_sample=False`, `use_cache=False`, …).

        Returns:
            (batch, num_frames) ids for one codebook, else (batch, num_frames, num_codebooks).

        Raises:
            ValueError: streams missing, unknown or out of range; a beginning longer than `num_frames`, or of broken
                frames; generators that do not match the batch.
        """
        run = self.start_generation(
            num_frames, generator, generation_config, logits_processor, on_token, fast, **kwargs
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
        fast: bool | str = True,
        **kwargs,
    ) -> TokenRun:
        """[`generate`], to be carried on some frames at a time; its arguments and errors, and the same tokens."""
        if fast not in (True, False, *FAST_WAYS):
            raise ValueError(f"`fast` must be True, False, {', '.join(map(repr, FAST_WAYS))}, got {fast!r}.")
        stream = self.predicted_stream
        streams = {name: kwargs.pop(name) for name in list(kwargs) if name.endswith("_token_ids")}
        streams = {name: token_ids for name, token_ids in streams.items() if token_ids is not None}
        settings, unknown = self._prepare_generation_config(generation_config, **kwargs)
        if unknown:
            raise ValueError(f"`generate` does not know the setting {next(iter(unknown))!r}.")
        streams, given = self._check_streams(streams, num_frames, generator)
        generators = resolve_generators(generator, given.shape[0])

        processors = self._get_logits_processor(
            settings,
            input_ids_seq_length=given.shape[1],
            logits_processor=logits_processor if logits_processor is not None else LogitsProcessorList(),
            device=self.device,
        )
        drawn = num_columns(stream) * (stream.codebook_size + 1)
        noise = GumbelNoise(generators, drawn, self.device) if settings.do_sample else None
        decoder: PlainDecoder | FastDecoder
        use_cache = settings.use_cache is not False
        if fast and use_cache and can_decode_fast(self):
            arguments = (self, streams, num_steps(stream, num_frames), settings.mask_condition_eos)
            standard = standard_sampling(processors, stream.codebook_size)
            can_record = can_record_steps(self.device) and standard is not None and num_columns(stream) == 1
            if fast == "graph" and can_record:
                decoder = GraphDecoder(*arguments, standard, settings.do_sample)
            elif fast == "compile" and can_compile_steps(self.device, len(given)):
                decoder = CompiledDecoder(*arguments)
            else:
                decoder = FastDecoder(*arguments, int8=fast == "int8")
        else:
            decoder = PlainDecoder(self, streams, settings.mask_condition_eos, use_cache)
        return TokenRun(decoder, stream, given, num_frames, processors, noise, on_token)

    def _check_streams(
        self, streams: dict[str, torch.Tensor], num_frames: int, generator
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Refuse what cannot be generated from.

        Returns:
            The conditioning streams by argument name, and the predicted one's beginning, (batch, tokens) each.
        """
        stream = self.predicted_stream
        if isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 1:
            raise ValueError(f"`num_frames` must be a positive integer, got {num_frames!r}.")
        flat = collect_streams(streams, self.streams, type(self).__name__)
        check_ranges(flat, self.streams)
        for name, token_ids in flat.items():
            if not len(token_ids):
                raise ValueError(f"`{name}_token_ids` is an empty batch.")
        batch_size = len(generator) if isinstance(generator, Sequence) else 1  # for a stage that is given nothing
        batch_size = next((len(token_ids) for token_ids in flat.values()), batch_size)
        flat = complete_streams(flat, self.streams, num_frames, batch_size, self.device)
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
        if (given < 0).any():
            raise ValueError(f"`{stream.argument}`: the beginning of the predicted stream cannot hold padding.")
        check_positions(stream, num_steps(stream, num_frames), self.config.max_position_embeddings)
        return {each.argument: flat[each.name] for each in self.condition_streams}, given
