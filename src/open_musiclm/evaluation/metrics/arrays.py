"""Checks of the arrays that the metrics take; every metric computes in float64."""

from __future__ import annotations

import numpy as np

__all__ = ["as_embeddings"]


def as_embeddings(embeddings, name: str, min_rows: int = 2) -> np.ndarray:
    """Returns `embeddings` as a float64 array (N, D).

    Raises:
        ValueError: If it is not two-dimensional, has fewer than `min_rows` rows, or holds nan or infinity.
    """
    array = np.asarray(embeddings, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape (items, dimension), got {array.shape}.")
    if array.shape[0] < min_rows:
        raise ValueError(
            f"{name} has {array.shape[0]} rows; at least {min_rows} are needed. Give more or longer clips."
        )
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array).all(axis=1)).sum())
        raise ValueError(f"{name} has nan or infinity in {bad} of {array.shape[0]} rows; leave those clips out.")
    return array


def check_same_dimension(x: np.ndarray, y: np.ndarray, names: tuple[str, str]) -> None:
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{names[0]} has {x.shape[1]} dimensions and {names[1]} has {y.shape[1]}; they come from two backbones."
        )
