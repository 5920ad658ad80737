"""Drawing tokens: Gumbel-max with noise that belongs to each sample's own generator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper

from ..given import shown
from ..models.patterns import lay, num_columns, places_to_draw
from ..models.streams import TokenStream

#: steps of noise drawn at a time; part of what a seed means, so changing it changes every seeded result
NOISE_BLOCK = 64
#: threads that draw it beside a GPU's work
NOISE_THREADS = 8


def resolve_generators(generator: torch.Generator | Sequence[torch.Generator] | None, batch_size: int):
    """One generator a sample.

    Args:
        generator: one for the whole batch, one for each sample, or `None` for fresh ones seeded by the system.

    Raises:
        ValueError: no generators, or a list of another length than the batch.
    """
    if generator is None:
        generators = [torch.Generator() for _ in range(batch_size)]
        for fresh in generators:
            fresh.seed()  # from the system's entropy, not from the global state
        return generators
    if isinstance(generator, torch.Generator):
        return [generator] * batch_size
    generators = list(generator) if isinstance(generator, Sequence) else [generator]
    for each in generators:
        if not isinstance(each, torch.Generator):
            raise ValueError(
                f"`generator` must be a `torch.Generator`, or one for each sample, got {shown(each)}. For a seed: "
                "`torch.Generator().manual_seed(0)`."
            )
    if len(generators) != batch_size:
        raise ValueError(
            f"Got {len(generators)} generators for a batch of {batch_size}; pass one generator, or one for each sample."
        )
    return generators


def spawn_generators(generators: Sequence[torch.Generator], num_each: int) -> list[torch.Generator]:
    """`num_each` independent generators from each, seeded by its next draws: [g0 c0, g0 c1, …, g1 c0, …]."""
    children = []
    for generator in generators:
        seeds = torch.randint(2**63 - 1, (num_each,), generator=generator, device=generator.device)
        children += [torch.Generator(generator.device).manual_seed(seed) for seed in seeds.tolist()]
    return children


class GumbelNoise:
    """A stream of standard Gumbel noise for each sample, drawn a block of steps at a time.

    A sample's noise depends on its own generator alone: not on the rest of the batch, the device of the model, or how
    the logits are computed.
    """

    def __init__(self, generators: Sequence[torch.Generator], vocabulary_size: int, device: torch.device):
        self.generators = list(generators)
        self.vocabulary_size = vocabulary_size
        self.device = device

    def block(self) -> torch.Tensor:
        """The next `NOISE_BLOCK` steps: (steps, batch, vocabulary_size) float32 on the device."""
        uniform = self._uniform_beside() if self._draws_beside else self._uniform()
        uniform = uniform.clamp_(min=torch.finfo(torch.float32).tiny)
        return uniform.log_().neg_().log_().neg_()

    def _uniform(self) -> torch.Tensor:
        draws = [
            torch.rand(NOISE_BLOCK, self.vocabulary_size, generator=generator, device=generator.device).to(self.device)
            for generator in self.generators
        ]
        return torch.stack(draws, dim=1)

    @property
    def _draws_beside(self) -> bool:
        """Whether the draws are made on the host for a GPU, each sample's by a generator of its own."""
        on_host = all(generator.device.type == "cpu" for generator in self.generators)
        return self.device.type == "cuda" and on_host and len(set(map(id, self.generators))) == len(self.generators)

    def _uniform_beside(self) -> torch.Tensor:
        """The same draws, made by several threads and copied while the GPU goes on with the steps before.

        The memory is pinned, so the copy waits for nothing; PyTorch does not hand it out again before it is done.
        """
        shape = len(self.generators), NOISE_BLOCK, self.vocabulary_size
        drawn = torch.empty(shape, pin_memory=torch.cuda.is_available())

        def draw(place: int) -> None:
            torch.rand(*shape[1:], generator=self.generators[place], out=drawn[place])

        with ThreadPoolExecutor(min(len(self.generators), NOISE_THREADS)) as threads:
            list(threads.map(draw, range(len(self.generators))))
        return drawn.to(self.device, non_blocking=True).transpose(0, 1).contiguous()

    def __iter__(self):
        """Step by step: (batch, vocabulary_size)."""
        while True:
            yield from self.block()


def sample_tokens(scores: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
    """Gumbel-max: (batch, vocabulary) scores and noise → (batch,) ids; without noise the best id."""
    return (scores if noise is None else scores + noise).argmax(dim=-1)


@dataclass(frozen=True)
class StandardSampling:
    """Temperature, then the best `top_k`, then Gumbel-max: what nearly every call asks for, as few tensor operations."""

    codebook_size: int
    temperature: float = 1.0
    top_k: int | None = None

    def __call__(self, logits: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        """Logits and noise (batch, codebook_size + 1) → ids (batch,); EOS, the last entry, is never drawn."""
        scores = logits[:, : self.codebook_size].float()
        if noise is None:
            return scores.argmax(dim=-1)
        if self.temperature != 1.0:
            scores = scores / self.temperature
        if self.top_k is not None and self.top_k < self.codebook_size:
            worst = scores.topk(self.top_k, dim=-1).values[:, -1:]
            scores = scores.masked_fill(scores < worst, -torch.inf)
        return (scores + noise[:, : self.codebook_size]).argmax(dim=-1)


def standard_sampling(processors: LogitsProcessorList, codebook_size: int) -> StandardSampling | None:
    """The same as these processors, or `None` if they do anything else."""
    settings: dict = {}
    for processor in processors:
        if type(processor) is TemperatureLogitsWarper and not settings:
            settings["temperature"] = processor.temperature
        elif type(processor) is TopKLogitsWarper and "top_k" not in settings:
            if processor.filter_value != -float("inf"):
                return None
            settings["top_k"] = processor.top_k
        else:
            return None
    return StandardSampling(codebook_size, **settings)


class StepSampler:
    """Draws the tokens of a call's steps, and holds the steps.

    Args:
        stream: the predicted stream.
        given (samples, tokens): its beginning, whole frames.
        num_frames: frames there will be, the beginning counted in.
        processors: of the scores, in float32 and with EOS forbidden.
        generators: of each sample's noise; `None` takes the best token.
        guidance_scale: with two branches, the rows of which stand behind one another (Ho and Salimans 2022): the
            scores are those of the negative branch and so many times what the conditional one adds to them.

    Attributes:
        steps (rows, steps, columns): what is known; in places still to be drawn there is anything.
        noise: iterator over each step's noise (samples, columns · vocabulary), or `None`.
        standard: the processors in one, or `None`.
    """

    def __init__(
        self,
        stream: TokenStream,
        given: torch.Tensor,
        num_frames: int,
        processors: LogitsProcessorList,
        generators: Sequence[torch.Generator] | None,
        guidance_scale: float | None = None,
    ):
        self.stream = stream
        self.processors = processors
        self.guidance_scale = guidance_scale
        self.num_samples = len(given)
        missing = num_frames * stream.num_codebooks - given.shape[1]
        steps = lay(F.pad(given, (0, missing)), stream)
        self.steps = steps.repeat(1 if guidance_scale is None else 2, 1, 1)
        places = places_to_draw(stream, given.shape[1] // stream.num_codebooks, num_frames)
        self.all_drawn = places.all(dim=1).tolist()  # steps of which nothing is known before
        if (
            num_columns(stream) > 1 and given.device.type != "cpu"
        ):  # computed there: a copy would wait for the steps before
            places = places_to_draw(stream, given.shape[1] // stream.num_codebooks, num_frames, given.device)
        self.places = places
        self.standard = standard_sampling(processors, stream.codebook_size)
        self.noise: Iterator[torch.Tensor] | None = None
        if generators is not None:
            self.noise = iter(GumbelNoise(generators, steps.shape[2] * (stream.codebook_size + 1), given.device))

    def draw(self, index: int, logits: torch.Tensor) -> None:
        """Draw what step `index` lacks from its logits (rows, columns, vocabulary), the same for both branches."""
        if self.guidance_scale is not None:
            conditional, negative = logits.float().chunk(2)
            logits = negative + self.guidance_scale * (conditional - negative)
        noise = None if self.noise is None else next(self.noise).view_as(logits)
        drawn = self._draw(index, logits, noise)
        if not self.all_drawn[index]:
            drawn = torch.where(self.places[index], drawn, self.steps[: self.num_samples, index])
        self.steps[:, index] = drawn if self.guidance_scale is None else drawn.repeat(2, 1)

    def _draw(self, index: int, logits: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        """(samples, columns, vocabulary) → ids (samples, columns), a column as its own history goes on."""
        if self.standard is not None:
            drawn = self.standard(logits.flatten(0, 1), None if noise is None else noise.flatten(0, 1))
            return drawn.view(logits.shape[:2])
        scores = logits.float()
        scores[..., self.stream.eos_id] = -torch.inf  # a stream's length is what was asked for
        columns = []
        for column in range(scores.shape[1]):
            begun = column if self.stream.pattern == "delay" else 0
            history = self.steps[: self.num_samples, begun:index, column]
            own_noise = None if noise is None else noise[:, column]
            processed = self.processors(cast(torch.LongTensor, history), cast(torch.FloatTensor, scores[:, column]))
            columns.append(sample_tokens(processed, own_noise))
        return torch.stack(columns, dim=1)
