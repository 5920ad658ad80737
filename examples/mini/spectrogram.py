"""Draw a sound file: `python examples/mini/spectrogram.py song.wav song.png` (time to the right, pitch upward, 80 dB)."""

import argparse
from pathlib import Path

from open_musiclm.audio import read_audio
from open_musiclm.evaluation.report.pictures import spectrogram_png


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sound", type=Path)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    audio, rate = read_audio(args.sound)
    args.picture.write_bytes(spectrogram_png(audio.mean(axis=0) if audio.ndim == 2 else audio, rate, 720, 220))


if __name__ == "__main__":
    main()
