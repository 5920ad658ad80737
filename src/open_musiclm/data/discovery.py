"""Which audio there is: a folder, or a manifest that names files and says what is known about them.

A folder may hold a `metadata.csv` or `metadata.jsonl` with a column `file_name`, as the Hub's audio folders do; a
manifest is such a table anywhere.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

#: endings of files that soundfile reads
AUDIO_ENDINGS = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".au", ".w64", ".rf64", ".caf")
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
    """

    path: Path
    name: str
    caption: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)


def find_audio(source: str | os.PathLike) -> list[AudioFile]:
    """The audio files of a folder (searched deeply) or of a CSV or JSONL manifest, in an order that never changes.

    Files are sorted by name; a manifest keeps its own order, and its paths are relative to the folder it lies in.

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


def read_table(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a CSV with a header, or of a JSONL file."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from csv.DictReader(file) if path.suffix.lower() == ".csv" else _json_lines(file, path)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as a table in UTF-8: {error}.") from error


def _json_lines(file: TextIO, path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"Line {number} of {str(path)!r} is no JSON: {error}.") from error
        if not isinstance(row, dict):
            raise ValueError(f"Line {number} of {str(path)!r} is no JSON object.")
        yield row


def _file_of_row(row: dict[str, Any], number: int, manifest: Path) -> AudioFile:
    row = {str(name): value for name, value in row.items() if value not in (None, "")}
    column = next((name for name in PATH_COLUMNS if name in row), None)
    if column is None:
        raise ValueError(
            f"Row {number} of {str(manifest)!r} names no file; it has the columns {sorted(row)}, and one of "
            f"{', '.join(PATH_COLUMNS)} is needed."
        )
    name = str(row.pop(column))
    caption_column = next((name for name in CAPTION_COLUMNS if name in row), None)
    caption = None if caption_column is None else str(row.pop(caption_column))
    return AudioFile(manifest.parent / name, name, caption, row)


def _files_of_folder(folder: Path) -> list[AudioFile]:
    described: dict[str, AudioFile] = {}
    for ending in MANIFEST_ENDINGS:
        table = folder / f"metadata{ending}"
        if table.is_file():
            for number, row in enumerate(read_table(table), start=1):
                file = _file_of_row(row, number, table)
                described[os.path.normpath(file.name)] = file
            break
    files: list[AudioFile] = []
    above: dict[str, set[str]] = {}  # each folder's real path and those above it: a link to one of them never ends

    def unreadable(error: OSError) -> None:  # a folder that cannot be listed is itself left out, and said so
        path = Path(error.filename)
        files.append(AudioFile(path, _printable(path.relative_to(folder))))

    for parent, subfolders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        above[parent] = above.get(os.path.dirname(parent), set()) | {os.path.realpath(parent)}
        subfolders[:] = [
            name
            for name in subfolders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) not in above[parent]
        ]
        for name in names:
            if name.lower().endswith(AUDIO_ENDINGS) and not name.startswith("."):
                path = Path(parent, name)
                relative = path.relative_to(folder)
                known = described.get(os.path.normpath(relative))
                caption, metadata = (known.caption, known.metadata) if known else (None, {})
                files.append(AudioFile(path, _printable(relative), caption, metadata))
    return sorted(files, key=lambda file: (file.name, os.fsencode(file.path)))


def _printable(path: Path) -> str:
    """A path's name in Unicode, whatever encoding the file system's names are in."""
    return os.fsencode(path.as_posix()).decode("utf-8", errors="replace")
