"""k-means in torch, plain and residual, with every draw from a generator that is passed in."""

from __future__ import annotations

import torch


def nearest(points: torch.Tensor, centroids: torch.Tensor, chunk_size: int = 65_536) -> torch.Tensor:
    """int64 (points,): the index of the nearest centroid of each point."""
    norms = centroids.pow(2).sum(1)
    return torch.cat([(norms - 2 * part @ centroids.T).argmin(1) for part in points.split(chunk_size)])


def fit_kmeans(
    points: torch.Tensor, num_centroids: int, generator: torch.Generator, num_iterations: int = 30
) -> torch.Tensor:
    """Lloyd's algorithm on (points, dim) float32; a centroid that loses all its points restarts at a random one.

    Returns (num_centroids, dim) on the device of `points`. `generator` is a CPU one.
    """
    if len(points) < num_centroids:
        raise ValueError(f"{len(points)} points cannot make {num_centroids} centroids: use more clips")
    centroids = points[_draw(len(points), num_centroids, generator).to(points.device)].clone()
    for _ in range(num_iterations):
        assignment = nearest(points, centroids)
        counts = torch.bincount(assignment, minlength=num_centroids)
        sums = torch.zeros_like(centroids).index_add_(0, assignment, points)
        centroids = sums / counts.clamp(min=1)[:, None]
        fresh = points[_draw(len(points), num_centroids, generator).to(points.device)]
        centroids = torch.where((counts == 0)[:, None], fresh, centroids)
    return centroids


def fit_residual_kmeans(
    points: torch.Tensor, num_quantizers: int, num_centroids: int, generator: torch.Generator, num_iterations: int = 30
) -> torch.Tensor:
    """One k-means after another, each on what the ones before left over. Returns (num_quantizers, centroids, dim)."""
    codebooks, residual = [], points
    for _ in range(num_quantizers):
        centroids = fit_kmeans(residual, num_centroids, generator, num_iterations)
        residual = residual - centroids[nearest(residual, centroids)]
        codebooks.append(centroids)
    return torch.stack(codebooks)


def _draw(num_points: int, num_drawn: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randperm(num_points, generator=generator)[:num_drawn]
