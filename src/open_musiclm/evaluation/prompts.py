"""Prompts to evaluate on, with what is known of each: a reference clip, the tempo and the key it asks for."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from ..data.tables import csv_rows, first_column
from ..given import shown
from .metrics.chroma import Key, parse_key

__all__ = ["Prompt", "Skipped", "read_musiccaps", "read_prompts"]

TEXT_COLUMNS = ("prompt", "caption", "text")
ID_COLUMNS = ("id", "ytid")
REFERENCE_COLUMNS = ("reference", "audio", "file_name", "path")
TEMPO_IN_TEXT = re.compile(r"(\d{2,3}(?:\.\d+)?)\s*(?:bpm|beats per minute|beats a minute)", re.IGNORECASE)
KEY_IN_TEXT = re.compile(r"\b(?:key of|in) ([A-G](?:#|♯|b|♭| sharp| flat)?)[ -]((?i:major|minor))\b")
MAX_NAME = 100  # of a file; file systems stop at 255 bytes


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        id: Name of the files that are generated from it.
        reference: Path of the reference clip, its file name or its stem; None if there is none.
        tempo: Beats a minute that it asks for; None if it asks for none.
        key: Key that it asks for.
    """

    id: str
    text: str
    reference: str | None = None
    tempo: float | None = None
    key: Key | None = None


@dataclass(frozen=True)
class Skipped:
    """Something that was left out, and why; every report lists these."""

    what: str
    why: str


def read_prompts(path: str, num_prompts: int | None = None) -> tuple[list[Prompt], list[Skipped]]:
    """Reads prompts from a text file (one a line), CSV or JSON lines, or from MusicCaps with `musiccaps`.

    CSV and JSON lines have a column `prompt`, `caption` or `text`, and may have `id` (or MusicCaps' `ytid`), `reference`
    (or `audio`, `file_name`: file name of the clip that the prompt describes), `tempo` (beats a minute) and `key` ("A
    minor"). A tempo or key in the text ("120 bpm", "in A minor") is read from there.

    Returns:
        The prompts, and what was skipped: empty lines, repeated ids.

    Raises:
        ValueError: If the file is missing, of no known kind, or has no prompt.
    """
    if path == "musiccaps":
        return read_musiccaps(num_prompts)
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"there is no prompt file {path!r}; give a .txt, .csv or .jsonl file, or `musiccaps`.")
    kind = file.suffix.lower()
    if kind not in (".csv", ".jsonl", ".json", ".txt", ""):
        raise ValueError(f"{path!r} ends in {kind!r}; prompts are read from .txt, .csv and .jsonl files.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path!r} is not UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8.") from error
    try:
        if kind == ".csv":
            rows = list(csv_rows(io.StringIO(text, newline=""), path))
        elif kind in (".jsonl", ".json"):
            rows = _json_rows(file.name, text.strip())
        else:
            rows = [{"prompt": line} for line in text.splitlines()]
    except RecursionError as error:
        raise ValueError(f"{path!r} is nested too deeply.") from error
    return _prompts_of(rows, str(file.name), num_prompts)


def read_musiccaps(num_prompts: int | None = None) -> tuple[list[Prompt], list[Skipped]]:
    """The 5,521 captions of MusicCaps (Agostinelli et al. 2023), from the Hub through `datasets`.

    Its clips are YouTube excerpts that one has to have: a prompt's `reference` is the `ytid`, and a reference file
    belongs to it if its name begins with that (as `-0Gj8-vB1q4.wav` or `-0Gj8-vB1q4_30.wav`).
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ValueError("MusicCaps is read with `datasets`: pip install open-musiclm[train].") from error
    try:
        rows = list(load_dataset("google/MusicCaps", split="train"))
    except Exception as error:
        raise ValueError(
            f"MusicCaps could not be read from the Hub ({' '.join(str(error).split())[:200]}). Download musiccaps-public.csv "
            "and give its path."
        ) from error
    return _prompts_of(rows, "MusicCaps", num_prompts)


def _json_rows(name: str, text: str) -> list[dict]:
    try:
        if text.startswith("["):
            rows = json.loads(text)
        else:
            rows = [json.loads(line) if line.strip() else {} for line in text.splitlines()]
    except ValueError as error:  # among them numbers of more digits than Python reads
        raise ValueError(f"{name} is no JSON: {error}.") from error
    rows = [{"prompt": row} if isinstance(row, str) else row for row in rows]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{name} must hold one object (or one text) a line.")
    return rows


def _prompts_of(rows: list[dict], source: str, num_prompts: int | None) -> tuple[list[Prompt], list[Skipped]]:
    prompts: list[Prompt] = []
    skipped: list[Skipped] = []
    known: set[str] = set()
    width = max(len(str(len(rows))), 4)
    columns = {str(column) for row in rows for column in row if column}
    if rows and columns and not {column.strip().lower() for column in columns} & set(TEXT_COLUMNS):
        raise ValueError(
            f"{source} has the columns {shown(', '.join(sorted(columns)))}, none of them {', '.join(TEXT_COLUMNS)}."
        )
    for number, row in enumerate(rows, start=1):
        text = _whole(_first(row, TEXT_COLUMNS) or "").strip()
        if not text:
            skipped.append(Skipped(f"{source}, line {number}", "empty"))
            continue
        reference = _first(row, REFERENCE_COLUMNS) or row.get("ytid")
        name = _first(row, ID_COLUMNS) or (Path(str(reference)).stem if reference else f"{number:0{width}d}")
        name = _file_name(_whole(name))
        if name in known:
            skipped.append(Skipped(f"{source}, line {number}", f"its id {name!r} was used before"))
            continue
        known.add(name)
        prompts.append(
            Prompt(name, text, _whole(reference) if reference else None, _tempo(row, text), _key(row, text))
        )
        if num_prompts is not None and len(prompts) == num_prompts:
            break
    if not prompts:
        raise ValueError(f"{source} has no prompt: {len(skipped)} empty lines. Write a prompt a line.")
    return prompts, skipped


def _first(row: dict, columns: tuple[str, ...]):
    column = first_column(row, columns)
    return None if column is None else row[column]


def _whole(text: object) -> str:
    """A text that can be written: JSON may hold halves of characters."""
    return str(text).encode("utf-8", errors="replace").decode()


def _file_name(name: str) -> str:
    """A name that every file system takes and that is not hidden."""
    plain = re.sub(r"[^\w.-]", "_", name)
    if len(plain.encode()) > MAX_NAME:
        plain = f"{plain[: MAX_NAME // 4]}_{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f"_{plain[1:]}" if plain[:1] in ("", ".") else plain


def _tempo(row: dict, text: str) -> float | None:
    given = row.get("tempo") or row.get("tempo_in_bpm") or row.get("bpm")
    if given:
        try:
            number = float(given)
        except (TypeError, ValueError, OverflowError):
            number = math.nan  # a word ("fast"), which asks for no number
        if math.isfinite(number) and number > 0:
            return number
    found = TEMPO_IN_TEXT.search(text)
    return float(found.group(1)) if found else None


def _key(row: dict, text: str) -> Key | None:
    if row.get("key"):
        return parse_key(f"{row['key']} {row.get('mode') or ''}")
    found = KEY_IN_TEXT.search(text)
    return (
        parse_key(f"{found.group(1).replace(' sharp', '#').replace(' flat', 'b')} {found.group(2)}") if found else None
    )
