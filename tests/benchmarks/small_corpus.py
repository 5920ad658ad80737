"""The small corpus of the benchmarks that train: clips of the music that the model in the box knows, as its tokens."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import soundfile

from open_musiclm import mini_checkpoint
from open_musiclm.cli import main as command

RENDERER = Path(__file__).parents[2] / "examples" / "mini"
#: clips rendered for the box stand before these in the endless list that a seed means
FIRST_CLIP = 1_000_000
CLIP_IN_S = 10.0
RATE = 24_000


def write_clips(folder: Path, split: str, number: int) -> list[str]:
    """Sound files and a table of captions, once; returns a caption a clip."""
    if not (folder / "metadata.csv").is_file():
        sys.path.insert(0, str(RENDERER))
        from render import make_clip

        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for index in range(number):
            samples, record = make_clip(FIRST_CLIP + index, split, 0, CLIP_IN_S, RATE)
            soundfile.write(folder / f"{index:05d}.flac", samples, RATE)
            rows.append([f"{index:05d}.flac", record["captions"][0]["text"]])
        with open(folder / "metadata.csv", "w", newline="") as table:
            csv.writer(table).writerows([["file_name", "caption"], *rows])
    with open(folder / "metadata.csv", newline="") as table:
        return [row["caption"] for row in csv.DictReader(table)]


def make_tokens(folder: Path, split: str, number: int) -> tuple[Path, list[str]]:
    """The folder of the tokens that the box makes of such clips, made once, and their captions."""
    captions = write_clips(folder / split, split, number)
    tokens = folder / f"{split}-tokens"
    if not (tokens / "report.json").is_file():
        arguments = ["tokenize", str(folder / split), "--model", str(mini_checkpoint()), "--output", str(tokens)]
        if command(arguments):
            raise SystemExit(1)
    return tokens, captions
