"""Voices: NumPy functions that sound one note, and drums. Each returns float32 samples, mono, about unit peak.

Additive (piano, organ, strings, flute, synth, brass, bass), inharmonic partials (bells), Karplus-Strong (guitar) and
noise (drums, breath). Partials above 0.45 of the sampling rate are left out, so nothing aliases.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def _times(duration_in_s: float, sampling_rate: int) -> np.ndarray:
    return np.arange(int(duration_in_s * sampling_rate), dtype=np.float32) / sampling_rate


def _envelope(times: np.ndarray, held_in_s: float, attack_in_s: float, release_in_s: float) -> np.ndarray:
    """Linear attack, flat, linear release after `held_in_s`."""
    rise = np.minimum(times / attack_in_s, 1.0)
    fall = np.clip((held_in_s + release_in_s - times) / release_in_s, 0.0, 1.0)
    return rise * fall


def _partials(phase: np.ndarray, frequency: float, sampling_rate: int, amplitudes: list, ratios=None) -> np.ndarray:
    """Sum of sines at `ratios` (1, 2, 3, … by default) of a phase in radians; amplitudes are numbers or arrays."""
    total = np.zeros_like(phase)
    for i, amplitude in enumerate(amplitudes):
        ratio = ratios[i] if ratios is not None else i + 1
        if frequency * ratio < 0.45 * sampling_rate:
            total += amplitude * np.sin(np.float32(ratio) * phase)
    return total


def _vibrato_phase(times: np.ndarray, frequency: float, depth: float, rate: float) -> np.ndarray:
    """Phase of a tone whose frequency swings by the share `depth`, `rate` times a second, growing in over 0.3 s."""
    growing = np.minimum(times / 0.3, 1.0)
    swing = depth * frequency / rate * growing * np.cos(2 * np.pi * rate * times)
    return (2 * np.pi * frequency * times + swing).astype(np.float32)


def piano(frequency: float, held_in_s: float, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    times = _times(held_in_s + 0.25, sampling_rate)
    decay = 1.2 + 2.5 * (frequency / 440) ** 0.5
    orders = range(1, 11)
    ratios = [n * np.sqrt(1 + 0.0004 * n * n) for n in orders]
    amplitudes = [np.exp(-times * decay * (0.6 + 0.4 * n)) / n**1.1 for n in orders]
    tone = _partials(2 * np.pi * frequency * times, frequency, sampling_rate, amplitudes, ratios)
    knock = rng.standard_normal(len(times)).astype(np.float32) * np.exp(-times * 180) * 0.15
    return (tone * 0.6 + knock) * _envelope(times, held_in_s, 0.003, 0.25)


def organ(frequency: float, held_in_s: float, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    times = _times(held_in_s + 0.05, sampling_rate)
    ratios = [0.5, 1, 1.5, 2, 3, 4, 6, 8]
    amplitudes = [0.5, 0.9, 0.4, 0.8, 0.5, 0.5, 0.3, 0.3]
    tone = _partials(2 * np.pi * frequency * times, frequency, sampling_rate, amplitudes, ratios)
    return 0.25 * tone * (1 + 0.25 * np.sin(2 * np.pi * 6.5 * times)) * _envelope(times, held_in_s, 0.015, 0.05)


def strings(frequency: float, held_in_s: float, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    times = _times(held_in_s + 0.3, sampling_rate)
    amplitudes = [1 / n**1.15 for n in range(1, 13)]
    tone = np.zeros_like(times)
    for detune, rate in ((-0.004, 4.7), (0.0, 5.3), (0.0045, 5.9)):
        phase = _vibrato_phase(times, frequency * (1 + detune), 0.006, rate)
        tone += _partials(phase, frequency, sampling_rate, amplitudes)
    return 0.25 * tone * _envelope(times, held_in_s, min(0.18, 0.5 * held_in_s), 0.3)


def flute(frequency: float, held_in_s: float, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    times = _times(held_in_s + 0.1, sampling_rate)
    phase = _vibrato_phase(times, frequency, 0.008, 5.2)
    tone = _partials(phase, frequency, sampling_rate, [1.0, 0.22, 0.08, 0.02])
    noise = rng.standard_normal(len(times)).astype(np.float32)
    breath = np.convolve(noise, np.hanning(12).astype(np.float32), mode="same") * np.sin(phase) * 0.05
    chiff = noise * np.exp(-times * 40) * 0.12
    return 0.8 * (tone + breath + chiff) * _envelope(times, held_in_s, 0.06, 0.1)


def bells(frequency: float, held_in_s: float, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    times = _times(held_in_s + 1.2, sampling_rate)
    ratios = [1.0, 2.76, 5.4, 8.93]
    amplitudes = [a * np.exp(-times * d) for a, d in ((1.0, 2.2), (0.6, 3.5), (0.35, 6.0), (0.2, 9.0))]
    tone = _partials(2 * np.pi * frequency * times, frequency, sampling_rate, amplitudes, ratios)
    return 0.6 * tone * _envelope(times, held_in_s + 0.6, 0.002, 0.6)


def guitar(frequency: float, held_in_s: float, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Karplus and Strong 1983: a delay line of noise, each round averaged with its neighbours, so it decays."""
    num_samples = int((held_in_s + 0.15) * sampling_rate)
    delay, fraction = divmod(sampling_rate / frequency, 1.0)
    delay = int(delay)
    softening = np.array([0.12, 0.76, 0.12]) * 0.5 ** (1 / (frequency * 0.6))  # a string's highs fade first
    taps = np.convolve(softening, [1 - fraction, fraction]).astype(np.float32)  # at delay - 1 … delay + 2 samples
    line = np.convolve(rng.uniform(-1, 1, delay + 2), [0.25, 0.5, 0.25], mode="same").astype(np.float32)
    out = np.zeros(num_samples + delay + 2, dtype=np.float32)
    out[: delay + 2] = line
    for start in range(delay + 2, len(out), delay - 1):
        stop = min(start + delay - 1, len(out))
        out[start:stop] = sum(tap * out[start - lag : stop - lag] for lag, tap in enumerate(taps, delay - 1))
    times = _times(held_in_s + 0.15, sampling_rate)
    return 1.2 * out[:num_samples] * _envelope(times, held_in_s, 0.001, 0.15)


def synth(frequency: float, held_in_s: float, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    times = _times(held_in_s + 0.06, sampling_rate)
    sweep = 0.25 + 0.75 * np.exp(-times * 5)  # a filter that closes: upper partials fade first
    tone = np.zeros_like(times)
    for detune in (-0.006, 0.006):
        phase = 2 * np.pi * frequency * (1 + detune) * times
        tone += _partials(phase, frequency, sampling_rate, [sweep ** (0.25 * (n - 1)) / n for n in range(1, 17)])
    return 0.45 * tone * _envelope(times, held_in_s, 0.006, 0.06)


def brass(frequency: float, held_in_s: float, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    times = _times(held_in_s + 0.08, sampling_rate)
    envelope = _envelope(times, held_in_s, 0.07, 0.08) * (0.75 + 0.25 * np.exp(-times * 6))
    phase = _vibrato_phase(times, frequency, 0.004, 5.0)
    formant = [1.0 / (1 + ((frequency * n - 900) / 900) ** 2) + 0.1 for n in range(1, 13)]
    return 0.4 * _partials(
        phase, frequency, sampling_rate, [f * envelope ** (0.6 + 0.35 * n) for n, f in enumerate(formant)]
    )


def bass(frequency: float, held_in_s: float, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    times = _times(held_in_s + 0.08, sampling_rate)
    amplitudes = [np.exp(-times * (0.8 + 1.5 * n)) / (n + 1) ** 0.8 for n in range(9)]
    tone = _partials(2 * np.pi * frequency * times, frequency, sampling_rate, amplitudes)
    return 0.6 * tone * _envelope(times, held_in_s, 0.006, 0.08)


def _highpassed(noise: np.ndarray) -> np.ndarray:
    return np.diff(noise, n=2, prepend=np.zeros(2, dtype=np.float32)) * 0.4


def drum(name: str, kit: str, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    """One hit of `kick`, `snare`, `clap` or `hat` from the `acoustic` or `electronic` kit."""
    electronic = kit == "electronic"
    times = _times({"kick": 0.35, "snare": 0.3, "clap": 0.25, "hat": 0.12}[name], sampling_rate)
    noise = rng.standard_normal(len(times)).astype(np.float32)
    if name == "kick":
        drop, floor = (160, 45) if electronic else (60, 65)
        phase = 2 * np.pi * (floor * times + drop / 30 * (1 - np.exp(-30 * times)))
        click = noise * np.exp(-times * 300) * 0.3
        return np.sin(phase) * np.exp(-times * (7 if electronic else 14)) + click
    if name == "snare":
        return 0.5 * noise * np.exp(-times * 18) + 0.5 * np.sin(2 * np.pi * 190 * times) * np.exp(-times * 25)
    if name == "clap":
        bursts = sum(np.where(times >= at, np.exp(-(times - at) * 90), 0) for at in (0.0, 0.011, 0.022))
        return _highpassed(noise) * (0.5 * bursts + 0.4 * np.exp(-times * 22))
    return _highpassed(noise) * np.exp(-times * (60 if electronic else 35)) * 0.7


VOICES: dict[str, Callable[..., np.ndarray]] = {
    f.__name__: f for f in (piano, organ, strings, flute, bells, guitar, synth, brass, bass)
}
