"""Fréchet audio distance (Kilgour et al. 2018, arXiv:1812.08466) and its extrapolation to infinitely many clips.

The distance between the Gaussians of two sets is |μₓ − μᵧ|² + tr Σₓ + tr Σᵧ − 2 tr √(Σₓ Σᵧ). With A and B the centred
sets over √(n − 1), Σₓ = AᵀA and Σᵧ = BᵀB, the last trace is the nuclear norm of A·Bᵀ: no matrix root is taken, nothing
turns complex, and sets of fewer rows than dimensions need no added diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .arrays import as_embeddings, check_same_dimension

__all__ = ["FrechetInfinity", "Gaussian", "frechet_distance", "frechet_distance_of_gaussians", "frechet_infinity"]


def frechet_distance(generated, reference) -> float:
    """Fréchet distance between the Gaussians of two sets of embeddings.

    Args:
        generated: (N, D), N ≥ 2.
        reference: (M, D), M ≥ 2.

    Returns:
        The squared 2-Wasserstein distance; 0 for equal sets, symmetric, not negative. Covariances over n − 1.
    """
    return Gaussian.of(generated, "generated").distance_to(Gaussian.of(reference, "reference"))


@dataclass(frozen=True)
class Gaussian:
    """Mean (D,) and a factor A (rows, D) of the covariance AᵀA of a set; made once for a reference of many uses."""

    mean: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, embeddings, name: str = "embeddings") -> Gaussian:
        """The Gaussian of a set (N, D); covariance over N − 1."""
        x = as_embeddings(embeddings, name)
        centred = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
        # only AᵀA matters, so a tall A is folded to (D, D)
        factor = np.asarray(np.linalg.qr(centred, mode="r")) if len(x) > x.shape[1] else centred
        return cls(x.mean(axis=0), factor)

    def distance_to(self, other: Gaussian) -> float:
        """Fréchet distance, not negative."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"one set has {self.mean.size} dimensions and the other {other.mean.size}; they come from two backbones."
            )
        trace_of_root = np.linalg.svd(self.factor @ other.factor.T, compute_uv=False).sum()
        distance = np.sum((self.mean - other.mean) ** 2) + np.sum(self.factor**2) + np.sum(other.factor**2)
        return max(float(distance - 2.0 * trace_of_root), 0.0)  # rounding may leave −1e-14 for equal sets


def frechet_distance_of_gaussians(mean_x, covariance_x, mean_y, covariance_y) -> float:
    """The same from means (D,) and covariances (D, D), such as the published statistics of a reference set."""
    gaussians = []
    for name, mean, covariance in (("x", mean_x, covariance_x), ("y", mean_y, covariance_y)):
        mean, covariance = np.asarray(mean, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
        if covariance.shape != (mean.size, mean.size):
            raise ValueError(f"covariance_{name} must have shape {(mean.size, mean.size)}, got {covariance.shape}.")
        values, vectors = np.linalg.eigh(covariance)
        gaussians.append(Gaussian(mean, np.sqrt(values.clip(min=0.0))[:, None] * vectors.T))
    return gaussians[0].distance_to(gaussians[1])


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
    target = Gaussian.of(y)
    distances = []
    for size in sizes:
        drawn = x[rng.choice(len(x), size=size, replace=replace)]
        distances.append(Gaussian.of(drawn).distance_to(target))
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
