"""NumPy data as a pickle describes it: dtypes, shapes and bytes become arrays, checked before they are made."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from .bounds import MAX_PICKLE_BYTES
from .checkpoint_error import CheckpointError

_DTYPE = re.compile(r"[<>|=]?([biuf][1248]|[US]\d+)")


@dataclass
class DType:
    """A NumPy dtype under construction: the pickle makes it first and sets its byte order afterwards."""

    code: str
    byte_order: str = "="

    @property
    def is_object(self) -> bool:
        return re.fullmatch(r"\|?O8?", self.code) is not None

    def resolve(self) -> np.dtype:
        if not _DTYPE.fullmatch(self.code):
            raise CheckpointError(f"it holds an array of dtype {self.code[:40]!r}; only plain numbers are read")
        plain = np.dtype(self.code)
        return plain.newbyteorder(">") if self.byte_order == ">" else plain.newbyteorder("<")


class EmptyArray:
    """A NumPy array before its state is set (`_reconstruct` makes it, `BUILD` fills it)."""


def resolved(dtype: Any) -> np.dtype:
    if not isinstance(dtype, DType):
        raise CheckpointError("it describes an array without a dtype")
    return dtype.resolve()


def array_of(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """An array of native byte order over these bytes."""
    exact = resolved(dtype)
    shape = checked_shape(shape)
    needed = math.prod(shape) * exact.itemsize
    if not isinstance(content, bytes | bytearray) or len(content) != needed:
        got = len(content) if isinstance(content, bytes | bytearray) else type(content).__name__
        raise EOFError(f"an array of {needed} bytes has {got}")
    flat = np.frombuffer(content, dtype=exact)
    return flat.reshape(shape, order="F" if order == "F" else "C").astype(exact.newbyteorder("="))


def checked_shape(shape: Any) -> tuple[int, ...]:
    sizes = (shape,) if isinstance(shape, int) else shape
    if not isinstance(sizes, tuple | list) or len(sizes) > 32:
        raise CheckpointError("it describes an array without a shape")
    if not all(isinstance(size, int) and 0 <= size <= MAX_PICKLE_BYTES for size in sizes):
        raise CheckpointError("it describes an array of an impossible shape")
    return tuple(sizes)


def scalar_of(dtype: Any, content: bytes | None = None) -> Any:
    return array_of(content, dtype, (), "C")[()]


def encoded(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise CheckpointError("it encodes bytes in another way than latin1")
    return text.encode("latin1")
