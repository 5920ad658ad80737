"""Reads PyTorch checkpoints as plain tables of tensors: nothing in the file is executed, errors are one line."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..hub.files import check_torch_file
from .bounds import check_checkpoint_cost
from .checkpoint_error import CheckpointError

# What wrappers of the training scripts put before (or, for a compiled part, inside) the names.
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")
# Under what training scripts save the weights, the first that is there is taken: a running mean only where nothing else is.
_CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "net", "ema", "ema_model", "ema_state_dict")
# What stands beside a running mean (of the library ema-pytorch) and is none of the model's.
_BESIDE_A_MEAN = ("online_model.", "initted", "step")
_DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip
# How torch's weights-only reader names what it would not import or call.
_REFUSED_NAME = re.compile(r"(?:Unsupported global: GLOBAL|unsupported GLOBAL|reduce for unrecognized function) (\S+)")
# Checkpoints of laion's trainer carry their epoch and scores as NumPy scalars.
_scalar = np.float64(0).__reduce__()[0]  # NumPy's own rebuilder, wherever this version keeps it
_NUMPY_SCALARS: list[Any] = [(_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")] + [
    np.dtype,
    *{type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "b1")},
]


def read_state_dict(path: str | Path, say: Callable[[str], None] | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a `.pt` file by name, memory-mapped where the format allows, wrapper prefixes taken off.

    A file that wraps its state dict (`{"state_dict": …}`, `{"module": …}`, `{"ema": …}`, a Lightning checkpoint with
    `model.` before each name) is unwrapped.

    Args:
        say: Told what was taken, where there was something to choose or take off.

    Raises:
        CheckpointError: The file is missing, empty, cut off, damaged, no PyTorch checkpoint, or asks for more than plain
            tensors.
    """
    path = Path(path)
    say = say or (lambda line: None)
    content = _unwrapped(_read_weights_only(path), path, say)
    tensors: dict[str, torch.Tensor] = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{path}: entry {_shown(name)} is {_described(value)} where a tensor is expected")
        stripped = without_wrapper_prefixes(name)
        if stripped in tensors:
            raise CheckpointError(
                f"{path}: two entries are called {_shown(stripped)} once wrapper prefixes are taken off"
            )
        tensors[stripped] = _plain(value, stripped, path)
    return _without_model_prefix(tensors, path, say)


def _unwrapped(content: object, path: Path, say: Callable[[str], None]) -> Mapping:
    """The state dict inside what training scripts save around it."""
    for _ in range(2):
        if not isinstance(content, Mapping) or any(isinstance(value, torch.Tensor) for value in content.values()):
            break
        found = [key for key in _CONTAINERS if isinstance(content.get(key), Mapping) and content[key]]
        if not found:
            break
        others = f" (also there: {', '.join(map(repr, found[1:]))})" if len(found) > 1 else ""
        if found[0] not in ("state_dict", "model") or others:
            say(f"{path.name}: took the weights under {found[0]!r}{others}")
        content = content[found[0]]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path}: holds {_described(content)} where a state dict is expected")
    return content


def _without_model_prefix(
    tensors: dict[str, torch.Tensor], path: Path, say: Callable[[str], None]
) -> dict[str, torch.Tensor]:
    """Without what a Lightning module or a running mean calls the model that it holds."""
    for prefix in ("ema_model.", "model.", "online_model."):
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        others = sorted(name for name in tensors if not name.startswith((prefix, *_BESIDE_A_MEAN)))
        if own and not others:
            say(f"{path.name}: took the weights named {prefix}…")
            return {without_wrapper_prefixes(name): tensor for name, tensor in own.items()}
    return tensors


def _plain(tensor: torch.Tensor, name: str, path: Path) -> torch.Tensor:
    """Refuses what is no plain array of numbers that the file holds."""
    kind = None
    if tensor.layout is not torch.strided:
        kind = "sparse"
    elif tensor.is_quantized:
        kind = "quantized"
    elif tensor.is_meta:
        kind = "without values"
    elif tensor.dtype not in _DTYPES:
        kind = f"of {str(tensor.dtype).removeprefix('torch.')}"
    elif tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        kind = f"of shape {tuple(tensor.shape)}, more than the file holds of it"
    if kind is not None:
        raise CheckpointError(f"{path}: {_shown(name)} is {kind}; plain floating-point tensors are converted")
    return tensor


def without_wrapper_prefixes(name: str) -> str:
    """`name` without `module.` (data parallel) and `_orig_mod.` (compiled), in any order and number."""
    name = re.sub(r"(^|\.)_orig_mod\.", r"\1", name)
    while name.startswith(_WRAPPER_PREFIXES):
        name = name.split(".", 1)[1]
    return name


def _read_weights_only(path: Path) -> object:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        check_torch_file(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    check_checkpoint_cost(path)
    is_archive = zipfile.is_zipfile(path)
    try:
        with torch.serialization.safe_globals(_NUMPY_SCALARS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:  # on a damaged file, torch's reader raises almost anything
        refused = _REFUSED_NAME.search(str(error))
        if refused:
            raise CheckpointError(
                f"{path}: refused: it asks for {refused.group(1)[:120]}; nothing was executed"
            ) from None
        raise CheckpointError(
            f"{path}: cut off, damaged, or not a PyTorch checkpoint ({type(error).__name__})"
        ) from None


def _described(value: object) -> str:
    return (
        f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
    )


def _shown(name: object) -> str:
    """A name from a file, short, or what stands where a name should."""
    return repr(name[:120]) if isinstance(name, str) else f"a {type(name).__name__}"
