"""What features are heard by. Nothing here is the model's: combs over onsets, chroma, classifiers fitted on real clips.

Every score is of options that were asked for in equal numbers, with the same prompts and seeds, so that chance is one in
their number. Real clips are those that examples/mini composes and renders: each measure is held against them too, and says
how well it hears at all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from open_musiclm.evaluation.metrics.chroma import chromagram, key_scores, mean_chroma, parse_key
from open_musiclm.evaluation.metrics.spectrum import power_spectrogram
from open_musiclm.tokenizers.codec import as_codec

sys.path.append(str(Path(__file__).parents[2] / "examples" / "mini"))
from compose import FRAME_RATE, VOWELS, Score, compose, draw_truth, frame_truth
from render import render

#: of the clips that classifiers are fitted on, and of those that they are tried on
FIT_SEED, REAL_SEED = 70_001, 70_003
HOP_IN_S = 0.01
#: beats a minute that are searched around the tempo asked for, where the beat itself must be known
NEAR = np.linspace(0.93, 1.07, 15)


# ------------------------------------------------------------------------- real clips


@lru_cache(maxsize=512)
def real_clip(seed: int, length_in_s: float, rate: int, **fixed: Any) -> tuple[np.ndarray, Score]:
    """A clip of the corpus, (samples,), with these of its attributes fixed; it begins a bar into the piece."""
    rng = np.random.default_rng([seed, 9])
    usual = {"total_length_in_s": 60.0, "start_in_s": 4.0, "loudness": "medium"}
    truth = replace(draw_truth(rng, length_in_s), **{**usual, **fixed})
    score = compose(truth, rng)
    return render(score, length_in_s, rate), score


@torch.no_grad()
def through_codec(pipe, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Clips of one length (samples,) as the pipeline's codec gives them back: all that its stages could make of them."""
    codec = as_codec(pipe.codec)
    audio = torch.from_numpy(np.stack(clips)).float()[:, None].expand(-1, codec.channels, -1)
    decoded = codec.decode(codec.encode(audio.contiguous().to(pipe.codec.device)))
    return [row.mean(dim=0).cpu().numpy()[: audio.shape[-1]] for row in decoded]


# ----------------------------------------------------------------------------- scores


def chosen(scores: Sequence[np.ndarray]) -> float:
    """Share, in %, of the clips whose best-scoring option is the one asked for.

    Args:
        scores: for each option that was asked for, (clips, options).
    """
    return 100 * float(np.mean([np.mean(part.argmax(axis=1) == asked) for asked, part in enumerate(scores)]))


def of_chance(num_options: int, num_clips: int) -> tuple[float, float]:
    """What chance gives, in %, and two standard errors of it for so many clips in all."""
    share = 1 / num_options
    return 100 * share, 200 * float(np.sqrt(share * (1 - share) / num_clips))


def onset_strength(audio: np.ndarray, rate: int) -> np.ndarray:
    """Rise of the log energy in low, middle and high bands: (frames, 3), a frame each 10 ms."""
    power = power_spectrogram(audio, 1024, round(rate * HOP_IN_S))
    frequencies = np.linspace(0, rate / 2, power.shape[1])
    edges = np.unique(np.searchsorted(frequencies, np.geomspace(40, min(8000, rate / 2), 37)))
    bands = np.add.reduceat(power, edges[:-1], axis=1)
    bands = 10 * np.log10(np.maximum(bands, 1e-6 * max(power.max(), 1e-12)))
    rise = np.maximum(np.diff(bands, axis=0), 0)
    middles = frequencies[edges[:-1]]
    parts = [
        rise[:, (middles >= low) & (middles < high)].sum(axis=1) for low, high in ((0, 200), (200, 2000), (2000, 1e9))
    ]
    return np.stack(parts, axis=1)


def correlation(onsets: np.ndarray) -> np.ndarray:
    """Autocorrelation of onsets (frames,), 1 at no lag, every lag with the same weight."""
    centred = onsets - onsets.mean()
    size = 2 ** int(np.ceil(np.log2(2 * len(centred))))
    found = np.fft.irfft(np.abs(np.fft.rfft(centred, size)) ** 2)[: len(centred)]
    found = found / np.arange(len(centred), 0, -1)
    return found / max(found[0], 1e-12)


def comb(found: np.ndarray, beat_in_s: float, num_beats: int = 4) -> float:
    """How much of an autocorrelation stands on the multiples of a beat, over what stands half-way between."""
    on = np.interp(beat_in_s * np.arange(1, num_beats + 1) / HOP_IN_S, np.arange(len(found)), found)
    off = np.interp(beat_in_s * (np.arange(num_beats) + 0.75) / HOP_IN_S, np.arange(len(found)), found)
    return float(on.mean() - off.mean())


def tempo_scores(audio: np.ndarray, rate: int, tempos: Sequence[float]) -> np.ndarray:
    found = correlation(onset_strength(audio, rate).sum(axis=1))
    return np.array([comb(found, 60 / tempo) for tempo in tempos])


def key_scores_of(audio: np.ndarray, rate: int, keys: Sequence[str]) -> np.ndarray:
    """Correlation of the mean chroma with each key's profile."""
    chroma = mean_chroma(audio, rate)
    if not chroma.std() > 0:
        return np.zeros(len(keys))
    scores = key_scores(chroma)
    return np.array([scores[parse_key(key)] for key in keys])


def tune_scores(audio: np.ndarray, rate: int, tunes: Sequence[np.ndarray], frame_rate: float) -> np.ndarray:
    """How much of the chroma stands on the pitch classes of each tune (frames,), 12 for none, when they are asked for."""
    hop = round(rate / frame_rate)
    chroma = chromagram(audio, rate, n_fft=2 ** round(np.log2(0.2 * rate)), hop_length=hop)
    chroma = chroma / np.maximum(chroma.sum(axis=1, keepdims=True), 1e-9)
    middle = (chroma[:-1] + chroma[1:]) / 2  # frames of chroma are centred on multiples of the hop
    scores = []
    for tune in tunes:
        sung = np.flatnonzero(tune[: len(middle)] < 12)
        scores.append(middle[sung, tune[sung]].mean() - middle[sung].mean())
    return np.array(scores)


# ------------------------------------------------------------------------ classifiers


class Ear:
    """Linear discriminant analysis with a shrunk covariance: features (clips, features) → a score for each label."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, shrinkage: float = 0.2):
        self.mean, self.spread = features.mean(axis=0), features.std(axis=0) + 1e-9
        scaled = (features - self.mean) / self.spread
        self.centres = np.stack([scaled[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
        rest = scaled - self.centres[labels]
        covariance = rest.T @ rest / len(rest)
        covariance = (1 - shrinkage) * covariance + shrinkage * np.diag(
            np.diag(covariance).mean() * np.ones(len(covariance))
        )
        self.weights = np.linalg.solve(covariance, self.centres.T)
        self.offsets = -0.5 * np.sum(self.centres.T * self.weights, axis=0)

    def scores(self, features: np.ndarray) -> np.ndarray:
        return (features - self.mean) / self.spread @ self.weights + self.offsets


def rhythm(audio: np.ndarray, rate: int, tempo: float) -> np.ndarray:
    """What repeats after each quarter of a beat, up to six beats, in three bands; the beat is looked for near the tempo."""
    onsets = onset_strength(audio, rate)
    whole = correlation(onsets.sum(axis=1))
    beat = 60 / tempo * max(NEAR, key=lambda share: comb(whole, 60 / tempo * share))
    lags = beat * np.arange(1, 25) / 4 / HOP_IN_S
    parts = []
    for band in onsets.T:
        found = correlation(band)
        parts.append(np.interp(lags, np.arange(len(found)), found))
    share = onsets.sum(axis=0) / max(onsets.sum(), 1e-9)
    return np.concatenate([*parts, share])


def colour(audio: np.ndarray, rate: int) -> np.ndarray:
    """The mean of the log spectrum in 40 bands without its level, how much each moves, and where notes begin."""
    power = power_spectrogram(audio, 2048, round(rate * 0.02))
    frequencies = np.linspace(0, rate / 2, power.shape[1])
    edges = np.unique(np.searchsorted(frequencies, np.geomspace(60, min(10_000, rate / 2), 41)))
    bands = 10 * np.log10(np.add.reduceat(power, edges[:-1], axis=1) + 1e-5 * power.sum(axis=1).mean() + 1e-12)
    moves = np.abs(np.diff(bands, axis=0)).mean(axis=0)
    return np.concatenate([bands.mean(axis=0) - bands.mean(), bands.std(axis=0), moves])


def vowel_window(audio: np.ndarray, rate: int, moment: float) -> np.ndarray:
    """The log spectrum of 0.24 s around a moment, in bands from 150 to 5000 Hz without their mean."""
    middle, half = round(moment * rate), round(0.12 * rate)
    part = np.pad(audio, half)[middle : middle + 2 * half]
    power = np.abs(np.fft.rfft(part * np.hanning(len(part)))) ** 2
    frequencies = np.fft.rfftfreq(len(part), 1 / rate)
    edges = np.unique(np.searchsorted(frequencies, np.geomspace(150, 5000, 25)))
    bands = 10 * np.log10(np.add.reduceat(power, edges)[:-1] + 1e-4 * power.max() + 1e-12)
    return bands - bands.mean()


def sung_moments(score: Score, length_in_s: float) -> list[tuple[float, int]]:
    """Moments of a clip well within a sung note, and the vowel there."""
    vowels = frame_truth(score, length_in_s)["vowel"]
    steady = [i for i in range(5, len(vowels) - 5) if vowels[i] and (vowels[i - 4 : i + 5] == vowels[i]).all()]
    return [((i + 0.5) / FRAME_RATE, int(vowels[i]) - 1) for i in steady[::4]]


def sung_lines(score: Score, length_in_s: float, turned: int = 0) -> list[tuple[float, float, str]]:
    """A clip's lyrics as a request has them, each vowel replaced by the one so many places behind it."""
    first, lines = score.truth.start_in_s, []
    for note in score.notes:
        start = round(note.start / FRAME_RATE - first, 3)
        stop = min(round((note.start + note.length) / FRAME_RATE - first, 3), length_in_s)
        if note.voice == "lead" and note.vowel and start >= 0 and stop > start:
            lines.append((start, stop, VOWELS[(VOWELS.index(note.vowel) + turned) % len(VOWELS)]))
    return lines


def tune_of(score: Score, length_in_s: float) -> list[tuple[float, float, int]]:
    """A clip's melody as a request has it: (start, stop, MIDI pitch)."""
    first = score.truth.start_in_s
    notes = [
        (note.start / FRAME_RATE - first, note.start / FRAME_RATE - first + note.length / FRAME_RATE, int(note.pitch))
        for note in score.notes
        if note.voice == "lead"
    ]
    return [(max(a, 0.0), min(b, length_in_s), pitch) for a, b, pitch in notes if b > 0 and a < length_in_s]
