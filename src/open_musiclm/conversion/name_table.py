"""A conversion is a table of names: what each original tensor is called here. This applies one, strictly.

A row is `(original name, names here)`. Several names here mean that the original tensor is their concatenation along
the first axis; no name means that the tensor is not needed (a buffer that is computed, training state).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from ..hub.reading import TRAINING_ONLY, all_finite
from .checkpoint_error import CheckpointError

Row = tuple[str, tuple[str, ...]]


def row(original: str, *targets: str, **numbers: int) -> Row:
    """One row of a table, the `{placeholders}` of its names filled in."""
    return original.format(**numbers), tuple(target.format(**numbers) for target in targets)


def meta_shapes(model_class: type[nn.Module], config: object) -> dict[str, torch.Size]:
    """Names and shapes of what a model of this configuration saves, without making its weights."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in model_class(config).state_dict().items()}


def apply_name_table(
    tensors: Mapping[str, torch.Tensor],
    rows: Iterable[Row],
    shapes: Mapping[str, torch.Size],
    source: str | Path,
) -> dict[str, torch.Tensor]:
    """The tensors under the names of this package.

    Args:
        tensors: Original name → tensor. They are not copied unless a row splits them.
        rows: The table.
        shapes: What the converted model needs: name here → shape.
        source: The file, for the error.

    Raises:
        CheckpointError: A tensor is missing, surplus or has another shape; the message names it as the file does.
    """
    left = dict(tensors)
    converted: dict[str, torch.Tensor] = {}
    for original, targets in rows:
        tensor = left.pop(original, None)
        if not targets:
            continue
        if tensor is None:
            raise CheckpointError(f"{source}: {original[:120]!r} is missing (it becomes {', '.join(targets)})")
        parts = _parts(tensor, [shapes[target] for target in targets], original, source)
        for target, part in zip(targets, parts, strict=True):
            converted[target] = part
    if left:
        others = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
        name, tensor = next(iter(left.items()))
        raise CheckpointError(
            f"{source}: {name[:120]!r} of shape {tuple(tensor.shape)}{others} has no place in this configuration"
        )
    unfilled = shapes.keys() - converted.keys()
    if unfilled:
        raise CheckpointError(f"{source}: nothing in the file becomes {min(unfilled)!r}")
    return converted


def _parts(tensor: torch.Tensor, shapes: list[torch.Size], original: str, source: str | Path) -> list[torch.Tensor]:
    expected = shapes[0] if len(shapes) == 1 else (sum(shape[0] for shape in shapes), *shapes[0][1:])
    if tuple(tensor.shape) != tuple(expected):
        raise CheckpointError(
            f"{source}: {original[:120]!r} has shape {tuple(tensor.shape)}; this configuration needs {tuple(expected)}"
        )
    if len(shapes) == 1:
        return [tensor]
    return [part.clone() for part in tensor.split([shape[0] for shape in shapes])]


def save_converted(
    model_class: type, config: object, tensors: Mapping[str, torch.Tensor], folder: str | Path, **generation: object
) -> None:
    """Writes the converted model as `save_pretrained` does, without ever initialising weights.

    `generation` are settings to put into its generation config.
    """
    with torch.device("meta"):
        model = model_class(config)
    weights = {name for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    for name in weights & tensors.keys():
        if not tensors[name].is_floating_point():
            raise CheckpointError(
                f"what becomes {name!r} is of {tensors[name].dtype}; weights are floating-point numbers"
            )
        if not all_finite(tensors[name]) and not TRAINING_ONLY.search(name):
            raise CheckpointError(f"what becomes {name!r} holds values that are not finite (NaN or infinity)")
    model.load_state_dict(dict(tensors), strict=True, assign=True)
    if generation:
        model.generation_config.update(**generation)
    model.save_pretrained(folder)
