"""Reading a token dataset: `TokenDataset` by index, `TokenStreamDataset` as a stream.

Both give rows for a `CropCollator`: the tokens of a whole file, and a `crop_key` of which the collator draws its crop.
A crop depends on its key alone, so training is the same whatever the number of workers, processes or interruptions.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..extras import extra_needed
from ..models.streams import PADDING_ID
from .checking import check_row, check_tokens
from .records import HIDDEN_ID, RECORD_FILE, TokenRecord
from .shards import record_of_shard, shard_path, token_features

#: crops of every file in one epoch of a `TokenDataset`
CROPS_PER_FILE = 100
SHARDS = "data/*.parquet"


class TokenDataset(torch.utils.data.Dataset):
    """Token files by index.

    The dataset has `crops_per_file` entries of every file, entry by entry with another `crop_key`. Nothing has to be
    told the epoch for crops to differ, and a run that resumes in the middle goes on with the same crops.

    Args:
        table: a `datasets.Dataset` of shards.
        record: what the tokens are.
        crops_per_file: entries of each file. An epoch is that many passes over the files.
        indices: which of the files, by their place in the table; by default all.
    """

    def __init__(
        self,
        table: Any,
        record: TokenRecord,
        crops_per_file: int = CROPS_PER_FILE,
        indices: Sequence[int] | np.ndarray | None = None,
    ):
        if crops_per_file < 1:
            raise ValueError(f"`crops_per_file` must be at least 1, got {crops_per_file}.")
        self.table = table.with_format("arrow")
        self.record = record
        self.crops_per_file = crops_per_file
        self.indices = np.arange(len(table)) if indices is None else np.asarray(indices, dtype=np.int64)
        if not len(self.indices):
            raise ValueError("The token dataset has no files (were all of them left out? see its report.json).")

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        crops_per_file: int = CROPS_PER_FILE,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
    ) -> TokenDataset:
        """From a folder made by `open-musiclm tokenize`, or its copy on the Hub.

        Raises:
            ValueError: it is no token dataset, not complete, its shards were made in different ways, or hold what
                cannot be trained on: empty rows, parts of codebooks, ids that there are none of, a file twice.
        """
        with extra_needed():
            from datasets import load_dataset

        folder = dataset_folder(path, revision)
        record, shards = check_shards(folder)
        with one_table(str(folder)):
            table = load_dataset(
                "parquet",
                data_files=plain_names(folder, shards),
                split="train",
                cache_dir=None if cache_dir is None else str(cache_dir),
                **read_as(record),
            )
        return cls(table, record, crops_per_file)

    @property
    def num_files(self) -> int:
        return len(self.indices)

    def __len__(self) -> int:
        return len(self.indices) * self.crops_per_file

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The tokens of one file, (frames, codebooks) uint16 each, what is known about it, and the `crop_key`."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"The dataset has {len(self)} entries, asked for {index}.")
        crop, file = divmod(index % len(self), len(self.indices))
        row = row_of_table(self.table[int(self.indices[file])], self.record)
        return {**row, "crop_key": (row["index"], crop)}

    def with_crops_per_file(self, crops_per_file: int) -> TokenDataset:
        """The same files with another number of entries each."""
        return TokenDataset(self.table, self.record, crops_per_file, self.indices)

    def split(self, held_out: float | int, seed: int = 0) -> tuple[TokenDataset, TokenDataset]:
        """Files to train on, and files to evaluate on (one fixed crop each).

        Args:
            held_out: share of the files in (0, 1), or their number; at least one file stays on each side.
            seed: of the choice, which depends on nothing else.
        """
        number = round(held_out * self.num_files) if 0 < held_out < 1 else int(held_out)
        number = max(number, 1)
        if number >= self.num_files:
            raise ValueError(f"Cannot hold out {held_out} of {self.num_files} files and still train on some.")
        order = np.random.default_rng(seed).permutation(self.num_files)
        chosen, rest = np.sort(order[:number]), np.sort(order[number:])
        return (
            TokenDataset(self.table, self.record, self.crops_per_file, self.indices[rest]),
            TokenDataset(self.table, self.record, 1, self.indices[chosen]),
        )


class TokenStreamDataset(torch.utils.data.IterableDataset):
    """Token files as an endless stream, for data that is larger than the disk or lies on the Hub.

    Pass follows pass, each in another shuffled order and with other crops; training ends with `max_steps`.

    Args:
        table: a `datasets.IterableDataset` of shards.
        record: what the tokens are.
        shuffle_buffer: rows from which the next one is drawn; 0 keeps the order.
        seed: of the order.
        endless: go on with the next pass; else stop after one.
    """

    def __init__(
        self, table: Any, record: TokenRecord, shuffle_buffer: int = 256, seed: int = 0, endless: bool = True
    ):
        self.table = table.with_format("arrow")
        if shuffle_buffer:
            self.table = self.table.shuffle(seed=seed, buffer_size=shuffle_buffer)
        self.record = record
        self.endless = endless
        self._pass = 0
        self._settings = (shuffle_buffer, seed)

    @classmethod
    def load(
        cls, path: str | os.PathLike, revision: str | None = None, shuffle_buffer: int = 256, seed: int = 0
    ) -> TokenStreamDataset:
        """From a folder, or from the Hub without downloading it first."""
        with extra_needed():
            from datasets import load_dataset

        if os.path.isdir(path):  # False too for a name that is too long
            record, shards = check_shards(Path(path))
            files = plain_names(Path(path), shards)
        else:
            record = TokenRecord.load(dataset_folder(path, revision, shards=False))
            there, number = f"hf://datasets/{path}{f'@{revision}' if revision else ''}", record.num_shards
            files = [f"{there}/{shard_path(Path(), shard, number).as_posix()}" for shard in range(number)]
        table = load_dataset("parquet", data_files=files, split="train", streaming=True, **read_as(record))
        return cls(table, record, shuffle_buffer, seed)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            self.table.set_epoch(self._pass)
            empty = True
            for row in self._rows():
                empty = False
                row = row_of_table(row, self.record)
                for stream in self.record.streams:
                    check_row(row[stream.argument], stream, f"{row['path']!r}")
                yield {**row, "crop_key": (row["index"], self._pass)}
            if empty:
                raise ValueError("The stream gave no files: it has fewer shards than there are workers and processes.")
            self._pass += 1
            if not self.endless:
                return

    def _rows(self) -> Iterator[Any]:
        with one_table("The stream of tokens"):
            yield from self.table

    def split_by_node(self, rank: int, world_size: int) -> TokenStreamDataset:
        """The part of one of several processes (shards are dealt out if their number is a multiple of theirs)."""
        from datasets.distributed import split_dataset_by_node

        part = TokenStreamDataset(self.table, self.record, 0, endless=self.endless)
        part.table = split_dataset_by_node(self.table, rank=rank, world_size=world_size)
        part._pass = self._pass
        return part

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands (a shuffle buffer's rows are drawn again when it is loaded)."""
        return {"pass": self._pass, "table": self.table.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._pass = state["pass"]
        self.table.load_state_dict(state["table"])


def read_as(record: TokenRecord) -> dict[str, Any]:
    """Arguments for `load_dataset`: the columns and their types, which no shard decides for the others."""
    features = token_features(record)
    return {"features": features, "columns": list(features)}


@contextmanager
def one_table(what: str) -> Iterator[None]:
    """What `datasets` raises where shards do not make one table, as a `ValueError` of one line."""
    from datasets.exceptions import DatasetGenerationError

    try:
        yield
    except (DatasetGenerationError, TypeError) as error:
        told = " ".join(str(error.__cause__ or error).split())[:200]
        raise ValueError(
            f"{what} cannot be read as one table ({told}): shards are of different kinds, or damaged. Delete those that "
            "`open-musiclm tokenize` did not write, and give it the same command again."
        ) from error


def row_of_table(table: Any, record: TokenRecord) -> dict[str, Any]:
    """One row of an arrow table: the tokens as (frames, codebooks) uint16 (int64 where -1 may be among them), the rest as
    it is."""
    row: dict[str, Any] = {
        name: table[name][0].as_py() for name in ("index", "path", "duration_in_s", "caption", "metadata")
    }
    for stream in record.streams:
        column = table[stream.argument].combine_chunks()
        storage = getattr(column, "storage", column)  # list<list<uint16>>
        ids = storage.flatten().flatten().to_numpy().reshape(-1, stream.num_codebooks)
        if stream.optional:
            ids = np.where(ids == HIDDEN_ID, PADDING_ID, ids.astype(np.int64))
        row[stream.argument] = ids
    return row


def dataset_folder(path: str | os.PathLike, revision: str | None = None, shards: bool = True) -> Path:
    """A dataset's folder: the given one, or a snapshot of a Hub id."""
    folder = Path(path)
    if os.path.isdir(folder):
        return folder
    if os.path.exists(folder) or str(path).count("/") != 1 or str(path).startswith((".", "/", "~")):
        raise ValueError(f"There is no token dataset {str(path)!r}: neither a folder nor a Hub id.")
    from huggingface_hub import snapshot_download

    patterns = [RECORD_FILE, *([SHARDS] if shards else [])]
    return Path(snapshot_download(str(path), revision=revision, repo_type="dataset", allow_patterns=patterns))


def plain_names(folder: Path, shards: Sequence[Path]) -> list[str]:
    """The shards' paths, by way of a link in the cache of `datasets` where their folder's name holds what it reads as a
    pattern or an address."""
    if not set(str(folder.resolve())) & set("*?[]{}") and "::" not in str(folder.resolve()):
        return [str(shard) for shard in shards]
    from datasets.config import HF_DATASETS_CACHE

    link = (
        Path(HF_DATASETS_CACHE)
        / "open_musiclm_folders"
        / hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    )
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        with suppress(FileExistsError):
            link.symlink_to(folder.resolve(), target_is_directory=True)
    return [str(link / shard.relative_to(folder)) for shard in shards]


def check_shards(folder: Path) -> tuple[TokenRecord, list[Path]]:
    """A dataset's record and its shards, complete, all made in the same way, and sound (see checking.py)."""
    record = TokenRecord.load(folder)
    shards = sorted(folder.glob(SHARDS))
    if len(shards) != record.num_shards:
        raise ValueError(
            f"{str(folder)!r} has {len(shards)} of its {record.num_shards} shards. Give `open-musiclm tokenize` the same "
            "command again: it goes on where it was."
        )
    for shard in shards:
        differences = record.differences(record_of_shard(shard))
        if differences:
            raise ValueError(f"{str(shard)!r} was made in another way than its dataset says: {differences[0]}.")
    check_tokens(folder, record, shards)
    return record, shards
