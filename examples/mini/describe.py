"""The streams that describe a piece beside its text: their descriptions, and a clip's ids from its score.

The ids are those that `open_musiclm.tokenizers.attributes` makes of a request (tested); here the truth is known.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from compose import ARTISTS, FRAME_RATE, GENRES, KEYS, VOWELS, Score, Truth

NUM_TEMPOS, LOWEST_TEMPO, HIGHEST_TEMPO = 45, 40.0, 240.0
NUM_TIMES, LONGEST_IN_S = 64, 600.0
STRETCHED_SHARE = 0.5  # of the scores that are told to be of a longer piece
END_SHARE = 0.2  # of the scores of the semantic stage that are moved to where their piece ends
SINGER_SHARE = 0.12  # of them that are given to a singer, who sings one in ten anyway
LINE_RATE = 5.0  # frames a second of melody and lyrics
#: fields of each stream beside its name and `optional=True`, in the order in which a stage reads them
DESCRIPTIONS: dict[str, dict] = {
    "lyrics": {"codebook_size": len(VOWELS) + 1, "frame_rate": LINE_RATE, "vocabulary": VOWELS},
    "melody": {"codebook_size": 13, "frame_rate": LINE_RATE},
    "timing": {"codebook_size": NUM_TIMES, "num_codebooks": 3, "frame_rate": 0.5, "pattern": "parallel"},
    "artist": {
        "codebook_size": len(ARTISTS),
        "num_codebooks": 2,
        "pattern": "parallel",
        "vocabulary": tuple(ARTISTS),
    },
    "genre": {"codebook_size": len(GENRES), "num_codebooks": 2, "pattern": "parallel", "vocabulary": tuple(GENRES)},
    "key": {"codebook_size": 2 * len(KEYS)},
    "tempo": {"codebook_size": NUM_TEMPOS},
}


def describe(truth: Truth, frames: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """int64 (frames, codebooks) of each stream of `DESCRIPTIONS`, for a clip whose frames are `frame_truth`'s."""
    duration_in_s = len(frames["lead"]) / FRAME_RATE
    middle = ((np.arange(round(duration_in_s * LINE_RATE)) + 0.5) * FRAME_RATE / LINE_RATE).astype(int)
    lead, vowel = frames["lead"][middle], frames["vowel"][middle]
    elapsed = truth.start_in_s + 2 * np.arange(math.ceil(duration_in_s / 2)) + 1.0
    share = np.clip(elapsed / truth.total_length_in_s, 0, 1)
    total = np.full(len(elapsed), truth.total_length_in_s)
    timing = [_time_bin(total), _time_bin(elapsed), np.minimum(share * NUM_TIMES, NUM_TIMES - 1).astype(int)]
    tempo = math.log(truth.tempo_in_bpm / LOWEST_TEMPO) / math.log(HIGHEST_TEMPO / LOWEST_TEMPO) * (NUM_TEMPOS - 1)
    single = {
        "artist": [list(ARTISTS).index(truth.artist), -1],
        "genre": [list(GENRES).index(truth.genre), -1],
        "key": [KEYS.index(truth.key) + (12 if truth.mode == "minor" else 0)],
        "tempo": [round(tempo)],
    }
    return {
        "lyrics": np.where(vowel > 0, vowel - 1, len(VOWELS))[:, None],
        "melody": np.where(lead > 0, lead % 12, 12)[:, None],
        "timing": np.stack(timing, axis=1),
        **{name: np.array([ids]) for name, ids in single.items()},
    }


def with_end(truth: Truth, duration_in_s: float, rng: np.random.Generator) -> Truth:
    """Some clips are moved so that their piece ends in them, at any moment after the first second."""
    moved, left = rng.random() < END_SHARE, rng.uniform(1.0, duration_in_s)
    if not moved:
        return truth
    start = max(truth.total_length_in_s - left, 0.0)
    return replace(truth, start_in_s=round(round(start * FRAME_RATE) / FRAME_RATE, 2))


def with_singer(truth: Truth, rng: np.random.Generator) -> Truth:
    """Some clips are given to a singer: lyrics are learnt from nobody else."""
    return replace(truth, instrument="voice") if rng.random() < SINGER_SHARE else truth


def end_is_near(score: Score, duration_in_s: float) -> bool:
    """Whether the last chord of a piece, or its silence behind it, lies in the clip."""
    return score.chords[-1].start < (score.truth.start_in_s + duration_in_s) * FRAME_RATE


def stretched(score: Score, duration_in_s: float, rng: np.random.Generator) -> Truth:
    """Half of the clips as they are, and half as those of a piece of up to ten minutes.

    Bars repeat every four, so a clip says how far off the beginning is only if it lies in the first ones, and how far off
    the end is only if it holds the last. What lies between may be as long as one likes.
    """
    truth, (chosen, first, second) = score.truth, rng.random(3)
    if chosen >= STRETCHED_SHARE:
        return truth
    cycle_in_s = 4 * score.chords[-1].length / FRAME_RATE

    def more(share: float) -> float:  # the logarithm of the length is uniform
        longest = max(LONGEST_IN_S / truth.total_length_in_s, 1.0)
        return math.floor((longest**share - 1) * truth.total_length_in_s / cycle_in_s) * cycle_in_s

    before = more(first) if truth.start_in_s >= cycle_in_s else 0.0
    behind = 0.0 if end_is_near(score, duration_in_s) else more(second)
    return replace(
        truth,
        start_in_s=truth.start_in_s + before,
        total_length_in_s=min(truth.total_length_in_s + before + behind, LONGEST_IN_S),
    )


def _time_bin(times: np.ndarray) -> np.ndarray:
    return np.minimum(NUM_TIMES * np.log1p(times) / np.log1p(LONGEST_IN_S), NUM_TIMES - 1).astype(int)
