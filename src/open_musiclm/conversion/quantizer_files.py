"""The original's codebooks: the state dict of a residual VQ, and the centroids of a pickled scikit-learn k-means."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..hub.reading import all_finite
from .checkpoint_error import CheckpointError
from .checkpoint_files import read_state_dict
from .pickled_arrays import PickledObject, read_pickled_arrays

_EMBED = re.compile(r"(?:rq\.)?layers\.(0|[1-9]\d{0,3})\._codebook\.embed")
_TRAINING_STATE = re.compile(r"(?:rq\.)?layers\.(?:0|[1-9]\d{0,3})\._codebook\.(initted|cluster_size|embed_avg)")


def read_rvq_codebooks(path: str | Path, say: Callable[[str], None] | None = None) -> torch.Tensor:
    """Codebooks (num_quantizers, codebook_size, dim) of a `clap.rvq.*.pt`, 2-D and 3-D saves alike.

    Raises:
        CheckpointError: A codebook is missing or mis-shaped, or the file holds a tensor that no residual VQ has.
    """
    found: dict[int, torch.Tensor] = {}
    for name, tensor in read_state_dict(path, say).items():
        if match := _EMBED.fullmatch(name):
            if tensor.ndim == 3 and tensor.shape[0] == 1:
                tensor = tensor[0]
            if tensor.ndim != 2:
                raise CheckpointError(f"{path}: {name!r} has shape {tuple(tensor.shape)}; (1, size, dim) is needed")
            if int(match.group(1)) in found:
                raise CheckpointError(f"{path}: two codebooks are of layer {match.group(1)}, the second {name!r}")
            if not tensor.is_floating_point():
                raise CheckpointError(f"{path}: {name!r} is of {tensor.dtype}; codebooks are floating-point numbers")
            if not all_finite(tensor):
                raise CheckpointError(f"{path}: {name!r} holds values that are not finite (NaN or infinity)")
            if len(tensor) > 1 and bool((tensor == tensor[0]).all()):
                raise CheckpointError(f"{path}: all entries of {name!r} are equal: it was never fitted")
            found[int(match.group(1))] = tensor
        elif state := _TRAINING_STATE.fullmatch(name):
            if state.group(1) == "initted" and not tensor.all():
                raise CheckpointError(f"{path}: {name!r} is 0: the residual VQ was never fitted")
        else:
            raise CheckpointError(
                f"{path}: {name[:120]!r} of shape {tuple(tensor.shape)} has no place in a residual VQ"
            )
    missing = next((index for index in range(max(len(found), 1)) if index not in found), None)
    if missing is not None:
        raise CheckpointError(f"{path}: 'layers.{missing}._codebook.embed' is missing")
    shapes = {tuple(codebook.shape) for codebook in found.values()}
    if len(shapes) > 1:
        raise CheckpointError(f"{path}: its codebooks have different shapes: {sorted(shapes)}")
    return torch.stack([found[index] for index in sorted(found)])


def read_kmeans_centroids(path: str | Path) -> torch.Tensor:
    """Centroids (codebook_size, feature_dim) float32 of a joblib or pickle file of a fitted scikit-learn k-means.

    Nothing in the file is executed; see `pickled_arrays`.

    Raises:
        CheckpointError: It is no such file, or asks for anything that is not array data.
    """
    estimator = read_pickled_arrays(path)
    if not isinstance(estimator, PickledObject) or not estimator.name.endswith("KMeans"):
        what = estimator.name[:120] if isinstance(estimator, PickledObject) else type(estimator).__name__
        raise CheckpointError(f"{path}: holds a {what}, not a fitted k-means")
    centroids = estimator.attribute("cluster_centers_")
    if not isinstance(centroids, np.ndarray) or centroids.ndim != 2 or centroids.dtype.kind != "f":
        raise CheckpointError(f"{path}: the k-means has no cluster_centers_ (was it fitted?)")
    if not np.isfinite(centroids).all():
        raise CheckpointError(f"{path}: cluster_centers_ holds values that are not finite")
    return torch.from_numpy(np.ascontiguousarray(centroids, dtype=np.float32))
