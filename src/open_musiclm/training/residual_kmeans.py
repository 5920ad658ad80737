"""Residual k-means learnt from a stream of vectors (SoundStream, Zeghidour et al. 2021, section III.C).

Each codebook starts from a k-means of what the codebooks before it leave over, then follows the stream with exponential
moving averages; an entry that is hardly used any more is put on a vector of the present batch.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ..tokenizers.quantizers import nearest_codes

EPSILON = 1e-5


def kmeans(vectors: torch.Tensor, num_centers: int, generator: torch.Generator, num_rounds: int = 20) -> torch.Tensor:
    """Lloyd's algorithm from random vectors: (n, dim) → (num_centers, dim). An empty center moves to a random vector.

    Raises:
        ValueError: fewer vectors than centers.
    """
    if len(vectors) < num_centers:
        raise ValueError(f"{num_centers} centers need at least as many vectors, got {len(vectors)}. Give more audio.")
    centers = vectors[_choose(len(vectors), num_centers, generator)].clone()
    for _ in range(num_rounds):
        codes = nearest_codes(vectors, centers)
        counts = torch.bincount(codes, minlength=num_centers)
        sums = torch.zeros_like(centers).index_add_(0, codes, vectors)
        empty = counts == 0
        centers = torch.where(empty.unsqueeze(1), centers, sums / counts.clamp(min=1).unsqueeze(1))
        if empty.any():
            centers[empty] = vectors[_choose(len(vectors), int(empty.sum()), generator)]
    return centers


def _choose(number: int, num_chosen: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randperm(number, generator=generator)[:num_chosen]


class ResidualKMeans:
    """Codebooks that follow a stream.

    Args:
        num_quantizers, codebook_size, dim: of the codebooks.
        decay: share of an entry's average that is kept from batch to batch.
        dead_share: an entry used less than this share of the mean is dead.
        seed: of the start and of what dead entries are put on.
    """

    def __init__(
        self,
        num_quantizers: int,
        codebook_size: int,
        dim: int,
        decay: float = 0.95,
        dead_share: float = 0.02,
        seed: int = 0,
    ):
        self.codebooks = torch.zeros(num_quantizers, codebook_size, dim)
        self.counts = torch.zeros(num_quantizers, codebook_size)  # moving averages of how often, and of what
        self.sums = torch.zeros(num_quantizers, codebook_size, dim)
        self.decay, self.dead_share = decay, dead_share
        self.generator = torch.Generator().manual_seed(seed)
        self.started = False
        self.num_restarts = 0

    def start(self, vectors: torch.Tensor) -> None:
        """Codebook by codebook k-means of the first vectors (n, dim)."""
        residual = vectors.float().cpu()
        for index in range(len(self.codebooks)):
            centers = kmeans(residual, self.codebooks.shape[1], self.generator)
            codes = nearest_codes(residual, centers)
            self.codebooks[index] = centers
            self.counts[index] = torch.bincount(codes, minlength=len(centers)).float()
            self.sums[index] = centers * self.counts[index].unsqueeze(1)
            residual = residual - centers[codes]
        self.started = True

    def update(self, vectors: torch.Tensor) -> None:
        """One batch (n, dim): move every codebook toward what it was given, restart dead entries."""
        if not self.started:
            raise ValueError("Residual k-means must be started before it is updated.")
        residual = vectors.float().cpu()
        for index, codebook in enumerate(self.codebooks):
            codes = nearest_codes(residual, codebook)
            counts = torch.bincount(codes, minlength=len(codebook)).float()
            sums = torch.zeros_like(codebook).index_add_(0, codes, residual)
            self.counts[index].lerp_(counts, 1 - self.decay)
            self.sums[index].lerp_(sums, 1 - self.decay)
            moved = self.sums[index] / self.counts[index].clamp(min=EPSILON).unsqueeze(1)
            alive = self.counts[index] > self.dead_share * self.counts[index].mean()
            before = codebook.clone()
            codebook[alive] = moved[alive]
            self._restart(index, ~alive, residual)
            residual = residual - before[codes]

    def _restart(self, index: int, dead: torch.Tensor, residual: torch.Tensor) -> None:
        num_dead = min(int(dead.sum()), len(residual))
        if not num_dead:
            return
        entries = dead.nonzero().flatten()[:num_dead]
        self.codebooks[index, entries] = residual[_choose(len(residual), num_dead, self.generator)]
        mean_count = self.counts[index].mean()
        self.counts[index, entries] = mean_count
        self.sums[index, entries] = self.codebooks[index, entries] * mean_count
        self.num_restarts += num_dead

    def fit(self, batches: Iterable[torch.Tensor]) -> None:
        """Start from the first batch, and follow the others."""
        for batch in batches:
            if self.started:
                self.update(batch)
            else:
                self.start(batch)
