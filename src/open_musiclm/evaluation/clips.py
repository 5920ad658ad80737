"""Folders of audio: what is in them, what cannot be used, and the clips themselves."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..audio import SkippedFile, read_audio
from ..audio.levels import constant_offset
from ..audio.reading import AUDIO_ENDINGS, check_channels, read_recording
from ..data.discovery import AudioFile, find_audio, has_audio
from ..data.pairing import pair, without_ending
from .metrics.levels import Levels, measure_levels
from .prompts import Prompt, Skipped

__all__ = ["Clip", "ClipSet", "load_waveform", "pair_generated", "pair_references", "scan_clips"]

MIN_LENGTH_IN_S = 0.1


@dataclass(frozen=True)
class Clip:
    """One usable audio file.

    Attributes:
        id: Stem of the file, or its path where several have one stem; for a generated clip the id of its prompt.
        length_in_s: Seconds.
        fingerprint: Of its samples (not of the file, which also says how long it took to make); names its embeddings in
            the cache.
        name: Path within its folder.
        offset: Constant in its samples that no music has; 0 if there is none.
    """

    id: str
    path: Path
    sampling_rate: int
    num_channels: int
    length_in_s: float
    levels: Levels
    fingerprint: str
    name: str = ""
    offset: float = 0.0


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


def scan_clips(folder: str | Path, name: str, min_clips: int = 1, files: Sequence[AudioFile] | None = None) -> ClipSet:
    """Reads every file of a folder once and keeps those that can be used.

    Skipped, and listed with the reason: files that cannot be read whole, are empty or shorter than 0.1 s, hold samples
    that are not finite, or whose channels cancel each other. Several sampling rates are kept and noted.

    Args:
        files: read only these; by default all that `find_audio` finds.

    Raises:
        ValueError: If fewer than `min_clips` usable clips are left.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r} with the audio of {name}.")
    if files is None:
        files = find_audio(folder) if has_audio(folder) else []
    clips: list[Clip] = []
    skipped = []
    for file, id in zip(files, _distinct_ids([file.name for file in files]), strict=True):
        try:
            clips.append(_read_clip(file, id))
        except SkippedFile as error:
            skipped.append(Skipped(f"{name}: {file.name}", f"{error.reason}: {error.detail}"))
    if len(clips) < min_clips:
        why = f" {len(skipped)} files were skipped; the first, {skipped[0].what}: {skipped[0].why}" if skipped else ""
        raise ValueError(
            f"{name} ({folder}) has {len(clips)} usable audio clips; at least {min_clips} are needed "
            f"({', '.join(AUDIO_ENDINGS)}).{why}"
        )
    kept = tuple(sorted(clips, key=lambda clip: clip.id))
    return ClipSet(name, kept, tuple(skipped), tuple(_notices(name, kept)))


def _read_clip(file: AudioFile, id: str) -> Clip:
    if file.problem is not None:
        raise SkippedFile(file.path, "missing", file.problem)
    recording = read_recording(file.path, mono=False)
    audio, rate = recording.samples, recording.sampling_rate
    if recording.length_in_s < MIN_LENGTH_IN_S:
        detail = f"it lasts {recording.length_in_s:.3f} s; at least {MIN_LENGTH_IN_S} s are needed"
        raise SkippedFile(file.path, "too short", detail)
    check_channels(file.path, audio.mean(axis=0), audio)
    levels, offset = measure_levels(audio, rate), constant_offset(audio)
    fingerprint = hashlib.sha256(f"{rate} {audio.shape}".encode() + audio.tobytes()).hexdigest()[:16]
    return Clip(id, file.path, rate, len(audio), recording.length_in_s, levels, fingerprint, file.name, offset)


def load_waveform(clip: Clip) -> np.ndarray:
    """(samples,) float32, channels averaged, at the clip's own rate."""
    return read_audio(clip.path, mono=True)[0][0]


def pair_references(prompts: Sequence[Prompt], reference: ClipSet) -> dict[str, Clip]:
    """Prompt id -> its reference clip, by the file name that the prompt gives, or by its id."""
    return _pairs([(prompt.reference or "", prompt.id) for prompt in prompts], prompts, reference)


def pair_generated(prompts: Sequence[Prompt], clips: ClipSet) -> dict[str, Clip]:
    """Prompt id -> the clip that a system made of it, by the prompt's id, or by the name of its reference."""
    return _pairs([(prompt.id, prompt.reference or "") for prompt in prompts], prompts, clips)


def _pairs(wanted: list[tuple[str, str]], prompts: Sequence[Prompt], clips: ClipSet) -> dict[str, Clip]:
    found = pair(wanted, [clip.name for clip in clips.clips])
    return {prompt.id: clips.clips[index] for prompt, index in zip(prompts, found, strict=True) if index is not None}


def _distinct_ids(names: list[str]) -> list[str]:
    """A short id for each path: its stem; where several files share that, the path without its ending, or all of it."""
    ids = [without_ending(name.rsplit("/", 1)[-1]) for name in names]
    for longer in (without_ending, str):
        shared = {each for each, number in Counter(ids).items() if number > 1}
        ids = [longer(name) if each in shared else each for each, name in zip(ids, names, strict=True)]
    shared_names: Counter[str] = Counter()  # names that are no Unicode may look alike
    for place, each in enumerate(ids):
        shared_names[each] += 1
        if shared_names[each] > 1:
            ids[place] = f"{each} ({shared_names[each]})"
    return ids


def _notices(name: str, clips: tuple[Clip, ...]) -> list[str]:
    notices = []
    moved = [clip for clip in clips if clip.offset]
    if moved:
        most = max(moved, key=lambda clip: abs(clip.offset))
        notices.append(
            f"{len(moved)} of the {len(clips)} clips of {name} have a constant offset, {most.name} of {most.offset:+.3f}: "
            "a fault of a converter, which the figures see. `tokenize` takes it out."
        )
    rates = Counter(clip.sampling_rate for clip in clips)
    if len(rates) > 1:
        told = ", ".join(f"{count} at {rate} Hz" for rate, count in sorted(rates.items()))
        notices.append(
            f"{name} has mixed sampling rates ({told}). Each clip is resampled to the network's rate, but those of low "
            "rates have no high frequencies, which distances between sets pick up."
        )
    return notices
