"""MusicCaps and FMA: what is known about each clip, joined with the audio that the user has.

Neither brings its audio. MusicCaps names clips of videos; FMA's archives are downloaded apart. A row is there if its
audio is.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .discovery import find_audio
from .pairing import pair
from .records import write_lines
from .tables import read_table

MUSICCAPS = "google/MusicCaps"
#: tracks of FMA that have no audio
FMA_WITHOUT_AUDIO = frozenset({99134, 108925, 133297})
#: FMA's own names of its splits
FMA_SPLITS = {"training": "train", "validation": "validation", "test": "test"}


def load_musiclm_dataset(
    name: str, audio_dir: str | os.PathLike, metadata: str | os.PathLike | None = None, subset: str | None = None
) -> Any:
    """A `datasets.DatasetDict` of the clips whose audio is in a folder.

    Args:
        name: `"musiccaps"` or `"fma"`.
        audio_dir: MusicCaps: clips of ten seconds named by their video's id (`{ytid}.wav`, `{ytid}_{start}.mp3`,
            `[{ytid}]-[30-40].wav`, `Title [{ytid}].m4a`, …). FMA: the folder of an unpacked archive (`000/000002.mp3`, …).
        metadata: MusicCaps: its CSV, by default from the Hub. FMA: its `tracks.csv`, by default looked for beside the
            audio.
        subset: FMA: `"small"`, `"medium"`, `"large"` or `"full"`, which contain one another; by default all.

    Returns:
        Splits of rows with `path`, `caption`, `genre`, `title` and what else there is. MusicCaps: `train` and `test`
        (AudioSet's training and evaluation part). FMA: `train`, `validation`, `test`.

    Raises:
        ValueError: an unknown name, no such folder, or no clip has its audio there.
    """
    readers: dict[str, Callable[..., Iterator[tuple[str, dict[str, Any]]]]] = {"musiccaps": _musiccaps, "fma": _fma}
    if name not in readers:
        raise ValueError(f"Unknown dataset {name!r}; there are {sorted(readers)}.")
    folder = Path(audio_dir)
    if not folder.is_dir():
        raise ValueError(f"There is no folder of audio {str(audio_dir)!r}.")
    if subset is not None and name != "fma":
        raise ValueError(f"Only FMA has subsets; {name!r} has none.")
    arguments = {"subset": subset} if name == "fma" else {}
    splits: dict[str, list[dict[str, Any]]] = {}
    num_rows = num_found = 0
    for split, row in readers[name](folder, metadata, **arguments):
        num_rows += 1
        if row["path"] is not None:
            num_found += 1
            splits.setdefault(split, []).append(row)
    print(f"{name}: found the audio of {num_found} of {num_rows} clips in {folder}")
    if not num_found:
        raise ValueError(f"None of the {num_rows} clips of {name!r} has its audio in {str(audio_dir)!r}.")

    from datasets import Dataset, DatasetDict

    return DatasetDict({split: Dataset.from_list(rows) for split, rows in sorted(splits.items())})


def write_manifest(dataset: Any, path: str | os.PathLike) -> None:
    """Write a split as a manifest for `open-musiclm tokenize`."""
    path = Path(path)
    if path.suffix != ".jsonl":
        raise ValueError(f"The manifest's name must end in .jsonl, got {str(path)!r}.")
    write_lines(path, ({**row, "path": os.path.abspath(row["path"])} for row in dataset))


def _musiccaps(folder: Path, metadata: str | os.PathLike | None) -> Iterator[tuple[str, dict[str, Any]]]:
    rows = list(_musiccaps_rows(metadata))
    files = find_audio(folder)
    # of several clips of one video, the one that says where it begins
    wanted = [[row["ytid"], f"{row['ytid']}_{float(row['start_s']):g}"] for row in rows]
    for row, index in zip(rows, pair(wanted, [file.name for file in files]), strict=True):
        aspects = row["aspect_list"]
        labels = row["audioset_positive_labels"]
        yield (
            "test" if str(row["is_audioset_eval"]).lower() == "true" else "train",
            {
                "path": None if index is None else str(files[index].path),
                "caption": row["caption"],
                "genre": None,
                "title": row["ytid"],
                "start_in_s": float(row["start_s"]),
                "end_in_s": float(row["end_s"]),
                "aspects": ast.literal_eval(aspects) if isinstance(aspects, str) else list(aspects),
                "audioset_labels": labels.split(",") if isinstance(labels, str) else list(labels),
                "is_balanced_subset": str(row["is_balanced_subset"]).lower() == "true",
            },
        )


def _musiccaps_rows(metadata: str | os.PathLike | None) -> Iterator[dict[str, Any]]:
    if metadata is not None:
        if not Path(metadata).is_file():
            raise ValueError(f"There is no table of MusicCaps {str(metadata)!r}.")
        yield from read_table(Path(metadata))
        return
    from datasets import load_dataset

    yield from load_dataset(MUSICCAPS, split="train")


def _fma(
    folder: Path, metadata: str | os.PathLike | None, subset: str | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    import pandas

    sizes = ("small", "medium", "large", "full")
    if subset is not None and subset not in sizes:
        raise ValueError(f"FMA's subsets are {', '.join(sizes)}, got {subset!r}.")
    places = [folder, folder.parent, folder.parent / "fma_metadata", folder / "fma_metadata"]
    tables = [Path(metadata)] if metadata is not None else [place / "tracks.csv" for place in places]
    table = next((path for path in tables if path.is_file()), None)
    if table is None:
        raise ValueError(f"There is no tracks.csv of FMA at {', '.join(map(str, tables))}; give it as `metadata`.")
    tracks = pandas.read_csv(table, header=[0, 1], index_col=0, low_memory=False)

    def text(track: Any, *column: str) -> str | None:
        value = track.get(column)
        return None if value is None or pandas.isna(value) else str(value)

    for index, track in tracks.iterrows():
        if subset is not None and sizes.index(text(track, "set", "subset") or "full") > sizes.index(subset):
            continue
        path = folder / f"{index:06d}"[:3] / f"{index:06d}.mp3"
        there = index not in FMA_WITHOUT_AUDIO and path.is_file() and path.stat().st_size > 0
        tags = text(track, "track", "tags")
        yield (
            FMA_SPLITS.get(text(track, "set", "split") or "training", "train"),
            {
                "path": str(path) if there else None,
                "caption": None,
                "genre": text(track, "track", "genre_top"),
                "title": text(track, "track", "title"),
                "artist": text(track, "artist", "name"),
                "album": text(track, "album", "title"),
                "license": text(track, "track", "license"),
                "tags": ast.literal_eval(tags) if tags else [],
                "track_id": int(index),
            },
        )
