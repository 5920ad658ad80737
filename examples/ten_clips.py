"""Ten clips of synthesized music with captions, for the other examples: `python examples/ten_clips.py clips/`.

Each is a melody of decaying tones over a drone; `metadata.csv` says how fast and how high it is in a caption, and of which
genre: ballads are slow, dances fast.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from open_musiclm.audio import write_audio

SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
TEMPOS = {"slow": 70, "fast": 140}
GENRES = {"slow": "ballad", "fast": "dance"}
REGISTERS = {"low": 110.0, "high": 440.0}


def render(seed: int, mode: str, tempo: str, register: str, duration_in_s: float, rate: int) -> np.ndarray:
    """(samples,) float32."""
    random = np.random.default_rng(seed)
    audio = 0.03 * np.sin(2 * np.pi * REGISTERS[register] / 2 * np.arange(round(duration_in_s * rate)) / rate)
    time = np.arange(2 * rate) / rate
    step = rate * 60 // TEMPOS[tempo]
    for start in range(0, len(audio), step):
        pitch = REGISTERS[register] * 2 ** (random.choice(SCALES[mode]) / 12)
        tone = sum(np.sin(2 * np.pi * pitch * harmonic * time) / harmonic**1.5 for harmonic in (1, 2, 3, 4))
        tone *= 0.25 * np.exp(-3 * time) * np.minimum(time / 0.01, 1)
        audio[start : start + len(time)] += tone[: len(audio) - start]
    return np.clip(audio, -0.99, 0.99).astype(np.float32)


def make_clips(folder: Path, num_clips: int = 10, duration_in_s: float = 14.0, rate: int = 24_000) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "metadata.csv", "w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["file_name", "caption", "genre"])
        for index in range(num_clips):
            mode, tempo, register = (
                list(choices)[index >> bit & 1] for bit, choices in enumerate((SCALES, TEMPOS, REGISTERS))
            )
            write_audio(folder / f"{index:02d}.wav", render(index, mode, tempo, register, duration_in_s, rate), rate)
            caption = f"a {tempo} {register} melody in a {mode} key"
            writer.writerow([f"{index:02d}.wav", caption, GENRES[tempo]])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    make_clips(parser.parse_args().folder)
