"""Tables that people write: CSV with a header, and JSON lines. What would be lost in reading is refused by its line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from ..given import shown


def read_table(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a CSV with a header, or of a JSONL file.

    Raises:
        ValueError: it is not UTF-8, no table, or has a row with more fields than the header.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield from csv_rows(file, str(path)) if path.suffix.lower() == ".csv" else _json_lines(file, path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} cannot be read as a table in UTF-8: {error}.") from error


def csv_rows(file: TextIO, where: str) -> Iterator[dict[str, Any]]:
    """The rows of a CSV, its columns without the spaces around them; fields may be separated by `;` or tabs too."""
    try:
        first = file.readline()
        separator = max(",;\t", key=first.count)  # the comma, if none is there
        file.seek(0)
        reader = csv.reader(file, delimiter=separator, skipinitialspace=True)
        header = [name.strip() for name in next(reader, [])]
        twice = sorted({name for name in header if name and header.count(name) > 1})
        if twice:
            raise ValueError(f"{where!r} has two columns {shown(twice[0])}: rename one.")
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if len(fields) > len(header):
                if not any(field.strip() for field in fields[len(header) :]):
                    fields = fields[: len(header)]
                else:
                    raise ValueError(
                        f"Line {reader.line_num} of {where!r} has {len(fields)} fields, the header {len(header)}: text with "
                        f'a {separator!r} in it needs quotes around it, as in "slow{separator} sad".'
                    )
            yield dict(zip(header, fields, strict=False))
    except csv.Error as error:
        raise ValueError(f"{where!r} cannot be read as a table: {error}.") from error


def first_column(row: dict[str, Any], names: Sequence[str]) -> str | None:
    """The first of some columns, whatever its case, that a row has something in."""
    present = {str(name).strip().lower(): name for name, value in reversed(row.items()) if value not in (None, "")}
    return next((present[name] for name in names if name in present), None)


def _json_lines(file: TextIO, path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"Line {number} of {str(path)!r} is no JSON: {error}.") from error
        if not isinstance(row, dict):
            raise ValueError(f"Line {number} of {str(path)!r} is no JSON object.")
        yield row
