"""Folders of audio: what is in them, what cannot be used, and the clips themselves."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..audio import read_audio
from .metrics.levels import Levels, measure_levels
from .prompts import Prompt, Skipped

__all__ = ["AUDIO_SUFFIXES", "Clip", "ClipSet", "find_audio", "load_waveform", "scan_clips"]

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".aif")
MIN_LENGTH_IN_S = 0.1


@dataclass(frozen=True)
class Clip:
    """One usable audio file.

    Attributes:
        id: Stem of the file; for a generated clip the id of its prompt.
        length_in_s: Seconds.
        fingerprint: Of its samples (not of the file, which also says how long it took to make); names its embeddings in
            the cache.
    """

    id: str
    path: Path
    sampling_rate: int
    num_channels: int
    length_in_s: float
    levels: Levels
    fingerprint: str


@dataclass(frozen=True)
class ClipSet:
    """The usable clips of a folder, sorted by id; what was skipped; what a reader should know."""

    name: str
    clips: tuple[Clip, ...]
    skipped: tuple[Skipped, ...] = ()
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.clips)

    def by_id(self) -> dict[str, Clip]:
        return {clip.id: clip for clip in self.clips}


def find_audio(folder: str | Path) -> list[Path]:
    """All audio files under a folder, sorted; hidden ones (unfinished writes) are not listed."""
    return sorted(
        path
        for path in Path(folder).rglob("*")
        if path.suffix.lower() in AUDIO_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def scan_clips(folder: str | Path, name: str, min_clips: int = 1) -> ClipSet:
    """Reads every file of a folder once and keeps those that can be used.

    Skipped, and listed with the reason: files that cannot be read, are empty or shorter than 0.1 s, hold samples that
    are not finite, or have the name of an earlier one. Several sampling rates are kept and noted.

    Raises:
        ValueError: If fewer than `min_clips` usable clips are left.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r} with the audio of {name}.")
    found = find_audio(folder)
    clips: dict[str, Clip] = {}
    skipped = []
    for path in found:
        shown = str(path.relative_to(folder))
        try:
            audio, rate = read_audio(path, mono=False)
        except ValueError as error:
            skipped.append(Skipped(f"{name}: {shown}", str(error).replace(repr(str(path)), "it")))
            continue
        length = audio.shape[1] / rate
        if length < MIN_LENGTH_IN_S:
            skipped.append(
                Skipped(f"{name}: {shown}", f"it lasts {length:.3f} s; at least {MIN_LENGTH_IN_S} s are needed")
            )
        elif path.stem in clips:
            skipped.append(Skipped(f"{name}: {shown}", f"another file is called {path.stem!r} too"))
        else:
            fingerprint = hashlib.sha256(f"{rate} {audio.shape}".encode() + audio.tobytes()).hexdigest()[:16]
            clips[path.stem] = Clip(
                path.stem, path, rate, len(audio), length, measure_levels(audio, rate), fingerprint
            )
    if len(clips) < min_clips:
        why = f" {len(skipped)} files were skipped; the first, {skipped[0].what}: {skipped[0].why}" if skipped else ""
        raise ValueError(
            f"{name} ({folder}) has {len(clips)} usable audio clips; at least {min_clips} are needed "
            f"({', '.join(AUDIO_SUFFIXES)}).{why}"
        )
    kept = tuple(clips[key] for key in sorted(clips))
    return ClipSet(name, kept, tuple(skipped), tuple(_notices(name, kept)))


def load_waveform(clip: Clip) -> np.ndarray:
    """(samples,) float32, channels averaged, at the clip's own rate."""
    return read_audio(clip.path, mono=True)[0][0]


def pair_references(prompts: list[Prompt], reference: ClipSet) -> dict[str, Clip]:
    """Prompt id -> its reference clip, by the file name that the prompt gives, or by its id.

    A prompt's name belongs to a clip if it is the clip's stem, or what the stem begins with before `_`, `[` or a space
    (MusicCaps clips are often stored as `<ytid>_<start>`).
    """
    by_id = reference.by_id()
    pairs = {}
    for prompt in prompts:
        for wanted in (prompt.reference, prompt.id):
            if wanted is None:
                continue
            stem = Path(wanted).stem if Path(wanted).suffix.lower() in AUDIO_SUFFIXES else wanted
            match = by_id.get(stem) or next(
                (
                    clip
                    for key, clip in by_id.items()
                    if key.startswith(stem) and key[len(stem) : len(stem) + 1] in "_[ "
                ),
                None,
            )
            if match is not None:
                pairs[prompt.id] = match
                break
    return pairs


def _notices(name: str, clips: tuple[Clip, ...]) -> list[str]:
    rates = Counter(clip.sampling_rate for clip in clips)
    if len(rates) < 2:
        return []
    told = ", ".join(f"{count} at {rate} Hz" for rate, count in sorted(rates.items()))
    return [
        f"{name} has mixed sampling rates ({told}). Each clip is resampled to the network's rate, but those of low rates "
        "have no high frequencies, which distances between sets pick up."
    ]
