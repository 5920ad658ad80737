"""Writing audio with soundfile, and what is stored beside the samples."""

from __future__ import annotations

import io
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
    path = Path(path)
    container, subtype = audio_format(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        _write(aside, audio, sampling_rate, container, subtype, metadata)
        if metadata is not None and container == "WAV":
            with aside.open("r+b") as file:
                append_info(file, _texts(metadata))
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def encode_audio(
    audio: np.ndarray,
    sampling_rate: int,
    container: str = "WAV",
    subtype: str = "PCM_16",
    metadata: dict[str, Any] | None = None,
) -> bytes:
    """The same as a file's bytes, in any of libsndfile's formats; nothing touches the disk."""
    file = io.BytesIO()
    _write(file, audio, sampling_rate, container, subtype, metadata)
    if metadata is not None and container == "WAV":
        append_info(file, _texts(metadata))
    return file.getvalue()


def _write(
    target: Path | IO[bytes],
    audio: np.ndarray,
    sampling_rate: int,
    container: str,
    subtype: str,
    metadata: dict[str, Any] | None,
) -> None:
    import soundfile

    samples = np.atleast_2d(np.asarray(audio, dtype=np.float32)).T
    with soundfile.SoundFile(target, "w", sampling_rate, samples.shape[1], subtype=subtype, format=container) as sound:
        if metadata is not None and container != "WAV":
            texts = _texts(metadata)
            sound.comment, sound.software = texts["ICMT"], texts["ISFT"]
        sound.write(np.clip(samples, -1.0, 1.0))


def _texts(metadata: dict[str, Any]) -> dict[str, str]:
    """By the names of RIFF: the comment, and the software."""
    software = str(metadata.get("software", "open-musiclm"))
    return {"ICMT": json.dumps(metadata, ensure_ascii=False), "ISFT": software}


def read_metadata(source: str | os.PathLike | bytes) -> dict[str, Any]:
    """What `write_audio` stored beside the samples of a file (or of its bytes); empty if there is nothing."""
    import soundfile

    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        comment = read_info(file).get("ICMT")
        if comment is None:
            file.seek(0)
            with soundfile.SoundFile(file) as sound:
                comment = sound.comment
    try:
        stored = json.loads(comment) if comment else {}
    except (ValueError, RecursionError):  # a text that is no JSON, or JSON that Python does not read
        stored = None
    return stored if isinstance(stored, dict) else {"comment": comment}


def append_info(file: IO[bytes], texts: dict[str, str]) -> None:
    """Put texts behind the samples of a WAV, in a `LIST` chunk of the kind `INFO`.

    libsndfile writes such chunks too, but loses all of them where they are together longer than some 2 kB.

    Args:
        texts: by the four letters that RIFF gives them (`ICMT`: a comment, `ISFT`: the software).
    """
    content = b"INFO"
    for name, text in texts.items():
        encoded = text.encode("utf-8", errors="replace") + b"\0"
        content += name.encode("ascii") + struct.pack("<I", len(encoded)) + encoded + b"\0" * (len(encoded) % 2)
    file.seek(0, os.SEEK_END)
    file.write(b"LIST" + struct.pack("<I", len(content)) + content)
    size = file.tell() - 8
    file.seek(4)
    file.write(struct.pack("<I", size))


def read_info(file: IO[bytes]) -> dict[str, str]:
    """The texts of a WAV's `INFO` chunks; empty for other files."""
    texts: dict[str, str] = {}
    head = file.read(12)
    if head[:4] != b"RIFF" or head[8:] != b"WAVE":
        return texts
    for name, size in _chunks(file):
        if name == b"LIST" and file.read(4) == b"INFO":
            content = file.read(max(size - 4, 0))
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
