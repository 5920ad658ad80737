"""Whether the tokens of a dataset can be trained on, looked at once when it is opened: not at a crop hours later."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..models.streams import TokenStream
from .records import HIDDEN_ID, TokenRecord, write_whole
from .shards import named_damage

#: folder in the cache of `datasets`: which shards of which dataset were found sound, by name, size and time of change
CHECKED = "open-musiclm-checked"


def check_tokens(folder: Path, record: TokenRecord, shards: list[Path]) -> None:
    """Read every shard once; what was found sound is noted in the cache, and not read again until it changes.

    Raises:
        ValueError: a shard is damaged or there twice, a file is there twice, or a row has no frames, part of its
            codebooks, or ids that its codebook does not have.
    """
    state = {shard.name: [shard.stat().st_size, shard.stat().st_mtime_ns] for shard in shards}
    note = _note_of(folder)
    known = _read_known(note)
    if known.get("shards") == state and known.get("streams") == _described(record):
        return
    seen: dict[int, Path] = {}
    for shard in shards:
        for index in _check_shard(shard, record):
            if index in seen:
                raise ValueError(
                    f"File number {index} is in {seen[index].name} and in {shard.name} of {str(folder)!r}: a shard was "
                    "copied over another. Delete the wrong one, and give `open-musiclm tokenize` the same command again."
                )
            seen[index] = shard
    with contextlib.suppress(OSError):  # no cache: it is looked at again the next time
        note.parent.mkdir(parents=True, exist_ok=True)
        write_whole(note, json.dumps({"shards": state, "streams": _described(record)}) + "\n")


def check_row(tokens: np.ndarray, stream: TokenStream, where: str) -> None:
    """One row's tokens of one stream, (frames, codebooks), where shards cannot be read beforehand.

    Raises:
        ValueError: as `check_tokens`.
    """
    if not len(tokens) and not stream.optional:
        raise ValueError(f"{where}: {stream.argument} has no frames.")
    if len(tokens) and int(tokens.max()) >= stream.codebook_size:
        raise ValueError(
            f"{where}: {stream.argument} holds the id {int(tokens.max())}, of {stream.codebook_size} ids."
        )


def _check_shard(shard: Path, record: TokenRecord) -> list[int]:
    """The indices of a shard's files."""
    import pyarrow.parquet as pq

    with named_damage(shard):
        file = pq.ParquetFile(shard)
        _check_types(shard, file.schema_arrow, record)
        indices: list[int] = []
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["index", "path", *(s.argument for s in record.streams)])
            if not len(table):
                raise ValueError(
                    f"{str(shard)!r} has a row group without rows, which `datasets` cannot read: another program wrote it. "
                    "Delete it, and give `open-musiclm tokenize` the same command again."
                )
            paths = table["path"].to_pylist()
            for stream in record.streams:
                _check_column(table[stream.argument], stream, [f"{str(shard)!r}, {path!r}" for path in paths])
            if table["index"].null_count:
                raise ValueError(f"{str(shard)!r} has a file without a number (`index`).")
            indices += table["index"].to_pylist()
        return indices


def _check_types(shard: Path, schema: Any, record: TokenRecord) -> None:
    """Columns that another program left out, or wrote as something else."""
    import pyarrow as pa

    def is_text(kind: Any) -> bool:
        return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)

    def is_ids(kind: Any) -> bool:
        kind = getattr(kind, "storage_type", kind)
        return (
            pa.types.is_list(kind)
            and pa.types.is_list(kind.value_type)
            and pa.types.is_integer(kind.value_type.value_type)
        )

    needed = {"index": (pa.types.is_integer, "whole numbers"), "duration_in_s": (pa.types.is_floating, "numbers")}
    needed |= dict.fromkeys(("path", "caption", "metadata"), (is_text, "texts"))
    needed |= {stream.argument: (is_ids, "lists of frames, each a list of ids") for stream in record.streams}
    for name, (fits, what) in needed.items():
        if name not in schema.names:
            raise ValueError(f"{str(shard)!r} has no column {name!r}.")
        if not fits(schema.field(name).type):
            raise ValueError(f"{str(shard)!r}: the column {name!r} must hold {what}, not {schema.field(name).type}.")


def _check_column(column: Any, stream: TokenStream, where: list[str]) -> None:
    """Lists of lists of ids, all rows at once."""
    together = column.combine_chunks()
    rows = getattr(together, "storage", together)
    if rows.null_count:
        raise ValueError(f"{where[rows.is_null().index(True).as_py()]}: {stream.argument} is missing.")
    num_frames = np.diff(rows.offsets.to_numpy())
    frames = rows.flatten()
    empty = np.flatnonzero(num_frames == 0)
    if len(empty) and not stream.optional:
        raise ValueError(f"{where[empty[0]]}: {stream.argument} has no frames.")
    row_of_frame = np.repeat(np.arange(len(num_frames)), num_frames)
    sizes = np.diff(frames.offsets.to_numpy()) if len(frames) else np.empty(0, dtype=int)
    wrong = np.flatnonzero(sizes != stream.num_codebooks)
    if frames.null_count or len(wrong):
        place = int(wrong[0]) if len(wrong) else 0
        raise ValueError(
            f"{where[row_of_frame[place]]}: {stream.argument} has {sizes[place]} of its {stream.num_codebooks} codebooks in "
            "a frame."
        )
    flat = frames.flatten()
    if flat.null_count:
        row = row_of_frame[flat.is_null().index(True).as_py() // stream.num_codebooks]
        raise ValueError(f"{where[row]}: {stream.argument} lacks an id in a frame.")
    ids = flat.to_numpy(zero_copy_only=False)
    known = ids != HIDDEN_ID if stream.optional else True
    beyond = np.flatnonzero(((ids < 0) | (ids >= stream.codebook_size)) & known)
    if len(beyond):
        row = row_of_frame[beyond[0] // stream.num_codebooks]
        raise ValueError(
            f"{where[row]}: {stream.argument} holds the id {ids[beyond[0]]}, and its codebooks have {stream.codebook_size}."
        )


def _described(record: TokenRecord) -> list[list[Any]]:
    return [[s.argument, s.num_codebooks, s.codebook_size, s.optional] for s in record.streams]


def _note_of(folder: Path) -> Path:
    import datasets

    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:24]
    return Path(datasets.config.HF_DATASETS_CACHE) / CHECKED / f"{name}.json"


def _read_known(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
