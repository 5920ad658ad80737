"""Optimal transport between two histograms by Sinkhorn's iterations (Cuturi 2013).

The scalings are folded into the potentials whenever they grow large or small (Schmitzer 2019, section 3.1), so that a
small regularization neither overflows nor underflows.
"""

from __future__ import annotations

import numpy as np

__all__ = ["histogram_transport_cost", "sinkhorn_cost"]

FOLD_ABOVE = 1e50
TINY = 1e-300


def sinkhorn_cost(
    weights_x, weights_y, costs, regularization: float, max_iterations: int = 2000, tolerance: float = 1e-9
) -> float:
    """Cost ⟨P, C⟩ of the transport plan P that minimises ⟨P, C⟩ − regularization · entropy(P).

    Args:
        weights_x: (n,) positive, sum 1.
        weights_y: (m,) positive, sum 1.
        costs: (n, m), not negative.
        regularization: In the unit of `costs`; the smaller, the nearer to the exact transport, and the slower.
        max_iterations: Where they end at the latest. Some pairs converge very slowly (two histograms with an equal
            part, far from the rest); what is still missing is then carried by the rounding below.
        tolerance: Iterations end when the plan's row sums are this near to `weights_x`.

    Returns:
        The cost of a plan that meets both marginals exactly: the last one is rounded as in Altschuler et al. 2017,
        algorithm 2. It is never below the cost of the exact transport.
    """
    x, y = np.asarray(weights_x, dtype=np.float64), np.asarray(weights_y, dtype=np.float64)
    costs = np.asarray(costs, dtype=np.float64)
    if costs.shape != (x.size, y.size):
        raise ValueError(f"costs must have shape {(x.size, y.size)}, got {costs.shape}.")
    if (x <= 0).any() or (y <= 0).any() or not np.isclose(x.sum(), y.sum(), rtol=1e-9):
        raise ValueError("weights must be positive and have the same sum; leave out empty bins.")
    if not regularization > 0:
        raise ValueError(f"regularization is {regularization}; it must be positive.")
    f, g = np.zeros(x.size), np.zeros(y.size)  # potentials, kept out of the exponent's way
    u, v = np.ones(x.size), np.ones(y.size)  # scalings since the last time they were folded into f and g
    kernel = np.exp(-costs / regularization)
    for iteration in range(1, max_iterations + 1):
        u = x / np.maximum(kernel @ v, TINY)
        v = y / np.maximum(kernel.T @ u, TINY)
        if max(u.max(), v.max()) > FOLD_ABOVE or min(u.min(), v.min()) < 1 / FOLD_ABOVE:
            f, g = f + regularization * np.log(u), g + regularization * np.log(v)
            kernel = np.exp((f[:, None] + g[None, :] - costs) / regularization)
            u, v = np.ones_like(u), np.ones_like(v)
        elif iteration % 10 == 0 and np.abs(u * (kernel @ v) - x).max() < tolerance:
            break
    plan = u[:, None] * kernel * v[None, :]
    plan *= np.minimum(x / np.maximum(plan.sum(axis=1), TINY), 1.0)[:, None]
    plan *= np.minimum(y / np.maximum(plan.sum(axis=0), TINY), 1.0)[None, :]
    missing_x, missing_y = x - plan.sum(axis=1), y - plan.sum(axis=0)
    if missing_x.sum() > 0:
        plan += missing_x[:, None] * missing_y[None, :] / missing_x.sum()
    return float((plan * costs).sum())


def histogram_transport_cost(
    tokens_x, tokens_y, centroids, relative_regularization: float = 0.05, tolerance: float = 1e-6
) -> float:
    """Transport cost between the token histograms of two sequences, with distances between centroids.

    MusicLM, section 6.4: only tokens that occur are carried, and the cost of carrying token a to token b is the
    Euclidean distance of their centroids.

    Args:
        tokens_x, tokens_y: (length,) integers; the order within a sequence does not matter.
        centroids: (codebook_size, D).
        relative_regularization: Sinkhorn's, as a share of the mean cost between the tokens that occur.
        tolerance: Sinkhorn's.

    Returns:
        In the unit of the centroids; 0 for equal histograms.
    """
    centroids = np.asarray(centroids, dtype=np.float64)
    values_x, counts_x = np.unique(np.asarray(tokens_x), return_counts=True)
    values_y, counts_y = np.unique(np.asarray(tokens_y), return_counts=True)
    for values in (values_x, values_y):
        if values.size == 0 or values[0] < 0 or values[-1] >= len(centroids):
            raise ValueError(f"tokens must be 0 … {len(centroids) - 1} and not empty; padding must be cut off first.")
    if np.array_equal(values_x, values_y) and np.array_equal(counts_x, counts_y):
        return 0.0  # equal histograms cost nothing; entropy would make it seem more
    costs = np.linalg.norm(centroids[values_x][:, None] - centroids[values_y][None, :], axis=2)
    scale = costs.mean()
    if scale == 0:
        return 0.0
    return sinkhorn_cost(
        counts_x / counts_x.sum(),
        counts_y / counts_y.sum(),
        costs,
        relative_regularization * scale,
        tolerance=tolerance,
    )
