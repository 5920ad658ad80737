"""Reads PyTorch checkpoints as plain tables of tensors: nothing in the file is executed, errors are one line."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .checkpoint_error import CheckpointError

# What wrappers of the training scripts put before (or, for a compiled part, inside) the names.
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")
# How torch's weights-only reader names what it would not import or call.
_REFUSED_NAME = re.compile(r"(?:Unsupported global: GLOBAL|unsupported GLOBAL|reduce for unrecognized function) (\S+)")
# Checkpoints of laion's trainer carry their epoch and scores as NumPy scalars.
_scalar = np.float64(0).__reduce__()[0]  # NumPy's own rebuilder, wherever this version keeps it
_NUMPY_SCALARS: list[Any] = [(_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")] + [
    np.dtype,
    *{type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "b1")},
]


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.pt` file by name, memory-mapped where the format allows, wrapper prefixes taken off.

    A file that wraps its state dict (`{"state_dict": …}`, `{"model": …}`) is unwrapped.

    Raises:
        CheckpointError: The file is missing, empty, cut off, no PyTorch checkpoint, or asks for more than tensors.
    """
    content = _read_weights_only(Path(path))
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: holds {_described(content)} where a state dict is expected")
    tensors: dict[str, torch.Tensor] = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: entry {name!r} is {_described(value)} where a tensor is expected")
        stripped = without_wrapper_prefixes(name)
        if stripped in tensors:
            raise CheckpointError(f"{path}: two entries are called {stripped!r} once wrapper prefixes are taken off")
        tensors[stripped] = value
    return tensors


def without_wrapper_prefixes(name: str) -> str:
    """`name` without `module.` (data parallel) and `_orig_mod.` (compiled), in any order and number."""
    name = re.sub(r"(^|\.)_orig_mod\.", r"\1", name)
    while name.startswith(_WRAPPER_PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _read_weights_only(path: Path) -> object:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty")
    is_archive = zipfile.is_zipfile(path)
    if not is_archive and path.open("rb").read(2) == b"PK":
        raise CheckpointError(f"{path}: the file is cut off (an archive without its end): copy or download it again")
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:  # on a damaged file, torch's reader raises almost anything
        refused = _REFUSED_NAME.search(str(error))
        if refused:
            raise CheckpointError(f"{path}: refused: it asks for {refused.group(1)}; nothing was executed") from None
        raise CheckpointError(
            f"{path}: cut off, damaged, or not a PyTorch checkpoint ({type(error).__name__})"
        ) from None


def _described(value: object) -> str:
    return (
        f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
    )
