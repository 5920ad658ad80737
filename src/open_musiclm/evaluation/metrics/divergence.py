"""KL divergence between what a classifier hears in a generated clip and in its reference.

The figure depends on the classifier, the direction, the windows and a small constant, none of which papers agree on.
AudioCraft's `kld` is KL(reference ‖ generated) with 1e-6 added inside the logarithm of the generated side only; that
is the default here. AST is a good classifier of AudioSet, but a figure made with it is not one made with PaSST or LEAF.
"""

from __future__ import annotations

import numpy as np

__all__ = ["kl_divergence", "paired_kl_divergence"]

DIRECTIONS = ("reference||generated", "generated||reference", "symmetric")


def kl_divergence(p, q, epsilon: float = 0.0) -> np.ndarray:
    """KL(p ‖ q) = Σ p · log(p / (q + epsilon)) over the last axis, in nats.

    Args:
        p: Probabilities (..., num_classes); classes with p = 0 add nothing.
        q: Probabilities of the same shape.
        epsilon: Added to q inside the logarithm.

    Returns:
        Array of the leading shape; infinite where q is 0 and p is not.
    """
    p = _as_probabilities(p, "p")
    q = _as_probabilities(q, "q")
    if p.shape != q.shape:
        raise ValueError(
            f"p has shape {p.shape} and q has {q.shape}; they must be of one classifier and one clip list."
        )
    with np.errstate(divide="ignore"):
        terms = np.where(p > 0, p * (np.log(np.where(p > 0, p, 1.0)) - np.log(q + epsilon)), 0.0)
    return terms.sum(axis=-1)


def paired_kl_divergence(
    generated: list[np.ndarray],
    reference: list[np.ndarray],
    direction: str = "reference||generated",
    epsilon: float = 1e-6,
) -> np.ndarray:
    """KL divergence of each clip from its own reference, averaged over their windows.

    Args:
        generated: One (num_windows, num_classes) array of probabilities a clip.
        reference: The reference of each clip, in the same order. Window i is held against window i; what one clip has
            more than the other is left out.
        direction: `reference||generated`, `generated||reference`, or `symmetric`, their sum.

    Returns:
        (num_clips,) in nats.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction is {direction!r}; it must be one of {', '.join(DIRECTIONS)}.")
    if len(generated) != len(reference):
        raise ValueError(f"{len(generated)} generated clips and {len(reference)} references; each clip needs its own.")
    values = []
    for ours, theirs in zip(generated, reference, strict=True):
        num_windows = min(len(ours), len(theirs))
        if num_windows == 0:
            raise ValueError("a clip has no window; it is shorter than the classifier's shortest window.")
        ours, theirs = ours[:num_windows], theirs[:num_windows]
        total = np.zeros(num_windows)
        if direction != "generated||reference":
            total += kl_divergence(theirs, ours, epsilon)
        if direction != "reference||generated":
            total += kl_divergence(ours, theirs, epsilon)
        values.append(total.mean())
    return np.array(values, dtype=np.float64)


def _as_probabilities(probabilities, name: str) -> np.ndarray:
    array = np.asarray(probabilities, dtype=np.float64)
    if not np.isfinite(array).all() or (array < 0).any():
        raise ValueError(f"{name} must hold probabilities; it holds nan, infinity or negative numbers.")
    if not np.allclose(array.sum(axis=-1), 1.0, atol=1e-4):
        raise ValueError(f"{name} must sum to 1 over the last axis; pass the softmax of the logits.")
    return array
