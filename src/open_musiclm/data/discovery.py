"""Which audio there is: a folder, or a manifest that names files and says what is known about them.

A folder may hold a `metadata.csv` or `metadata.jsonl` with a column `file_name`, as the Hub's audio folders do; a
manifest is such a table anywhere.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..audio.reading import AUDIO_ENDINGS
from ..given import shown
from .pairing import PATH_RULES, pair, plain_path
from .tables import first_column, read_table

MANIFEST_ENDINGS = (".csv", ".jsonl")
#: columns of a manifest that name the file, and that describe it in words
PATH_COLUMNS = ("file_name", "path", "audio", "file", "audio_path")
CAPTION_COLUMNS = ("caption", "text", "description", "prompt")


@dataclass(frozen=True)
class AudioFile:
    """One file to be read.

    Args:
        path: where it is.
        name: its path as the source names it (relative to the folder, or as the manifest has it).
        caption: what is said about it, if anything.
        metadata: whatever else is known.
        problem: why it cannot be there, if that is known: it is listed as missing.
    """

    path: Path
    name: str
    caption: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)
    problem: str | None = None


def find_audio(source: str | os.PathLike) -> list[AudioFile]:
    """The audio files of a folder (searched deeply) or of a CSV or JSONL manifest, in an order that never changes.

    Files are sorted by name; a manifest keeps its own order, and its paths are relative to the folder it lies in. Rows
    of a folder's own table that mean no file are among them, with the `problem`.

    Raises:
        ValueError: there is no such source, or it names no audio.
    """
    source = Path(source)
    if source.is_dir():
        files = _files_of_folder(source)
        if not files:
            raise ValueError(
                f"{str(source)!r} holds no audio: looked for {', '.join(AUDIO_ENDINGS)} in it and below it."
            )
        return files
    if source.suffix.lower() in MANIFEST_ENDINGS and source.is_file():
        files = [_file_of_row(row, line, source) for line, row in enumerate(read_table(source), start=1)]
        if not files:
            raise ValueError(f"The manifest {str(source)!r} names no files.")
        return files
    if not source.exists():
        raise ValueError(f"There is no {str(source)!r}; give a folder of audio, or a .csv or .jsonl manifest.")
    raise ValueError(f"{str(source)!r} is neither a folder nor a manifest ending in .csv or .jsonl.")


def has_audio(folder: str | os.PathLike) -> bool:
    """Whether a folder, or one in it, holds audio."""
    return any(not file.path.is_dir() for file in _walk(Path(folder)))


def _file_of_row(row: dict[str, Any], number: int, manifest: Path) -> AudioFile:
    row = {str(name): value for name, value in row.items() if value not in (None, "")}
    column = first_column(row, PATH_COLUMNS)
    if column is None:
        raise ValueError(
            f"Row {number} of {str(manifest)!r} names no file; it has the columns {shown(sorted(row))}, and one of "
            f"{', '.join(PATH_COLUMNS)} is needed."
        )
    name = str(row.pop(column))
    caption_column = first_column(row, CAPTION_COLUMNS)
    caption = None if caption_column is None else str(row.pop(caption_column))
    return AudioFile(_existing(manifest.parent, name), name, caption, row)


def _existing(folder: Path, name: str) -> Path:
    """A row's file: as it is written, or as another system writes the same name."""
    path = folder / name
    if path.exists():
        return path
    plain = plain_path(name)
    spelled = (plain, unicodedata.normalize("NFD", plain))
    return next((folder / other for other in spelled if (folder / other).exists()), path)


def _files_of_folder(folder: Path) -> list[AudioFile]:
    files = _described(folder, list(_walk(folder)))
    return sorted(files, key=lambda file: (file.name, os.fsencode(file.path)))


def _walk(folder: Path) -> Iterator[AudioFile]:
    """The audio in a folder and below it, hidden files apart; links are followed, but not in circles."""
    above: dict[str, set[str]] = {}  # each folder's real path and those above it: a link to one of them never ends
    unlisted: list[Path] = []
    for parent, subfolders, names in os.walk(
        folder, onerror=lambda error: unlisted.append(Path(error.filename)), followlinks=True
    ):
        above[parent] = above.get(os.path.dirname(parent), set()) | {os.path.realpath(parent)}
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) not in above[parent]
        ]
        for name in names:
            if name.lower().endswith(AUDIO_ENDINGS) and not name.startswith("."):
                path = Path(parent, name)
                yield AudioFile(path, _printable(path.relative_to(folder)))
    for path in unlisted:  # a folder that cannot be listed is itself left out, and said so
        yield AudioFile(path, _printable(path.relative_to(folder)))


def _described(folder: Path, files: list[AudioFile]) -> Iterator[AudioFile]:
    """The files with what the folder's tables say about them, and the rows that mean none of them.

    A table describes the files of its own folder and below it, as it does for the Hub's audio folders.
    """
    described: dict[int, AudioFile] = {}
    for table in _tables(folder, files):
        below = table.parent.relative_to(folder).as_posix()
        rows = [_file_of_row(row, number, table) for number, row in enumerate(read_table(table), start=1)]
        wanted = [[f"{below}/{row.name}"] for row in rows]
        indices = pair(wanted, [file.name for file in files], PATH_RULES)
        nearest = pair([[row.name] for row in rows], [file.name for file in files])
        for number, (row, index, near) in enumerate(zip(rows, indices, nearest, strict=True), start=1):
            if index is not None:
                described.setdefault(index, row)
                continue
            told = f"row {number} of {_printable(table.relative_to(folder))} names it, and there is no such file"
            told += f"; is it {files[near].name!r}?" if near is not None else ""
            yield replace(row, name=plain_path(f"{below}/{row.name}"), problem=told)
    for index, file in enumerate(files):
        known = described.get(index, file)
        yield replace(file, caption=known.caption, metadata=known.metadata)


def _tables(folder: Path, files: list[AudioFile]) -> list[Path]:
    """`metadata.csv` (or `.jsonl`) of the folder and of those in it that hold audio, the deepest first."""
    folders = {folder} | {parent for file in files for parent in file.path.parents if folder in parent.parents}
    tables = (
        next((table for ending in MANIFEST_ENDINGS if (table := place / f"metadata{ending}").is_file()), None)
        for place in sorted(folders, key=lambda place: (-len(place.parts), os.fsencode(place)))
    )
    return [table for table in tables if table is not None]


def _printable(path: Path) -> str:
    """A path's name in Unicode, whatever encoding the file system's names are in."""
    return os.fsencode(path.as_posix()).decode("utf-8", errors="replace")
