"""Drawing tokens: Gumbel-max with noise that belongs to each sample's own generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper

#: steps of noise drawn at a time; part of what a seed means, so changing it changes every seeded result
NOISE_BLOCK = 64


def resolve_generators(generator: torch.Generator | Sequence[torch.Generator] | None, batch_size: int):
    """One generator a sample.

    Args:
        generator: one for the whole batch, one for each sample, or `None` for fresh ones seeded by the system.

    Raises:
        ValueError: a list of another length than the batch.
    """
    if generator is None:
        generators = [torch.Generator() for _ in range(batch_size)]
        for fresh in generators:
            fresh.seed()  # from the system's entropy, not from the global state
        return generators
    if isinstance(generator, torch.Generator):
        return [generator] * batch_size
    generators = list(generator)
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
        draws = [
            torch.rand(NOISE_BLOCK, self.vocabulary_size, generator=generator, device=generator.device).to(self.device)
            for generator in self.generators
        ]
        uniform = torch.stack(draws, dim=1).clamp_(min=torch.finfo(torch.float32).tiny)
        return uniform.log_().neg_().log_().neg_()

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
