"""Which files make which shard, fixed before the first is read: whoever makes a shard makes the same one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..models.streams import TokenStream
from .discovery import AudioFile
from .records import RECORD_FILE, TokenRecord, is_part, write_whole
from .shards import metadata_json, shard_path

#: files of one shard: what a killed run has to do again
FILES_PER_SHARD = 32

CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
tags:
- music
- open-musiclm
---
Audio as tokens for Open MusicLM. `tokens.json` says which codebooks made them and with which settings.

```python
from open_musiclm.data import TokenDataset

tokens = TokenDataset.load("this folder or Hub id")
```
"""


@dataclass(frozen=True)
class TokenizingPlan:
    """What is to be made, and where."""

    files: tuple[AudioFile, ...]
    output: Path
    record: TokenRecord
    files_per_shard: int = FILES_PER_SHARD

    @classmethod
    def make(
        cls,
        files: Sequence[AudioFile],
        output: Path,
        streams: Sequence[TokenStream],
        settings: dict[str, Any],
        files_per_shard: int = FILES_PER_SHARD,
    ) -> TokenizingPlan:
        if files_per_shard < 1:
            raise ValueError(f"A shard needs at least 1 file, got {files_per_shard}.")
        if not files:
            raise ValueError("There are no files to make tokens of.")
        digest = hashlib.sha256()
        for file in files:
            digest.update(json.dumps([file.name, file.caption, metadata_json(file.metadata)]).encode())
        listing = {
            "num_files": len(files),
            "files_per_shard": files_per_shard,
            "list": f"sha256:{digest.hexdigest()[:16]}",
        }
        return cls(tuple(files), Path(output), TokenRecord(tuple(streams), settings, listing), files_per_shard)

    @property
    def num_shards(self) -> int:
        return -(-len(self.files) // self.files_per_shard)

    def files_of(self, shard: int) -> range:
        """Indices of a shard's files."""
        return range(shard * self.files_per_shard, min((shard + 1) * self.files_per_shard, len(self.files)))

    def shard_path(self, shard: int) -> Path:
        return shard_path(self.output, shard, self.num_shards)

    def shards_of(self, worker: int, num_workers: int) -> list[int]:
        """The shards that one of several workers makes.

        Raises:
            ValueError: there is no such worker.
        """
        if not 0 <= worker < num_workers:
            raise ValueError(f"Of {num_workers} workers there is no number {worker}; they count from 0.")
        return list(range(worker, self.num_shards, num_workers))

    def start(self) -> None:
        """Make the output's folder, or check that what was begun there is the same work.

        Raises:
            ValueError: the output holds something else, or was begun with other files or settings.
        """
        present = list(self.output.iterdir()) if self.output.exists() else []  # before the record is looked for
        if (self.output / RECORD_FILE).is_file():
            begun = TokenRecord.load(self.output)
            differences = self.record.differences(begun)
            if differences:
                more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
                raise ValueError(
                    f"{str(self.output)!r} was begun with other settings: {'; '.join(differences[:3])}{more}. Go on "
                    "with the same ones, or give another --output."
                )
        elif not all(map(is_part, present)):
            raise ValueError(f"{str(self.output)!r} is not empty and holds no token dataset; give another --output.")
        # the record first: what is begun can be gone on with, by this job or another that starts in the same moment
        self.output.mkdir(parents=True, exist_ok=True)
        for name, content in ((RECORD_FILE, self.record.to_json()), ("README.md", CARD)):
            if not (self.output / name).is_file():
                write_whole(self.output / name, content)
        for folder in ("data", "skipped"):
            (self.output / folder).mkdir(exist_ok=True)
