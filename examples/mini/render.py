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
from compose import LOUDNESS_LEVELS, STYLES, Score, compose, draw_truth
from instruments import VOICES, drum
from tqdm import tqdm

VOICE_GAINS = {"lead": 1.0, "chords": 0.7, "bass": 0.9, "drums": 0.9}
SPLITS = ("train", "heldout")


def render(score: Score, rng: np.random.Generator, duration_in_s: float, sampling_rate: int) -> np.ndarray:
    """Sound a score. Returns float32 (samples,), within ±1, at the level that the truth's loudness names."""
    truth = score.truth
    num_samples = round(duration_in_s * sampling_rate)
    mix = np.zeros(num_samples, dtype=np.float32)
    seconds_per_beat = 60 / truth.tempo_in_bpm
    sounded: dict[tuple, np.ndarray] = {}  # a note that comes again sounds the same
    for note in score.notes:
        held_in_s = round(note.duration_in_beats * seconds_per_beat, 3)
        name = {"bass": "bass", "drums": truth.drums}.get(note.voice, truth.instrument)
        known = (name, note.pitch, held_in_s)
        if known not in sounded:
            if note.voice == "drums":
                sounded[known] = drum(str(note.pitch), name, sampling_rate, rng)
            else:
                frequency = 440 * 2 ** ((int(note.pitch) - 69) / 12)
                sounded[known] = VOICES[name](frequency, held_in_s, sampling_rate, rng)
        start = round(note.start_in_beats * seconds_per_beat * sampling_rate)
        wave = sounded[known][: num_samples - start]
        mix[start : start + len(wave)] += np.float32(note.velocity * VOICE_GAINS[note.voice]) * wave
    mix = _reverberate(mix, STYLES[truth.style].reverb, rng, sampling_rate)
    return _set_level(mix, LOUDNESS_LEVELS[truth.loudness] + rng.uniform(-1.5, 1.5))


def _reverberate(dry: np.ndarray, amount: float, rng: np.random.Generator, sampling_rate: int) -> np.ndarray:
    """Add the sound convolved with decaying noise, at `amount` of the dry level."""
    times = np.arange(int((0.4 + 1.2 * amount) * sampling_rate)) / sampling_rate
    room = rng.standard_normal(len(times)) * np.exp(-times * 6 / times[-1])
    size = 1 << (len(dry) + len(room)).bit_length()
    wet = np.fft.irfft(np.fft.rfft(dry, size) * np.fft.rfft(room, size), size)[: len(dry)]
    scale = np.sqrt(np.mean(dry**2) / (np.mean(wet**2) + 1e-12))
    return (dry + amount * scale * wet).astype(np.float32)


def _set_level(audio: np.ndarray, level_in_db: float) -> np.ndarray:
    """Scale to a root mean square in dBFS, then bend what exceeds 0.7 softly so that nothing clips."""
    audio = audio * (10 ** (level_in_db / 20) / (np.sqrt(np.mean(audio**2)) + 1e-9))
    over = np.abs(audio) > 0.7
    audio[over] = np.sign(audio[over]) * (0.7 + 0.28 * np.tanh((np.abs(audio[over]) - 0.7) / 0.28))
    return audio.astype(np.float32)


def make_clip(index: int, split: str, seed: int, duration_in_s: float, sampling_rate: int) -> tuple[np.ndarray, dict]:
    """The clip `index` of a split: int16 (samples,) and its record. The same for the same arguments, always."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    truth = draw_truth(rng)
    audio = render(compose(truth, rng, duration_in_s), rng, duration_in_s, sampling_rate)
    captions = write_captions(truth, rng, num_captions=8, heldout=split == "heldout")
    record = {"index": index, "split": split, "truth": truth.as_dict(), "captions": captions}
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
