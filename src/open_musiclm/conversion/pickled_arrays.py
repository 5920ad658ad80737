"""Reads the arrays out of a pickle without executing anything the pickle names.

A pickle is a program for a small stack machine, and loading one means letting it import and call. Here the program is
walked by a machine that cannot: a name becomes an inert `PickledObject` that records how it was built, a handful of
names that stand for NumPy data are rebuilt by code of this file, and every other name is refused before anything is
made of it. scikit-learn and joblib are never imported.

Understood: pickle protocols 0 to 5, and joblib's format (raw array bytes inside the stream, optionally the whole file
compressed with zlib, gzip, bz2, lzma or xz). What reading may cost is bounded before and while reading (`bounds.py`).
"""

from __future__ import annotations

import io
import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .bounds import MAX_OPERATIONS, MAX_PICKLE_BYTES, read_bounded
from .checkpoint_error import CheckpointError
from .pickled_data import DType, EmptyArray, array_of, checked_shape, encoded, resolved, scalar_of

# Names whose instances are kept as inert records of their attributes (fitted estimators, random states).
INERT_MODULES = ("sklearn.", "numpy.random.")
# joblib's marker of an array whose bytes follow, as scikit-learn 0.19 to 0.22 carried a joblib of its own.
_WRAPPERS = tuple(f"{package}joblib.numpy_pickle.NumpyArrayWrapper" for package in ("", "sklearn.externals."))
_OBJECTS = "an array of objects"


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
    data = read_bounded(path)
    if not data:
        raise CheckpointError(f"{path}: the file is empty")
    try:
        return _PickleReader(io.BytesIO(data)).read()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: refused: {error}") from None
    except (
        ValueError, IndexError, KeyError, TypeError, AttributeError, EOFError, OSError, RecursionError, OverflowError,
        MemoryError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{path}: not a whole pickle or joblib file ({reason})") from None


class _PickleReader:
    """The stack machine. It has no way to import or to call what a pickle names."""

    def __init__(self, stream: io.BytesIO, num_operations: int = 0, num_bytes: int = 0):
        self.stream = stream
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.marks: list[int] = []  # where on the stack the marks are
        self.places: dict[int, list[int]] = {}  # of an unfinished value (by its id): where the memo has it
        self.num_operations, self.num_bytes = num_operations, num_bytes

    def read(self) -> Any:
        for opcode, argument, _ in pickletools.genops(self.stream):
            if opcode.name == "STOP":
                return self.stack[-1]
            self.num_operations += 1
            if self.num_operations > MAX_OPERATIONS:
                raise CheckpointError(f"it has more than {MAX_OPERATIONS:,} operations, which no k-means has")
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
            self.remember(argument)
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

    def remember(self, index: int) -> None:
        value = self.stack[-1]
        self.memo[index] = value
        if isinstance(value, PickledObject | EmptyArray):
            self.places.setdefault(id(value), []).append(index)

    def pop_mark(self) -> list:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def spend(self, num_bytes: int) -> None:
        """Counts the bytes of arrays: one that the stream holds once may be asked for many times."""
        self.num_bytes += num_bytes
        if self.num_bytes > 2 * MAX_PICKLE_BYTES:
            raise CheckpointError("it makes more arrays than any k-means has")

    # Operations, one a method.

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def memoize(self) -> None:
        self.remember(len(self.memo))

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
        made: dict = {}
        _update(made, self.pop_mark())
        self.stack.append(made)

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
        if isinstance(target, DType):
            target.byte_order = state[1]
        elif isinstance(target, EmptyArray):
            _, shape, dtype, is_fortran, content = state
            if isinstance(dtype, DType) and dtype.is_object:
                self.replace(target, PickledObject(_OBJECTS, items=list(content)))
            else:
                self.spend(len(content))
                self.replace(target, array_of(content, dtype, shape, "F" if is_fortran else "C"))
        elif not isinstance(target, PickledObject):
            raise CheckpointError(f"it sets attributes of a {type(target).__name__}")
        elif target.name in _WRAPPERS:
            self.replace(target, self.joblib_array(state))
        else:
            target.state = state

    def replace(self, placeholder: Any, value: Any) -> None:
        """Puts the finished `value` on the stack and in the memo in its placeholder's stead."""
        self.stack[-1] = value
        for index in self.places.pop(id(placeholder), []):
            if self.memo.get(index) is placeholder:
                self.memo[index] = value

    def joblib_array(self, wrapper: dict) -> Any:
        """The array whose bytes follow in the stream (joblib writes them right after the wrapper's state).

        Of an array of objects (the names of a table's columns) a whole pickle follows, which is walked and let go.
        """
        if isinstance(wrapper["dtype"], DType) and wrapper["dtype"].is_object:
            inner = _PickleReader(self.stream, self.num_operations, self.num_bytes)
            value = inner.read()
            self.num_operations, self.num_bytes = inner.num_operations, inner.num_bytes
            return value
        dtype = resolved(wrapper["dtype"])
        if (
            wrapper.get("numpy_array_alignment_bytes") is not None
        ):  # since joblib 1.2: a length byte, then that padding
            padding = self.stream.read(1)
            self.stream.read(padding[0])
        num_bytes = math.prod(checked_shape(wrapper["shape"])) * dtype.itemsize
        self.spend(num_bytes)
        content = self.stream.read(num_bytes)
        return array_of(content, wrapper["dtype"], wrapper["shape"], wrapper["order"])


def _name(full: str) -> _Name:
    if full not in _CALLS and full not in _PLAIN_NAMES and not full.startswith(INERT_MODULES):
        raise CheckpointError(f"it asks for {full[:120]}, which is not array data; nothing was executed")
    return _Name(full)


def _instance(name: Any, args: Any) -> Any:
    """What calling `name(*args)` would have made, made without calling it."""
    if not isinstance(name, _Name) or not isinstance(args, tuple):
        raise CheckpointError("it calls something that is not a name")
    rebuild = _CALLS.get(name.full)
    return rebuild(*args) if rebuild else PickledObject(name.full, args)


def _reduce(reader: _PickleReader) -> None:
    args, name = reader.stack.pop(), reader.stack.pop()
    value = _instance(name, args)
    if isinstance(value, np.ndarray | bytes):
        reader.spend(len(value) if isinstance(value, bytes) else value.nbytes)
    reader.stack.append(value)


def _extend(target: Any, values: list) -> None:
    (target.items if isinstance(target, PickledObject) else target).extend(values)


def _update(target: Any, values: list) -> None:
    if not isinstance(target, dict):
        raise CheckpointError(f"it sets items of a {type(target).__name__}")
    for key in values[::2]:
        if key is not None and not isinstance(key, str | bytes | int | float):
            raise CheckpointError(f"it has a {type(key).__name__} as the key of a table")
    target.update(zip(values[::2], values[1::2], strict=True))


# The only names that are rebuilt into data, each by a function of this file.
_CALLS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": lambda code, *_: DType(code if isinstance(code, str) else f"a {type(code).__name__}"),
    "_codecs.encode": encoded,
}
for _core in ("numpy.core", "numpy._core"):
    _CALLS[f"{_core}.multiarray._reconstruct"] = lambda *_: EmptyArray()
    _CALLS[f"{_core}.multiarray.scalar"] = scalar_of
    _CALLS[f"{_core}.numeric._frombuffer"] = lambda content, dtype, shape, order: array_of(
        content, dtype, shape, order
    )

_PLAIN_NAMES = ("numpy.ndarray", *_WRAPPERS)

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
    "MARK": _PickleReader.mark,
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
