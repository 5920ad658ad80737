"""What a token dataset says about itself: its streams with their codebooks' fingerprints, and how it was made."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..given import as_count, shown
from ..models.streams import TokenStream, resolve_streams
from ..version import __version__

RECORD_FILE = "tokens.json"
#: key of the record in each shard's own schema metadata
SCHEMA_KEY = b"open_musiclm"
FORMAT = 1
#: what stands in a shard where an optional stream says nothing: ids are stored as uint16, which has no -1
HIDDEN_ID = 65_535


@dataclass(frozen=True)
class TokenRecord:
    """A token dataset's own metadata.

    Args:
        streams: what each column `{name}_token_ids` holds; their fingerprints say which codebooks made the tokens.
        settings: the exact settings of the tokenizer (see `MusicTokenizer.describe`).
        files: how many files there were, how many make a shard, and a hash of the list.
        software: what wrote it.
    """

    streams: tuple[TokenStream, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    software: str = f"open-musiclm {__version__}"

    def stream(self, name: str) -> TokenStream:
        """The stream of that name; a `ValueError` names those there are."""
        for stream in self.streams:
            if stream.name == name:
                return stream
        raise ValueError(
            f"These tokens have no stream {name!r}; they have {[stream.name for stream in self.streams]}."
        )

    def has(self, stream: TokenStream) -> bool:
        """Whether these tokens hold a stage's stream."""
        try:
            return bool(self.columns_of(stream))
        except ValueError:
            return False

    def columns_of(self, stream: TokenStream) -> list[tuple[TokenStream, slice]]:
        """Where a stage's stream stands: columns, and which of their codebooks.

        By its name; where no column has it, by its source's codebooks, which may lie in several columns: so a stage that
        predicts all codebooks trains on the coarse and fine tokens of three stages.

        Raises:
            ValueError: not all of its codebooks are here; the message names those that are.
        """
        for own in self.streams:
            if own.name == stream.name and stream.context == "same":
                return [(own, slice(0, own.num_codebooks))]
        first = stream.first_codebook or 0
        stop, columns = first + stream.num_codebooks, []
        for own in sorted(self._of_source(stream.source), key=lambda own: own.first_codebook or 0):
            start = own.first_codebook or 0
            if start <= first < min(start + own.num_codebooks, stop):
                last = min(start + own.num_codebooks, stop)
                columns.append((own, slice(first - start, last - start)))
                first = last
        if first < stop:
            self.stream(stream.name)  # which says what there is
        return columns

    def described(self, stream: TokenStream) -> TokenStream:
        """A stage's stream as these tokens have it; the fingerprint of one that is put together is not known."""
        columns = self.columns_of(stream)
        own, part = columns[0]
        if len(columns) == 1 and part == slice(0, own.num_codebooks):
            return own
        number = sum(part.stop - part.start for _, part in columns)
        return replace(own, name=stream.name, num_codebooks=number, codebook_fingerprint=None)

    def num_codebooks_from(self, stream: TokenStream) -> int:
        """Codebooks of a stream's source that stand here from its first one on, without a gap."""
        stop = first = stream.first_codebook or 0
        for own in sorted(self._of_source(stream.source), key=lambda own: own.first_codebook or 0):
            if (own.first_codebook or 0) <= stop:
                stop = max(stop, (own.first_codebook or 0) + own.num_codebooks)
        return stop - first

    def _of_source(self, source: str | None) -> list[TokenStream]:
        return [own for own in self.streams if own.source == source]

    @property
    def num_shards(self) -> int:
        return -(-self.files["num_files"] // self.files["files_per_shard"])

    def to_json(self) -> str:
        content = {
            "format": FORMAT,
            "software": self.software,
            "streams": [stream.to_dict() for stream in self.streams],
            "settings": self.settings,
            "files": self.files,
        }
        return json.dumps(content, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> TokenRecord:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is no record of a token dataset: {shown(error)}.") from error
        try:
            if content["format"] != FORMAT:
                raise ValueError(f"{where} has the format {shown(content['format'])}; this version reads {FORMAT}.")
            streams = tuple(resolve_streams(content["streams"]))
            settings, files = content["settings"], content["files"]
            if not isinstance(settings, dict) or not isinstance(files, dict):
                raise ValueError(f"{where} is no record of a token dataset: its settings and files are no tables.")
            for name, least in (("num_files", 0), ("files_per_shard", 1)):
                as_count(f"{where}: {name}", files[name], least)
            return cls(streams, settings, files, str(content["software"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"{where} is no record of a token dataset: {shown(error)}.") from error

    @classmethod
    def load(cls, folder: str | os.PathLike) -> TokenRecord:
        """The record of a token dataset's folder."""
        path = Path(folder) / RECORD_FILE
        if not path.is_file():
            raise ValueError(
                f"{str(folder)!r} is no token dataset: it holds no {RECORD_FILE}. `open-musiclm tokenize` makes one."
            )
        return cls.from_json(path.read_text(encoding="utf-8", errors="replace"), str(path))

    def differences(self, other: TokenRecord) -> list[str]:
        """What differs, in words; the version of the software may."""
        mine, theirs = (json.loads(record.to_json()) for record in (self, other))
        return [text for key in ("streams", "settings", "files") for text in _differences(key, mine[key], theirs[key])]


def _differences(where: str, mine: Any, theirs: Any) -> list[str]:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        keys = sorted({*mine, *theirs})
        return [text for key in keys for text in _differences(f"{where}.{key}", mine.get(key), theirs.get(key))]
    if isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        pairs = enumerate(zip(mine, theirs, strict=True))
        return [text for index, pair in pairs for text in _differences(f"{where}[{index}]", *pair)]
    return [] if mine == theirs else [f"{where} was {shown(theirs)}, is now {shown(mine)}"]


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a small file so that it appears whole or not at all."""
    aside = part_of(path)
    try:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """Where a file is written before it is renamed: a name of its own for whoever writes it, on whichever machine."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")


def remove_remains(path: Path) -> None:
    """Remove what a killed process left of a file that it was writing."""
    for remains in path.parent.glob(f".{path.name}.*.part"):
        remains.unlink(missing_ok=True)


def is_part(path: Path) -> bool:
    """Whether a file is what a killed process left of one that it was writing."""
    return path.name.startswith(".") and path.suffix == ".part"


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSONL, whole or not at all."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows))
