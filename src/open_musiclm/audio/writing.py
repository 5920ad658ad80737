"""Writing audio with soundfile, and what is stored beside the samples."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np

#: endings that can be written, and how
FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16")}


def audio_format(path: str | os.PathLike) -> tuple[str, str]:
    """libsndfile's format and subtype for a file's ending; a `ValueError` names the endings there are."""
    ending = Path(path).suffix.lower()
    if ending not in FORMATS:
        raise ValueError(f"Cannot write {str(path)!r}: the name must end in {' or '.join(FORMATS)}.")
    return FORMATS[ending]


def write_audio(
    path: str | os.PathLike, audio: np.ndarray, sampling_rate: int, metadata: dict[str, Any] | None = None
) -> None:
    """Write (channels, samples) or (samples,) floats in [-1, 1] as WAV or FLAC, by the ending.

    What goes beyond [-1, 1] is clipped. The file appears whole or not at all. `metadata` is stored as JSON in the
    file's comment, of whatever length, and `read_metadata` reads it back.
    """
    import soundfile

    path = Path(path)
    container, subtype = audio_format(path)
    samples = np.atleast_2d(np.asarray(audio, dtype=np.float32)).T
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with soundfile.SoundFile(
            aside, "w", sampling_rate, samples.shape[1], subtype=subtype, format=container
        ) as file:
            if metadata is not None and container != "WAV":
                file.comment = json.dumps(metadata, ensure_ascii=False)
                file.software = str(metadata.get("software", "open-musiclm"))
            file.write(np.clip(samples, -1.0, 1.0))
        if metadata is not None and container == "WAV":
            software = str(metadata.get("software", "open-musiclm"))
            append_info(aside, {"ICMT": json.dumps(metadata, ensure_ascii=False), "ISFT": software})
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """What `write_audio` stored beside the samples; empty if there is nothing."""
    import soundfile

    comment = read_info(path).get("ICMT")
    if comment is None:
        with soundfile.SoundFile(path) as file:
            comment = file.comment
    try:
        return json.loads(comment) if comment else {}
    except json.JSONDecodeError:
        return {"comment": comment}


def append_info(path: Path, texts: dict[str, str]) -> None:
    """Put texts behind the samples of a WAV, in a `LIST` chunk of the kind `INFO`.

    libsndfile writes such chunks too, but loses all of them where they are together longer than some 2 kB.

    Args:
        texts: by the four letters that RIFF gives them (`ICMT`: a comment, `ISFT`: the software).
    """
    content = b"INFO"
    for name, text in texts.items():
        encoded = text.encode("utf-8", errors="replace") + b"\0"
        content += name.encode("ascii") + struct.pack("<I", len(encoded)) + encoded + b"\0" * (len(encoded) % 2)
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(b"LIST" + struct.pack("<I", len(content)) + content)
        size = file.tell() - 8
        file.seek(4)
        file.write(struct.pack("<I", size))


def read_info(path: str | os.PathLike) -> dict[str, str]:
    """The texts of a WAV's `INFO` chunks; empty for other files."""
    texts: dict[str, str] = {}
    with Path(path).open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return texts
        for name, size in _chunks(file):
            if name == b"LIST" and file.read(4) == b"INFO":
                content = file.read(size - 4)
                place = 0
                while place + 8 <= len(content):
                    key, length = content[place : place + 4], struct.unpack_from("<I", content, place + 4)[0]
                    text = content[place + 8 : place + 8 + length].rstrip(b"\0").decode("utf-8", errors="replace")
                    texts[key.decode("latin-1")] = text
                    place += 8 + length + length % 2
    return texts


def _chunks(file: IO[bytes]):
    """The name and size of each chunk of a RIFF file, which then stands at the chunk's content."""
    place = file.tell()
    while len(head := file.read(8)) == 8:
        size = struct.unpack("<I", head[4:])[0]
        yield head[:4], size
        place += 8 + size + size % 2
        file.seek(place)
