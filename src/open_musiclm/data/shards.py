"""Parquet shards of tokens: one file a shard, which is there whole or not at all.

Columns: `index` (of the file in the source's list), `path`, `duration_in_s`, `caption`, `metadata` (JSON), and a
`{stream}_token_ids` for each stream, `Array2D((None, codebooks), "uint16")`. The record of the whole dataset stands in
every shard's schema metadata, so that a shard says what its tokens mean wherever it is copied.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .records import HIDDEN_ID, SCHEMA_KEY, TokenRecord, part_of

COMPRESSION = "zstd"
#: rows read at a time: small groups, so that reading one file's tokens never needs many others'
ROW_GROUP_SIZE = 16


def token_features(record: TokenRecord):
    """The `datasets.Features` of a shard."""
    from datasets import Array2D, Features, Value

    columns: dict[str, Any] = {
        "index": Value("int64"),
        "path": Value("string"),
        "duration_in_s": Value("float64"),
        "caption": Value("string"),
        "metadata": Value("string"),
    }
    for stream in record.streams:
        columns[stream.argument] = Array2D((None, stream.num_codebooks), "uint16")
    return Features(columns)


def shard_path(output: Path, shard: int, num_shards: int) -> Path:
    return output / "data" / f"tokens-{shard:05d}-of-{num_shards:05d}.parquet"


def skipped_path(output: Path, shard: int) -> Path:
    return output / "skipped" / f"{shard:05d}.jsonl"


def write_shard(path: Path, rows: list[dict[str, Any]], record: TokenRecord) -> None:
    """Write rows as one parquet file, aside and then renamed. The same rows give the same bytes."""
    import pyarrow.parquet as pq
    from datasets import Dataset

    features = token_features(record)
    columns = {name: [row[name] for row in rows] for name in features}
    table = Dataset.from_dict(columns, features=features).with_format("arrow")[:]
    schema = features.arrow_schema  # with the features in the metadata, as `datasets` reads them
    metadata = {**(schema.metadata or {}), SCHEMA_KEY: record.to_json().encode()}
    table = table.cast(schema).replace_schema_metadata(metadata)
    aside = part_of(path)
    try:
        with pq.ParquetWriter(aside, table.schema, compression=COMPRESSION) as writer:
            if len(table):  # an empty row group is more than `datasets` can read
                writer.write_table(table, row_group_size=ROW_GROUP_SIZE)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def num_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path).metadata.num_rows


def total_duration(path: Path) -> float:
    """Seconds of audio in a shard."""
    import pyarrow.parquet as pq

    return float(np.sum(pq.read_table(path, columns=["duration_in_s"])["duration_in_s"].to_numpy()))


def known_by_stream(record: TokenRecord, paths: Sequence[Path]) -> dict[str, float]:
    """Share of its frames in which each optional stream says something, over all shards."""
    import pyarrow.parquet as pq

    shares = {}
    for stream in (stream for stream in record.streams if stream.optional):
        known = total = 0
        for path in paths:
            column = pq.read_table(path, columns=[stream.argument])[stream.argument].combine_chunks()
            ids = getattr(column, "storage", column).flatten().flatten().to_numpy()
            frames = ids.reshape(-1, stream.num_codebooks)
            known, total = known + int((frames != HIDDEN_ID).any(axis=1).sum()), total + len(frames)
        shares[stream.name] = round(known / total, 4) if total else 0.0
    return shares


def record_of_shard(path: Path) -> TokenRecord:
    """The record that a shard carries in itself."""
    import pyarrow.parquet as pq

    with named_damage(path):
        metadata = pq.read_schema(path).metadata or {}
    if SCHEMA_KEY not in metadata:
        raise ValueError(f"{str(path)!r} carries no record of how its tokens were made; it was not written here.")
    return TokenRecord.from_json(metadata[SCHEMA_KEY].decode(errors="replace"), str(path))


@contextmanager
def named_damage(path: Path) -> Iterator[None]:
    """What Arrow says of a shard that it cannot read, as a `ValueError` of one line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        told = " ".join(str(error).split())[:200]
        raise ValueError(f"{str(path)!r} is damaged ({told}); delete it and tokenize again.") from error


def metadata_json(metadata: dict[str, Any]) -> str | None:
    """A file's further metadata as one JSON text, `None` if there is none."""
    return json.dumps(metadata, ensure_ascii=False, sort_keys=True, default=str) if metadata else None
