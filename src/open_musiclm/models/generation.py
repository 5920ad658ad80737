"""How a stage is asked for tokens: `generate`.

    conditioning streams (+ a beginning of the predicted one) ─ prefill ─→ logits ─ sample ─→ token
                                                     decode_one_token ←──────────────────────┘

A decoder (`FastDecoder`, or `PlainDecoder` through the model's own forward) turns tokens so far into the next logits.

Every token has the same frame and codebook whatever is drawn, so there is no stopping: the number of steps is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList

from ..decoding.compiled import CompiledDecoder, can_compile_steps
from ..decoding.cuda_graph import GraphDecoder, can_record_steps
from ..decoding.memory import explain_out_of_memory
from ..decoding.packed import FastDecoder, can_decode_fast
from ..decoding.sampling import GumbelNoise, resolve_generators, sample_tokens, standard_sampling
from .streams import TokenStream, check_token_range, flatten_tokens, unflatten_tokens

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

    def prefill(self, token_ids: torch.Tensor) -> torch.Tensor:
        """The conditioning and the predicted stream's beginning (batch, tokens) → next logits (batch, vocabulary)."""
        outputs = self.model(**self.streams, **{self.argument: token_ids}, **self.options)
        self.cache = outputs.past_key_values
        return outputs.logits[:, -1]

    def decode_one_token(self, token_ids: torch.Tensor) -> torch.Tensor:
        """All predicted tokens so far (batch, tokens), the last one new → next logits (batch, vocabulary)."""
        if self.cache is None:
            return self.prefill(token_ids)
        outputs = self.model(**{self.argument: token_ids[:, -1:]}, past_key_values=self.cache, use_cache=True)
        return outputs.logits[:, -1]

    def explain_out_of_memory(self, batch_size: int, num_tokens: int):
        """See memory.py."""
        rows = sum(token_ids.shape[1] for token_ids in self.streams.values()) + num_tokens

        def release() -> None:
            self.cache = None

        return explain_out_of_memory(self.model, batch_size, rows, batch_size * rows, release)


class TokenRun:
    """A `generate` call under way.

    Args:
        decoder: tokens so far → next logits.
        stream: the predicted stream.
        given (batch, tokens): its beginning.
        num_tokens: tokens to make, the beginning counted in.
        processors: of the scores, in float32 and with EOS forbidden.
        noise: of each sample; `None` takes the best token.
        on_token: called after each step with the number of steps done.
    """

    def __init__(
        self,
        decoder: PlainDecoder | FastDecoder,
        stream: TokenStream,
        given: torch.Tensor,
        num_tokens: int,
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
        self.num_given = self.num_made = given.shape[1]
        self.token_ids = given.new_empty(len(given), num_tokens)
        self.token_ids[:, : self.num_given] = given

    @property
    def frames(self) -> torch.Tensor:
        """What there is: (batch, frames) for one codebook, else (batch, frames, num_codebooks)."""
        return unflatten_tokens(self.token_ids[:, : self.num_made], self.stream)

    @property
    def is_done(self) -> bool:
        return self.num_made == self.token_ids.shape[1]

    @torch.no_grad()
    def advance(self, num_frames: int) -> None:
        """Go on until there are `num_frames` frames (or all that were asked for)."""
        stop = min(num_frames * self.stream.num_codebooks, self.token_ids.shape[1])
        if self.num_made < stop:
            with self.decoder.explain_out_of_memory(*self.token_ids.shape):
                self._advance(stop)

    def _advance(self, stop: int) -> None:
        while self.num_made < stop:
            so_far = self.token_ids[:, : self.num_made]
            first = self.num_made == self.num_given
            if isinstance(self.decoder, GraphDecoder) and not first:
                for num_made in self.decoder.decode_and_sample(self.token_ids, self.num_made, stop, self.noise):
                    self._report(num_made)
                break
            logits = self.decoder.prefill(so_far) if first else self.decoder.decode_one_token(so_far)
            noise = next(self.noise) if self.noise is not None else None
            self.token_ids[:, self.num_made] = self._sample(so_far, logits, noise)
            self._report(self.num_made + 1)
        if self.is_done and isinstance(self.decoder, GraphDecoder):
            self.decoder.close()

    def _report(self, num_made: int) -> None:
        self.num_made = num_made
        if self.on_token is not None:
            self.on_token(num_made - self.num_given)

    def _sample(self, so_far: torch.Tensor, logits: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        if self.standard is not None:
            return self.standard(logits, noise)
        scores = logits.float()
        scores[:, self.stream.eos_id] = -torch.inf  # a stream's length is what was asked for
        return sample_tokens(self.processors(so_far, scores), noise)


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
            logits_processor: further processors, given the predicted ids so far (batch, tokens), flat, and the scores.
            on_token: called after each step with the number of steps done (for a progress bar).
            fast: decode on packed weights where the model allows it (see packed.py); `False` goes through the
                model's own `forward` for every token, as does a model with hooks, adapters or quantized weights.
                `"compile"` compiles the step for a single sample on a CPU (see compiled.py): faster after half a
                minute's compiling, which is kept on disk; it needs a C++ compiler.
                `"int8"` reads weights rounded to int8 while one or two samples decode on a CPU in bfloat16: faster
                there, and not the same tokens.
                `"graph"` records the step as a CUDA graph (see cuda_graph.py): new, and not yet run on many GPUs.
            kwargs: the conditioning streams as `{name}_token_ids`; the predicted stream under its own name for a
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
        given = self._check_streams(streams, num_frames)
        batch_size = given.shape[0]
        generators = resolve_generators(generator, batch_size)

        num_tokens = num_frames * stream.num_codebooks
        processors = self._get_logits_processor(
            settings,
            input_ids_seq_length=given.shape[1],
            logits_processor=logits_processor if logits_processor is not None else LogitsProcessorList(),
            device=self.device,
        )
        noise = GumbelNoise(generators, stream.codebook_size + 1, self.device) if settings.do_sample else None
        decoder: PlainDecoder | FastDecoder
        use_cache = settings.use_cache is not False
        if fast and use_cache and can_decode_fast(self):
            arguments = (self, streams, num_tokens, settings.mask_condition_eos)
            standard = standard_sampling(processors, stream.codebook_size)
            if fast == "graph" and can_record_steps(self.device) and standard is not None:
                decoder = GraphDecoder(*arguments, standard, settings.do_sample)
            elif fast == "compile" and can_compile_steps(self.device, batch_size):
                decoder = CompiledDecoder(*arguments)
            else:
                decoder = FastDecoder(*arguments, int8=fast == "int8")
        else:
            decoder = PlainDecoder(self, streams, settings.mask_condition_eos, use_cache)
        return TokenRun(decoder, stream, given, num_tokens, processors, noise, on_token)

    def _check_streams(self, streams: dict[str, torch.Tensor], num_frames: int) -> torch.Tensor:
        """Refuse what cannot be generated from; returns the predicted stream's beginning (batch, tokens)."""
        stream = self.predicted_stream
        if isinstance(num_frames, bool) or not isinstance(num_frames, int) or num_frames < 1:
            raise ValueError(f"`num_frames` must be a positive integer, got {num_frames!r}.")
        arguments = {s.argument: s for s in self.streams}
        for name in streams:
            if name not in arguments:
                raise ValueError(f"{type(self).__name__} has no {name!r}; it takes {', '.join(arguments)}.")
        flat = {}
        for name, each in arguments.items():
            if name in streams:
                flat[name] = flatten_tokens(streams[name], each).to(self.device)
                check_token_range(flat[name], each)
                if not len(flat[name]):
                    raise ValueError(f"`{name}` is an empty batch.")
            elif each is not self.streams[-1]:
                raise ValueError(f"{type(self).__name__} needs `{name}`; it takes {', '.join(arguments)}.")
        first = next(iter(flat.values()))
        given = flat.get(stream.argument)
        if given is None:
            given = first.new_empty(len(first), 0)
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
        streams.pop(stream.argument, None)
        return given
