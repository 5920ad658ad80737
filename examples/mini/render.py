"""Render scores to audio, many at once, into shards of 16-bit samples with the truth and the captions beside them.

A corpus folder holds, for each shard, `audio-00003.npy` (clips, samples) int16 and `clips-00003.json`; a shard is
written aside and renamed, and what is there already is not rendered again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from functools import partial
from pathlib import Path

import numpy as np
from captions import write_captions
from compose import ARTISTS, FRAME_RATE, LOUDNESS_LEVELS, Score, compose, draw_truth, frame_truth
from instruments import drum, sound_note
from tqdm import tqdm

VOICE_GAINS = {"lead": 1.0, "chords": 0.16, "bass": 0.5}
DRUM_GAINS = {"kick": 1.3, "snare": 1.0, "hat": 0.55}
MIX_LEVEL_IN_DB = -9.0  # root mean square of a usual mix before its loudness is set
SPLITS = ("train", "heldout")


def render(score: Score, duration_in_s: float, sampling_rate: int) -> np.ndarray:
    """Sound the clip's window of a score. Returns float32 (samples,), within ±1, at the level its loudness names."""
    truth = score.truth
    num_samples = round(duration_in_s * sampling_rate)
    mix = np.zeros(num_samples, dtype=np.float32)
    for note in score.notes:
        start = round((note.start / FRAME_RATE - truth.start_in_s) * sampling_rate)
        if not -5 * sampling_rate < start < num_samples:
            continue
        if note.voice == "drums":
            wave = drum(str(note.pitch), truth.drums, sampling_rate) * np.float32(DRUM_GAINS[str(note.pitch)])
        else:
            name = {"lead": truth.instrument, "bass": "bass"}.get(note.voice, ARTISTS[truth.artist].chord_instrument)
            held_in_s = note.length / FRAME_RATE * 0.96
            wave = sound_note(name, int(note.pitch), held_in_s, sampling_rate, note.vowel)
            wave = wave * np.float32(VOICE_GAINS[note.voice])
        wave = wave[max(-start, 0) : num_samples - start]
        mix[max(start, 0) : max(start, 0) + len(wave)] += wave
    mix *= np.float32(10 ** ((LOUDNESS_LEVELS[truth.loudness] - MIX_LEVEL_IN_DB) / 20))
    over = np.abs(mix) > 0.7  # bent softly, so that nothing clips
    mix[over] = np.sign(mix[over]) * (0.7 + 0.28 * np.tanh((np.abs(mix[over]) - 0.7) / 0.28))
    return mix


def make_score(index: int, split: str, seed: int, duration_in_s: float) -> tuple[Score, list[dict]]:
    """The score and the captions of the clip `index` of a split. The same for the same arguments, always."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    score = compose(draw_truth(rng, duration_in_s), rng)
    return score, write_captions(score.truth, rng, num_captions=8, heldout=split == "heldout")


def make_clip(index: int, split: str, seed: int, duration_in_s: float, sampling_rate: int) -> tuple[np.ndarray, dict]:
    """The clip `index` of a split: int16 (samples,) and its record. The same for the same arguments, always.

    The record has `truth` (attributes), `captions` and `frames` (what sounds, 25 frames a second: `frame_truth`).
    """
    score, captions = make_score(index, split, seed, duration_in_s)
    audio = render(score, duration_in_s, sampling_rate)
    frames = {name: values.tolist() for name, values in frame_truth(score, duration_in_s).items()}
    record = {"index": index, "split": split, "truth": score.truth.as_dict(), "captions": captions, "frames": frames}
    return np.round(audio * 32767).astype(np.int16), record


def render_corpus(
    folder: Path,
    split: str,
    num_clips: int,
    seed: int,
    duration_in_s: float,
    sampling_rate: int,
    shard_size: int = 100,
) -> None:
    """Render the clips of a split that are not in `folder` yet, on all cores."""
    folder = folder / split
    folder.mkdir(parents=True, exist_ok=True)
    shards = [range(start, min(start + shard_size, num_clips)) for start in range(0, num_clips, shard_size)]
    missing = [(i, shard) for i, shard in enumerate(shards) if not (folder / f"clips-{i:05d}.json").exists()]
    if not missing:
        return
    one = partial(make_clip, split=split, seed=seed, duration_in_s=duration_in_s, sampling_rate=sampling_rate)
    num_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    # "spawn" would import torch again in each worker; the workers here only ever run NumPy.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
    with multiprocessing.get_context(method).Pool(num_workers) as pool:
        progress = tqdm(total=sum(len(s) for _, s in missing), desc=f"render {split}", unit="clip", mininterval=5)
        for i, shard in missing:
            clips = []
            for clip in pool.imap(one, shard, chunksize=2):
                clips.append(clip)
                progress.update()
            _write_shard(folder, i, clips)
        progress.close()


def _write_shard(folder: Path, number: int, clips: list[tuple[np.ndarray, dict]]) -> None:
    audio_path, records_path = folder / f"audio-{number:05d}.npy", folder / f"clips-{number:05d}.json"
    with open(f"{audio_path}.part", "wb") as file:
        np.save(file, np.stack([audio for audio, _ in clips]))
    os.replace(f"{audio_path}.part", audio_path)
    Path(f"{records_path}.part").write_text(json.dumps([record for _, record in clips]))
    os.replace(f"{records_path}.part", records_path)  # last: its presence says that the shard is whole
