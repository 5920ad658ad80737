"""Writing audio with soundfile, and what is stored beside the samples."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

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
    file's comment, `read_metadata` reads it back.
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
            if metadata is not None:
                file.comment = json.dumps(metadata, ensure_ascii=False)
                file.software = str(metadata.get("software", "open-musiclm"))
            file.write(np.clip(samples, -1.0, 1.0))
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """What `write_audio` stored beside the samples; empty if there is nothing."""
    import soundfile

    with soundfile.SoundFile(path) as file:
        comment = file.comment
    try:
        return json.loads(comment) if comment else {}
    except json.JSONDecodeError:
        return {"comment": comment}
