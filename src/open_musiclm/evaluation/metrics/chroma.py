"""Chroma of a waveform, frame-by-frame agreement of two clips, and the key that a chroma suggests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .spectrum import power_spectrogram

__all__ = [
    "Key",
    "chroma_agreement",
    "chromagram",
    "estimate_key",
    "key_agreement",
    "key_scores",
    "mean_chroma",
    "parse_key",
]

NUM_CHROMA = 12
NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
# Probe-tone ratings: Krumhansl and Kessler 1982, as in Krumhansl, Cognitive Foundations of Musical Pitch (1990), table 2.1
MAJOR_PROFILE = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])
MINOR_PROFILE = np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17])


def chromagram(waveform: np.ndarray, sampling_rate: int, n_fft: int = 2**14, hop_length: int = 2**12) -> np.ndarray:
    """Energy of each pitch class in each frame, as AudioCraft's `ChromaExtractor` computes it.

    Power spectrum (periodic Hann, frames centred, edges reflected) through librosa's chroma filters at A = 440 Hz.

    Args:
        waveform: (samples,); a clip shorter than `n_fft` is padded with zeros on both sides.

    Returns:
        (num_frames, 12), row 0 is C; num_frames = samples // hop_length + 1. Each frame is divided by its largest
        value; a silent frame is all zeros.
    """
    from transformers.audio_utils import chroma_filter_bank

    power = power_spectrogram(waveform, n_fft, hop_length)
    filters = chroma_filter_bank(num_frequency_bins=n_fft, num_chroma=NUM_CHROMA, sampling_rate=sampling_rate)
    chroma = power @ filters.T
    return chroma / np.maximum(chroma.max(axis=1, keepdims=True), 1e-6)


def chroma_agreement(
    generated: np.ndarray, reference: np.ndarray, sampling_rate: int, n_fft: int = 2**14, hop_length: int = 2**12
) -> float:
    """Share of frames whose strongest pitch class is the same in both clips (MusicGen, section 4; AudioCraft's
    `chroma_cosine` with `argmax: true`, where the cosine of two one-hot frames is 1 or 0).

    Args:
        generated, reference: (samples,) at one `sampling_rate`; the frames that both have are compared.

    Returns:
        0 … 1; 1/12 is what chance gives if all pitch classes were as frequent. Two silent frames agree.
    """
    num_samples = min(len(generated), len(reference))
    num_frames = -(-num_samples // hop_length)
    if num_frames == 0:
        raise ValueError("a clip has no samples.")
    strongest = [
        chromagram(clip[:num_samples], sampling_rate, n_fft, hop_length)[:num_frames].argmax(axis=1)
        for clip in (generated, reference)
    ]
    return float(np.mean(strongest[0] == strongest[1]))


@dataclass(frozen=True)
class Key:
    """A key: `tonic` 0 (C) … 11 (B) and `mode`, "major" or "minor"."""

    tonic: int
    mode: str

    def __str__(self) -> str:
        return f"{NOTES[self.tonic]} {self.mode}"


def estimate_key(waveform: np.ndarray, sampling_rate: int) -> Key | None:
    """The key whose Krumhansl-Kessler profile correlates best with the clip's mean chroma; None for silence.

    Args:
        waveform: (samples,).
    """
    chroma = mean_chroma(waveform, sampling_rate)
    if chroma.max() == 0 or chroma.std() == 0:
        return None
    scores = key_scores(chroma)
    return max(scores, key=lambda key: scores[key])


def mean_chroma(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """The chroma of a whole clip, that its key is read from: (12,)."""
    return chromagram(waveform, sampling_rate, n_fft=2**13, hop_length=2**11).mean(axis=0)


def key_scores(chroma: np.ndarray) -> dict[Key, float]:
    """Correlation of each key's profile with a chroma (12,) that is not flat."""
    return {
        Key(tonic, mode): float(np.corrcoef(chroma, np.roll(profile, tonic))[0, 1])
        for mode, profile in (("major", MAJOR_PROFILE), ("minor", MINOR_PROFILE))
        for tonic in range(NUM_CHROMA)
    }


def key_agreement(estimated: Key | None, asked: Key) -> float:
    """MIREX weighted key score: 1 same key, 0.5 a fifth above, 0.3 relative, 0.2 parallel, otherwise 0."""
    if estimated is None:
        return 0.0
    if estimated == asked:
        return 1.0
    interval = (estimated.tonic - asked.tonic) % NUM_CHROMA
    if estimated.mode == asked.mode:
        return 0.5 if interval == 7 else 0.0
    if interval == (9 if asked.mode == "major" else 3):
        return 0.3
    return 0.2 if interval == 0 else 0.0


def parse_key(text: str) -> Key | None:
    """Reads "A minor", "F# major", "Bb minor", "C"; None if the text does not begin with a note name."""
    words = text.strip().replace("♯", "#").replace("♭", "b").split()
    if not words or words[0][:1].upper() not in "CDEFGAB" or words[0][1:] not in ("", "#", "b", "m", "#m", "bm"):
        return None
    tonic = NOTES.index(words[0][0].upper()) + words[0].count("#") - words[0][1:].count("b")
    minor = words[0].endswith("m") or (len(words) > 1 and words[1].lower().startswith("min"))
    return Key(tonic % NUM_CHROMA, "minor" if minor else "major")
