"""Voices: NumPy functions that sound one note, and drums. Float32 samples, mono, about unit peak.

Additive synthesis (and a formant filter for the voice), with timbres far apart: what tells them is their partials and
their envelopes. Partials above 0.45 of the sampling rate are left out, so nothing aliases. A note is made once, four
seconds long, and cut to its length with a release, so a corpus renders at hundreds of seconds a second.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

LONGEST_IN_S = 4.5


def _tone(frequency: float, sampling_rate: int, partials: list[tuple[float, float, float]], vibrato: float = 0.0):
    """Sum of (ratio, amplitude, decay a second) over a phase that may swing by the share `vibrato`, 5 times a second."""
    times = np.arange(int(LONGEST_IN_S * sampling_rate), dtype=np.float64) / sampling_rate
    phase = 2 * np.pi * frequency * times
    if vibrato:
        phase += vibrato * frequency / 5 * np.minimum(times / 0.4, 1) * np.cos(2 * np.pi * 5 * times)
    total = np.zeros_like(times)
    for i, (ratio, amplitude, decay) in enumerate(partials):
        if frequency * ratio < 0.45 * sampling_rate:
            total += amplitude * np.exp(-times * decay) * np.sin(ratio * phase + 0.7 * i * i)
    return times, total


def piano(frequency: float, sampling_rate: int) -> np.ndarray:
    decay = 0.8 + 1.6 * (frequency / 440) ** 0.5
    ratios = [n * np.sqrt(1 + 0.0004 * n * n) for n in range(1, 12)]
    times, tone = _tone(
        frequency, sampling_rate, [(r, 1 / n**1.1, decay * (0.6 + 0.4 * n)) for n, r in enumerate(ratios, 1)]
    )
    knock = np.random.default_rng(0).standard_normal(len(times)) * np.exp(-times * 150) * 0.2
    return (0.7 * tone + knock) * np.minimum(times / 0.002, 1)


def organ(frequency: float, sampling_rate: int) -> np.ndarray:
    ratios, levels = (0.5, 1, 1.5, 2, 3, 4, 6, 8), (0.6, 0.9, 0.4, 0.9, 0.5, 0.6, 0.35, 0.4)
    times, tone = _tone(frequency, sampling_rate, [(r, a, 0.0) for r, a in zip(ratios, levels, strict=True)])
    return 0.3 * tone * np.minimum(times / 0.01, 1)


def strings(frequency: float, sampling_rate: int) -> np.ndarray:
    tones = [
        _tone(frequency * detune, sampling_rate, [(n, 1 / n, 0.0) for n in range(1, 16)], vibrato)
        for detune, vibrato in ((0.997, 0.004), (1.003, -0.004))
    ]
    return 0.3 * (tones[0][1] + tones[1][1]) * np.minimum(tones[0][0] / 0.15, 1)


def flute(frequency: float, sampling_rate: int) -> np.ndarray:
    times, tone = _tone(frequency, sampling_rate, [(1, 1.0, 0), (2, 0.15, 0), (3, 0.05, 0)], 0.005)
    noise = np.random.default_rng(1).standard_normal(len(times))
    breath = np.convolve(noise, np.hanning(8), mode="same") * 0.035
    chiff = noise * np.exp(-times * 35) * 0.15
    return (0.9 * tone + breath + chiff) * np.minimum(times / 0.05, 1)


def bells(frequency: float, sampling_rate: int) -> np.ndarray:
    times, tone = _tone(
        frequency, sampling_rate, [(1.0, 1.0, 1.6), (2.76, 0.7, 2.4), (5.4, 0.45, 4.0), (8.93, 0.3, 6.0)]
    )
    return 0.7 * tone * np.minimum(times / 0.001, 1)


def guitar(frequency: float, sampling_rate: int) -> np.ndarray:
    """A string plucked at a fifth of its length: every fifth partial is missing, and highs fade first."""
    partials = [(n, np.sin(np.pi * n / 5) / n**0.8, 1.2 + 0.55 * n) for n in range(1, 22)]
    times, tone = _tone(frequency, sampling_rate, partials)
    pluck = np.random.default_rng(2).standard_normal(len(times)) * np.exp(-times * 250) * 0.35
    return (0.8 * tone + pluck) * np.minimum(times / 0.001, 1)


def synth(frequency: float, sampling_rate: int) -> np.ndarray:
    """A square wave, bright, and a fifth of an octave's detuned copy: odd partials only."""
    times, tone = _tone(frequency, sampling_rate, [(n, 1 / n**0.7, 0.0) for n in range(1, 30, 2)])
    _, other = _tone(frequency * 1.004, sampling_rate, [(n, 1 / n**0.7, 0.0) for n in range(1, 30, 2)])
    return 0.25 * (tone + other) * np.minimum(times / 0.004, 1)


def brass(frequency: float, sampling_rate: int) -> np.ndarray:
    """Partials about a broad formant, which open one after the other."""
    times = np.arange(int(LONGEST_IN_S * sampling_rate), dtype=np.float64) / sampling_rate
    total = np.zeros_like(times)
    for n in range(1, 19):
        if frequency * n < 0.45 * sampling_rate:
            level = 1 / (1 + ((frequency * n - 1100) / 800) ** 2) + 0.03
            total += (
                level * np.minimum(times / (0.03 + 0.012 * n), 1) * np.sin(2 * np.pi * frequency * n * times + n * n)
            )
    return 0.35 * total


def bass(frequency: float, sampling_rate: int) -> np.ndarray:
    times, tone = _tone(frequency, sampling_rate, [(n, 1 / n**0.9, 0.6 + 0.9 * n) for n in range(1, 12)])
    return 0.7 * tone * np.minimum(times / 0.004, 1)


FORMANTS = {  # Hz, of a sung vowel
    "a": (800, 1200, 2600),
    "e": (450, 1900, 2600),
    "i": (280, 2300, 3000),
    "o": (450, 800, 2600),
    "u": (300, 650, 2400),
}


def voice(frequency: float, sampling_rate: int, vowel: str = "a") -> np.ndarray:
    """A singer: partials of a glottal source under three formants, with vibrato."""
    partials = []
    for n in range(1, int(5000 / frequency) + 2):
        at = frequency * n
        level = sum(
            gain / (1 + ((at - formant) / width) ** 2)
            for formant, gain, width in zip(FORMANTS[vowel], (1.0, 0.7, 0.3), (90, 110, 160), strict=True)
        )
        partials.append((n, (level + 0.02) / n**0.3, 0.0))
    times, tone = _tone(frequency, sampling_rate, partials, 0.006)
    return 0.8 * tone / (np.abs(tone).max() + 1e-9) * np.minimum(times / 0.05, 1)


VOICES: dict[str, Callable[..., np.ndarray]] = {
    f.__name__: f for f in (piano, organ, strings, flute, bells, guitar, synth, brass, bass, voice)
}
RELEASES_IN_S = {"strings": 0.15, "bells": 0.5, "piano": 0.12, "guitar": 0.12, "flute": 0.06}
LOUDNESS_AT = 0.35  # root mean square of a note's first 0.4 s, the same for all instruments


@lru_cache(maxsize=4096)
def _whole_note(name: str, pitch: int, vowel: str | None, sampling_rate: int) -> np.ndarray:
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    options = {"vowel": vowel} if name == "voice" else {}
    wave = VOICES[name](frequency, sampling_rate, **options)
    head = wave[: int(0.4 * sampling_rate)]
    return (wave * (LOUDNESS_AT / np.sqrt(np.mean(head**2)))).astype(np.float16)


def sound_note(name: str, pitch: int, held_in_s: float, sampling_rate: int, vowel: str | None = None) -> np.ndarray:
    """float32 (samples,): a note held so long, and its release."""
    wave = _whole_note(name, pitch, vowel if name == "voice" else None, sampling_rate)
    release = int(RELEASES_IN_S.get(name, 0.04) * sampling_rate)
    held = int(held_in_s * sampling_rate)
    cut = wave[: held + release].astype(np.float32)
    fall = len(cut) - held
    if fall > 0:
        cut[held:] *= np.linspace(1, 0, release, dtype=np.float32)[:fall]
    return cut


@lru_cache(maxsize=64)
def drum(name: str, kit: str, sampling_rate: int) -> np.ndarray:
    """One hit of `kick`, `snare` or `hat` from the `acoustic` or `electronic` kit."""
    electronic = kit == "electronic"
    length = {"kick": 0.3, "snare": 0.25, "hat": 0.09}[name]
    times = np.arange(int(length * sampling_rate)) / sampling_rate
    noise = np.random.default_rng(3).standard_normal(len(times))
    high = np.diff(noise, n=2, prepend=np.zeros(2)) * 0.4
    if name == "kick":
        drop, floor = (170, 48) if electronic else (70, 70)
        phase = 2 * np.pi * (floor * times + drop / 30 * (1 - np.exp(-30 * times)))
        hit = np.sin(phase) * np.exp(-times * (8 if electronic else 16)) + noise * np.exp(-times * 250) * 0.4
    elif name == "snare" and electronic:  # a clap: three bursts
        bursts = sum(np.where(times >= at, np.exp(-(times - at) * 90), 0) for at in (0.0, 0.011, 0.022))
        hit = high * (0.6 * bursts + 0.4 * np.exp(-times * 25))
    elif name == "snare":
        hit = 0.6 * noise * np.exp(-times * 20) + 0.5 * np.sin(2 * np.pi * 190 * times) * np.exp(-times * 25)
    else:
        hit = high * np.exp(-times * (70 if electronic else 45)) * 0.8
    return (hit * np.minimum((times[-1] - times) / 0.01, 1)).astype(np.float32)
