"""Carry a work folder's results between machines, without the audio: a few tar files, none larger than a limit."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

LIMIT_IN_BYTES = 15 << 20
CARRIED = ("models/**/*", "tokens/**/*.safetensors", "*.done", "recipe.json")


def pack(root: Path, folder: Path) -> None:
    """Write `results-0.tar`, `results-1.tar`, … to `folder`: first fit, the largest file first."""
    paths = sorted({path for pattern in CARRIED for path in root.glob(pattern) if path.is_file()})
    bins: list[tuple[int, list[Path]]] = []
    for path in sorted(paths, key=lambda path: -path.stat().st_size):
        size = path.stat().st_size + 1024
        for i, (used, members) in enumerate(bins):
            if used + size <= LIMIT_IN_BYTES:
                bins[i] = (used + size, [*members, path])
                break
        else:
            bins.append((size, [path]))
    folder.mkdir(parents=True, exist_ok=True)
    for i, (_, members) in enumerate(bins):
        with tarfile.open(folder / f"results-{i}.tar", "w") as archive:
            for path in members:
                archive.add(path, path.relative_to(root).as_posix())


def unpack(folder: Path, root: Path) -> None:
    """Lay out in `root` what `pack` wrote to `folder`."""
    archives = sorted(folder.glob("results-*.tar"))
    if not archives:
        raise ValueError(f"{folder} holds no results-*.tar")
    root.mkdir(parents=True, exist_ok=True)
    for path in archives:
        with tarfile.open(path) as archive:
            extract_files(archive, root)


def extract_files(archive: tarfile.TarFile, root: Path) -> None:
    """Write the plain files of an archive below `root`; anything else in it is refused.

    What tarfile's `filter="data"` is for, which Python 3.11 has from 3.11.4 on.
    """
    for member in archive:
        target = root / member.name
        if member.isdir():
            continue
        if not member.isfile() or not target.resolve().is_relative_to(root.resolve()):
            raise ValueError(f"{member.name!r} is no plain file below the folder that it is unpacked to")
        target.parent.mkdir(parents=True, exist_ok=True)
        source = archive.extractfile(member)
        assert source is not None
        with source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
