"""Similarity of text and audio embeddings (CLAP score), and how much the clips of a system differ from one another."""

from __future__ import annotations

import numpy as np

from .arrays import as_embeddings, check_same_dimension

__all__ = ["cosine_similarity", "derangements", "mean_pairwise_distance", "text_audio_similarity", "vendi_score"]


def cosine_similarity(x, y) -> np.ndarray:
    """Cosine of each row of x with the same row of y: (N, D), (N, D) -> (N,)."""
    x = as_embeddings(x, "x", min_rows=1)
    y = as_embeddings(y, "y", min_rows=1)
    check_same_dimension(x, y, ("x", "y"))
    return (_unit(x) * _unit(y)).sum(axis=1)


def text_audio_similarity(text_embeddings, audio_embeddings: list[np.ndarray]) -> np.ndarray:
    """Cosine of each prompt with its clip, averaged over the clip's windows.

    The mean over clips is the CLAP score; it is MusicLM's MuLan cycle consistency (section 4.3) with CLAP in MuLan's
    place, and AudioCraft's `text_consistency` where every clip is one window.

    Args:
        text_embeddings: (num_clips, D).
        audio_embeddings: One (num_windows, D) array a clip.

    Returns:
        (num_clips,) in −1 … 1.
    """
    text = as_embeddings(text_embeddings, "text_embeddings", min_rows=1)
    if len(text) != len(audio_embeddings):
        raise ValueError(f"{len(text)} prompts and {len(audio_embeddings)} clips; each clip needs its own prompt.")
    return np.array(
        [
            cosine_similarity(np.repeat(row[None], len(windows), axis=0), windows).mean()
            for row, windows in zip(text, audio_embeddings, strict=True)
        ]
    )


def derangements(labels: list[str], num: int, rng: np.random.Generator) -> np.ndarray:
    """Permutations in which no clip keeps its own label; for a CLAP score with shuffled prompts.

    The clips are put in a random order in which those of one label stand together, and that order is turned by the
    size of the largest group, which carries every clip past its own group.

    Args:
        labels: One label (prompt) a clip.
        num: How many permutations.

    Returns:
        (num, num_clips) indices: clip i is given the label of clip `result[:, i]`.

    Raises:
        ValueError: If a label belongs to more than half of the clips, so that no such permutation exists.
    """
    kinds, group = np.unique(np.array(labels, dtype=str), return_inverse=True)
    largest = int(np.bincount(group).max()) if len(labels) else 0
    if len(kinds) < 2 or largest * 2 > len(labels):
        raise ValueError(
            f"one prompt belongs to {largest} of {len(labels)} clips: prompts cannot be shuffled so that each clip "
            "gets another one. Give more different prompts."
        )
    found = np.empty((num, len(labels)), dtype=np.int64)
    for row in found:
        order = np.lexsort((rng.random(len(labels)), rng.permutation(len(kinds))[group]))
        row[order] = np.roll(order, largest)
    return found


def mean_pairwise_distance(embeddings) -> float:
    """Mean of 1 − cosine over all pairs of different clips: (N, D) -> 0 (all alike) … 2."""
    x = _unit(as_embeddings(embeddings, "embeddings"))
    total = x.sum(axis=0)
    num = len(x)
    return float(1.0 - (total @ total - np.sum(x**2)) / (num * (num - 1)))


def vendi_score(embeddings) -> float:
    """Effective number of different clips (Friedman and Dieng 2023, arXiv:2210.02410), from 1 to N.

    exp of the entropy of the eigenvalues of K / N, with K the cosine similarities.
    """
    x = _unit(as_embeddings(embeddings, "embeddings"))
    values = np.linalg.svd(x, compute_uv=False) ** 2 / len(x)
    values = values[values > 1e-15]
    return float(np.exp(-np.sum(values * np.log(values))))


def _unit(x: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    if (lengths == 0).any():
        raise ValueError("an embedding is all zeros and has no direction; leave that clip out.")
    return x / lengths
