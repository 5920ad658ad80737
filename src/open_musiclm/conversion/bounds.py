"""What reading a file may cost: bounds on bytes, operations and nesting that no honest checkpoint comes near."""

from __future__ import annotations

import bz2
import lzma
import pickletools
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .checkpoint_error import CheckpointError

#: a k-means of 4096 centroids of 2048 features in float64 is 64 MB
MAX_PICKLE_BYTES = 128 << 20
#: of one pickle; a fitted k-means takes some hundred, a checkpoint with its optimizer's state some ten thousand
MAX_OPERATIONS = 400_000
#: tuples in tuples in tuples: hashing one costs a step of the C stack a level, and may cost twice the time
_MAX_TUPLE_DEPTH = 12
#: the pickle inside a zip checkpoint, which holds names and shapes
_MAX_TABLE_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20


def read_bounded(path: Path) -> bytes:
    """A file's bytes, decompressed if it is one of the forms of `joblib.dump(compress=…)` (told by its first bytes).

    Raises:
        CheckpointError: It is larger than a k-means ever is, or its compressed data is damaged or has no end.
    """
    if path.stat().st_size > MAX_PICKLE_BYTES:
        raise CheckpointError(f"{path}: has {path.stat().st_size:,} bytes, more than any k-means")
    data = path.read_bytes()
    openers: tuple[tuple[bytes, Callable[[], Any]], ...] = (
        (b"\x78", zlib.decompressobj),
        (b"\x1f\x8b", lambda: zlib.decompressobj(wbits=31)),
        (b"BZ", bz2.BZ2Decompressor),
        (b"\x5d\x00", lambda: lzma.LZMADecompressor(memlimit=MAX_PICKLE_BYTES)),
        (b"\xfd7zXZ", lambda: lzma.LZMADecompressor(memlimit=MAX_PICKLE_BYTES)),
    )
    for magic, opener in openers:
        if data.startswith(magic):
            return _decompressed(data, opener(), path)
    return data


def _decompressed(data: bytes, machine: Any, path: Path) -> bytes:
    parts, total, left = [], 0, data
    try:
        while not machine.eof:
            parts.append(machine.decompress(left, _CHUNK_BYTES))
            total += len(parts[-1])
            if total > MAX_PICKLE_BYTES:
                raise CheckpointError(f"{path}: the compressed data is unreasonably large")
            left = getattr(machine, "unconsumed_tail", b"")
            if not parts[-1] and not left and not machine.eof:
                raise CheckpointError(f"{path}: the compressed data has no end")
    except (zlib.error, lzma.LZMAError, OSError, EOFError, MemoryError) as error:
        raise CheckpointError(f"{path}: the compressed data is damaged ({error})") from None
    return b"".join(parts)


def check_checkpoint_cost(path: Path) -> None:
    """Refuses a file of `torch.save` whose pickles would take too long, too much, or too deep a stack to read.

    Raises:
        CheckpointError: More operations, bytes or nesting than a table of tensors needs.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(".pkl"):
                    if entry.file_size > _MAX_TABLE_BYTES:
                        raise CheckpointError(f"{path}: its table of tensors has {entry.file_size:,} bytes")
                    with archive.open(entry) as stream:
                        _walk(stream, path)
        return
    with path.open("rb") as stream:  # the format of before 1.6: five pickles, then the tensors' bytes
        for _ in range(5):
            _walk(stream, path)


def _walk(stream: Any, path: Path) -> None:
    """Counts a pickle's operations and follows how deep its tuples nest, without making anything."""
    depths: list[int] = []  # of what would be on the stack: tuples around one another
    marks: list[int] = []
    memo: dict[Any, int] = {}
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > MAX_OPERATIONS:
                raise CheckpointError(
                    f"{path}: its pickle has more than {MAX_OPERATIONS:,} operations; no checkpoint has"
                )
            name = opcode.name
            if name == "MARK":
                marks.append(len(depths))
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo[argument] = depths[-1]
            elif name == "MEMOIZE":
                memo[len(memo)] = depths[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                depths.append(memo[argument])
            elif name == "DUP":
                depths.append(depths[-1])
            else:
                taken = _taken(opcode, depths, marks)
                if name.startswith("TUPLE"):
                    depths.append(1 + max(taken, default=0))
                    if depths[-1] > _MAX_TUPLE_DEPTH:
                        raise CheckpointError(f"{path}: its pickle nests tuples more than {_MAX_TUPLE_DEPTH} deep")
                else:
                    depths.extend([0] * len(opcode.stack_after))
    except CheckpointError:
        raise
    except (ValueError, IndexError, KeyError, EOFError, OverflowError, MemoryError, UnicodeError) as error:
        raise CheckpointError(
            f"{path}: cut off, damaged, or not a PyTorch checkpoint ({type(error).__name__})"
        ) from None


def _taken(opcode: Any, depths: list[int], marks: list[int]) -> list[int]:
    """Takes what an operation takes off the stack."""
    before = opcode.stack_before
    if pickletools.stackslice in before:
        start = marks.pop()
        below = before.index(pickletools.markobject)
        taken = depths[start:]
        del depths[start - below :]
        return taken
    start = len(depths) - len(before)
    if start < 0:
        raise IndexError("the stack is empty")
    taken = depths[start:]
    del depths[start:]
    return taken
