"""Fréchet audio distance (Kilgour et al. 2018, arXiv:1812.08466) and its extrapolation to infinitely many clips.

The distance between the Gaussians of two sets is |μₓ − μᵧ|² + tr Σₓ + tr Σᵧ − 2 tr √(Σₓ Σᵧ). With A and B the centred
sets over √(n − 1), Σₓ = AᵀA and Σᵧ = BᵀB, the last trace is the nuclear norm of A·Bᵀ: no matrix root is taken, nothing
turns complex, and sets of fewer rows than dimensions need no added diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import as_embeddings, check_same_dimension

__all__ = ["FrechetInfinity", "frechet_distance", "frechet_distance_of_gaussians", "frechet_infinity"]


def frechet_distance(generated, reference) -> float:
    """Fréchet distance between the Gaussians of two sets of embeddings.

    Args:
        generated: (N, D), N ≥ 2.
        reference: (M, D), M ≥ 2.

    Returns:
        The squared 2-Wasserstein distance; 0 for equal sets, symmetric, not negative. Covariances over n − 1.
    """
    x = as_embeddings(generated, "generated")
    y = as_embeddings(reference, "reference")
    check_same_dimension(x, y, ("generated", "reference"))
    return _from_factors(x.mean(axis=0), _covariance_factor(x), y.mean(axis=0), _covariance_factor(y))


def frechet_distance_of_gaussians(mean_x, covariance_x, mean_y, covariance_y) -> float:
    """The same from means (D,) and covariances (D, D), such as the published statistics of a reference set."""
    mean_x, mean_y = (np.asarray(mean, dtype=np.float64) for mean in (mean_x, mean_y))
    factors = []
    for name, covariance in (("covariance_x", covariance_x), ("covariance_y", covariance_y)):
        covariance = np.asarray(covariance, dtype=np.float64)
        if covariance.shape != (mean_x.size, mean_x.size):
            raise ValueError(f"{name} must have shape {(mean_x.size, mean_x.size)}, got {covariance.shape}.")
        values, vectors = np.linalg.eigh(covariance)
        factors.append(np.sqrt(values.clip(min=0.0))[:, None] * vectors.T)
    return _from_factors(mean_x, factors[0], mean_y, factors[1])


@dataclass(frozen=True)
class FrechetInfinity:
    """FAD∞: `value` is the intercept; `sizes` and `distances` are the points of the line."""

    value: float
    slope: float
    r_squared: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def frechet_infinity(
    generated,
    reference,
    rng: np.random.Generator,
    num_steps: int = 25,
    min_samples: int = 500,
    replace: bool = True,
) -> FrechetInfinity:
    """Fréchet distance extrapolated to infinitely many generated samples.

    FAD of n samples is too large by about c / n. A line through FAD at several n against 1 / n meets the axis at the
    distance that infinitely many samples would have (Gui et al. 2023, arXiv:2311.01616; Chong and Forsyth 2020). The
    defaults are those of fadtk's `score_inf`, except that the samples are drawn from `rng`.

    Args:
        generated: (N, D); samples are drawn from these.
        reference: (M, D), always used whole.
        num_steps: Points on the line, evenly spread over n from `min_samples` to N.
        min_samples: Smallest n; when N is not above it, a quarter of N is taken in its place (the caller warns).
        replace: Draw with replacement.
    """
    x = as_embeddings(generated, "generated", min_rows=4)
    y = as_embeddings(reference, "reference")
    check_same_dimension(x, y, ("generated", "reference"))
    if num_steps < 2:
        raise ValueError(f"num_steps is {num_steps}; a line needs at least 2 points.")
    smallest = min_samples if len(x) > min_samples else max(len(x) // 4, 2)
    sizes = [int(size) for size in np.linspace(smallest, len(x), num_steps)]
    mean_y, factor_y = y.mean(axis=0), _covariance_factor(y)
    distances = []
    for size in sizes:
        drawn = x[rng.choice(len(x), size=size, replace=replace)]
        distances.append(_from_factors(drawn.mean(axis=0), _covariance_factor(drawn), mean_y, factor_y))
    inverse = 1.0 / np.array(sizes, dtype=np.float64)
    slope, intercept = np.polyfit(inverse, distances, 1)
    residual = np.sum((np.array(distances) - (slope * inverse + intercept)) ** 2)
    spread = np.sum((np.array(distances) - np.mean(distances)) ** 2)
    return FrechetInfinity(
        value=float(intercept),
        slope=float(slope),
        r_squared=float(1.0 - residual / spread) if spread > 0 else 1.0,
        sizes=tuple(sizes),
        distances=tuple(distances),
    )


def _covariance_factor(x: np.ndarray) -> np.ndarray:
    """A with AᵀA the covariance of x (N, D); (min(N, D), D), since only AᵀA matters."""
    centred = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    return np.linalg.qr(centred, mode="r") if len(x) > x.shape[1] else centred


def _from_factors(mean_x: np.ndarray, factor_x: np.ndarray, mean_y: np.ndarray, factor_y: np.ndarray) -> float:
    trace_of_root = np.linalg.svd(factor_x @ factor_y.T, compute_uv=False).sum()
    distance = np.sum((mean_x - mean_y) ** 2) + np.sum(factor_x**2) + np.sum(factor_y**2) - 2.0 * trace_of_root
    return max(float(distance), 0.0)  # rounding may leave −1e-14 for equal sets
