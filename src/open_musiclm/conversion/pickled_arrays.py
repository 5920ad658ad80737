"""Reads the arrays out of a pickle without executing anything the pickle names.

A pickle is a program for a small stack machine, and loading one means letting it import and call. Here the program is
walked by a machine that cannot: a name becomes an inert `PickledObject` that records how it was built, a handful of
names that stand for NumPy data are rebuilt by code of this file, and every other name is refused before anything is
made of it. scikit-learn and joblib are never imported.

Understood: pickle protocols 0 to 5, and joblib's format (raw array bytes inside the stream, optionally the whole file
compressed with zlib, gzip, bz2, lzma or xz).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickletools
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .checkpoint_error import CheckpointError

# Names whose instances are kept as inert records of their attributes (fitted estimators, random states).
INERT_MODULES = ("sklearn.", "numpy.random.")
_MAX_DECOMPRESSED_BYTES = 1 << 32
_DTYPE = re.compile(r"[<>|=]?([biuf][1248]|[US]\d+)")
_MARK = object()


@dataclass
class PickledObject:
    """What a pickle says about an object that was not made: its class, its arguments, its attributes."""

    name: str
    args: tuple = ()
    state: Any = None
    items: list = field(default_factory=list)

    def attribute(self, name: str) -> Any:
        """The attribute of this name, or None."""
        return self.state.get(name) if isinstance(self.state, dict) else None


@dataclass(frozen=True)
class _Name:
    """A class or function that the pickle names; it is never resolved."""

    full: str


@dataclass
class _DType:
    """A NumPy dtype under construction: the pickle makes it first and sets its byte order afterwards."""

    code: str
    byte_order: str = "="

    def resolve(self) -> np.dtype:
        if not _DTYPE.fullmatch(self.code):
            raise CheckpointError(f"it holds an array of dtype {self.code!r}; only plain numbers are read")
        plain = np.dtype(self.code)
        return plain.newbyteorder(">") if self.byte_order == ">" else plain.newbyteorder("<")


class _EmptyArray:
    """A NumPy array before its state is set (`_reconstruct` makes it, `BUILD` fills it)."""


def read_pickled_arrays(path: str | Path) -> Any:
    """The object graph of a pickle or joblib file, with arrays as arrays and every other object inert.

    Returns:
        The top object: for an estimator a `PickledObject` whose `state` maps attribute names to values.

    Raises:
        CheckpointError: The file is missing, empty, cut off, no pickle, or names something that is not array data.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    data = path.read_bytes()
    if not data:
        raise CheckpointError(f"{path}: the file is empty")
    try:
        return _PickleReader(_decompressed(data)).read()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: refused: {error}") from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError, OSError, RecursionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{path}: not a whole pickle or joblib file ({reason})") from None
    except (zlib.error, lzma.LZMAError, MemoryError, OverflowError) as error:
        raise CheckpointError(f"{path}: the compressed data is damaged ({error})") from None


def _decompressed(data: bytes) -> bytes:
    """The pickle inside the compressed forms that `joblib.dump(compress=…)` writes (told by their first bytes)."""
    if data[:1] == b"\x78":
        machine = zlib.decompressobj()
        plain = machine.decompress(data, _MAX_DECOMPRESSED_BYTES)
        if len(plain) >= _MAX_DECOMPRESSED_BYTES:
            raise CheckpointError("the compressed data is unreasonably large")
        if not machine.eof:
            raise EOFError("the compressed data has no end")
        return plain
    openers: tuple[tuple[bytes, Callable], ...] = (
        (b"\x1f\x8b", gzip.open),
        (b"BZ", bz2.open),
        (b"\x5d\x00", lzma.open),
        (b"\xfd7zXZ", lzma.open),
    )
    for magic, opener in openers:
        if data.startswith(magic):
            with opener(io.BytesIO(data)) as stream:
                plain = stream.read(_MAX_DECOMPRESSED_BYTES + 1)
            if len(plain) > _MAX_DECOMPRESSED_BYTES:
                raise CheckpointError("the compressed data is unreasonably large")
            return plain
    return data


class _PickleReader:
    """The stack machine. It has no way to import or to call what a pickle names."""

    def __init__(self, data: bytes):
        self.stream = io.BytesIO(data)
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def read(self) -> Any:
        for opcode, argument, _ in pickletools.genops(self.stream):
            if opcode.name == "STOP":
                return self.stack[-1]
            self.step(opcode.name, argument)
        raise EOFError("the pickle has no end")

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in ("PROTO", "FRAME"):
            return
        if opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        elif opcode in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif opcode in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif opcode in ("GLOBAL", "INST"):
            self.stack.append(_name(argument.replace(" ", ".", 1)))
            if opcode == "INST":
                raise CheckpointError(f"it makes an old-style instance of {self.stack[-1].full}")
        else:
            handler = _HANDLERS.get(opcode)
            if handler is None:
                raise CheckpointError(f"it uses the pickle operation {opcode}, which no array needs")
            handler(self)

    def pop_mark(self) -> list:
        start = max(index for index, value in enumerate(self.stack) if value is _MARK)
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values

    # Operations, one a method.

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def pop(self) -> None:
        self.stack.pop()

    def duplicate(self) -> None:
        self.stack.append(self.stack[-1])

    def discard_marked(self) -> None:
        self.pop_mark()

    def tuple_of_marked(self) -> None:
        self.stack.append(tuple(self.pop_mark()))

    def list_of_marked(self) -> None:
        self.stack.append(self.pop_mark())

    def dict_of_marked(self) -> None:
        values = self.pop_mark()
        self.stack.append(dict(zip(values[::2], values[1::2], strict=True)))

    def append(self) -> None:
        value = self.stack.pop()
        _extend(self.stack[-1], [value])

    def append_marked(self) -> None:
        values = self.pop_mark()
        _extend(self.stack[-1], values)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _update(self.stack[-1], [key, value])

    def set_marked_items(self) -> None:
        values = self.pop_mark()
        _update(self.stack[-1], values)

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(_name(f"{module}.{name}"))

    def new_object(self) -> None:
        args, name = self.stack.pop(), self.stack.pop()
        self.stack.append(_instance(name, args))

    def new_object_with_keywords(self) -> None:
        self.stack.pop()  # keyword arguments: of no use to an inert record
        self.new_object()

    def build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, _DType):
            target.byte_order = state[1]
        elif isinstance(target, _EmptyArray):
            _, shape, dtype, is_fortran, content = state
            self.replace(target, _array(content, dtype, shape, "F" if is_fortran else "C"))
        elif not isinstance(target, PickledObject):
            raise CheckpointError(f"it sets attributes of a {type(target).__name__}")
        elif target.name == "joblib.numpy_pickle.NumpyArrayWrapper":
            self.replace(target, self.joblib_array(state))
        else:
            target.state = state

    def replace(self, placeholder: Any, value: Any) -> None:
        """Puts the finished `value` on the stack and in the memo in its placeholder's stead."""
        self.stack[-1] = value
        self.memo = {index: value if known is placeholder else known for index, known in self.memo.items()}

    def joblib_array(self, wrapper: dict) -> np.ndarray:
        """The array whose bytes follow in the stream (joblib writes them right after the wrapper's state)."""
        dtype = _resolved(wrapper["dtype"])
        if (
            wrapper.get("numpy_array_alignment_bytes") is not None
        ):  # since joblib 1.2: a length byte, then that padding
            padding = self.stream.read(1)
            self.stream.read(padding[0])
        num_values = int(np.prod([int(size) for size in wrapper["shape"]], dtype=object))
        content = self.stream.read(num_values * dtype.itemsize)
        return _array(content, wrapper["dtype"], wrapper["shape"], wrapper["order"])


def _name(full: str) -> _Name:
    if full not in _CALLS and full not in _PLAIN_NAMES and not full.startswith(INERT_MODULES):
        raise CheckpointError(f"it asks for {full}, which is not array data; nothing was executed")
    return _Name(full)


def _instance(name: Any, args: Any) -> Any:
    """What calling `name(*args)` would have made, made without calling it."""
    if not isinstance(name, _Name) or not isinstance(args, tuple):
        raise CheckpointError("it calls something that is not a name")
    rebuild = _CALLS.get(name.full)
    return rebuild(*args) if rebuild else PickledObject(name.full, args)


def _reduce(reader: _PickleReader) -> None:
    args, name = reader.stack.pop(), reader.stack.pop()
    reader.stack.append(_instance(name, args))


def _extend(target: Any, values: list) -> None:
    (target.items if isinstance(target, PickledObject) else target).extend(values)


def _update(target: Any, values: list) -> None:
    if not isinstance(target, dict):
        raise CheckpointError(f"it sets items of a {type(target).__name__}")
    target.update(zip(values[::2], values[1::2], strict=True))


def _resolved(dtype: Any) -> np.dtype:
    if not isinstance(dtype, _DType):
        raise CheckpointError("it describes an array without a dtype")
    return dtype.resolve()


def _array(content: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    """An array of native byte order over these bytes."""
    resolved = _resolved(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(int(size) for size in shape)
    needed = int(np.prod(shape, dtype=object)) * resolved.itemsize
    if not isinstance(content, bytes | bytearray) or len(content) != needed or min(shape, default=0) < 0:
        got = len(content) if isinstance(content, bytes | bytearray) else type(content).__name__
        raise EOFError(f"an array of {needed} bytes has {got}")
    flat = np.frombuffer(content, dtype=resolved)
    return flat.reshape(shape, order="F" if order == "F" else "C").astype(resolved.newbyteorder("="))


def _scalar(dtype: Any, content: bytes | None = None) -> Any:
    return _array(content, dtype, (), "C")[()]


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise CheckpointError(f"it encodes bytes as {encoding!r}")
    return text.encode("latin1")


# The only names that are rebuilt into data, each by a function of this file.
_CALLS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": lambda code, *_: _DType(code if isinstance(code, str) else repr(code)),
    "_codecs.encode": _encoded,
}
for _core in ("numpy.core", "numpy._core"):
    _CALLS[f"{_core}.multiarray._reconstruct"] = lambda *_: _EmptyArray()
    _CALLS[f"{_core}.multiarray.scalar"] = _scalar
    _CALLS[f"{_core}.numeric._frombuffer"] = lambda content, dtype, shape, order: _array(content, dtype, shape, order)

_PLAIN_NAMES = ("numpy.ndarray", "joblib.numpy_pickle.NumpyArrayWrapper")

_LITERALS = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    ]
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "MARK": lambda: _MARK,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}


def _tuple_of(size: int) -> Callable[[_PickleReader], None]:
    def make(reader: _PickleReader) -> None:
        values = tuple(reader.stack[-size:])
        del reader.stack[-size:]
        reader.stack.append(values)

    return make


_HANDLERS: dict[str, Callable[[_PickleReader], None]] = {
    "MEMOIZE": _PickleReader.memoize,
    "POP": _PickleReader.pop,
    "POP_MARK": _PickleReader.discard_marked,
    "DUP": _PickleReader.duplicate,
    "TUPLE": _PickleReader.tuple_of_marked,
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "LIST": _PickleReader.list_of_marked,
    "DICT": _PickleReader.dict_of_marked,
    "APPEND": _PickleReader.append,
    "APPENDS": _PickleReader.append_marked,
    "SETITEM": _PickleReader.set_item,
    "SETITEMS": _PickleReader.set_marked_items,
    "STACK_GLOBAL": _PickleReader.stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _PickleReader.new_object,
    "NEWOBJ_EX": _PickleReader.new_object_with_keywords,
    "BUILD": _PickleReader.build,
}
