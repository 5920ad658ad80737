"""A zoo of audio files, made by ffmpeg: for each, what it holds and whether all of it may be taken.

    python tests/zoo.py [FOLDER]      prints for each file: read whole, or refused and why

`tests/test_zoo.py` asserts it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from open_musiclm.audio import SkippedFile, read_audio

LENGTH_IN_S = 6.0
RATE = 44100
#: what encoders add or lose at the ends
TOLERANCE_IN_S = 0.2
SOURCE = f"aevalsrc=0.3*sin(440*2*PI*t)+0.1*random(0)|0.3*sin(550*2*PI*t):s={RATE}:d={LENGTH_IN_S}"
#: name: ffmpeg's arguments; with `|` as the first the file is written to a pipe, which has no way back to the header
WHOLE = {
    "pcm16.wav": "",
    "pcm24.wav": "-c:a pcm_s24le",
    "float.wav": "-c:a pcm_f32le",
    "alaw.wav": "-c:a pcm_alaw",
    "adpcm.wav": "-c:a adpcm_ms",
    "rf64.wav": "-rf64 always",
    "pipe.wav": "| -f wav",
    "plain.flac": "",
    "pipe.flac": "| -f flac",
    "ogg.flac": "| -f ogg -c:a flac",
    "cbr.mp3": "-c:a libmp3lame -b:a 128k",
    "vbr.mp3": "-c:a libmp3lame -q:a 4",
    "headless-cbr.mp3": "-c:a libmp3lame -b:a 128k -write_xing 0",
    "headless-vbr.mp3": "-c:a libmp3lame -q:a 4 -write_xing 0",
    "pipe.mp3": "| -f mp3 -c:a libmp3lame",
    "mono-22.mp3": "-c:a libmp3lame -ac 1 -ar 22050",
    "tagged.mp3": "-c:a libmp3lame -metadata title=Song -write_id3v1 1 -id3v2_version 4",
    "layer-2.mp2": "-c:a mp2",
    "vorbis.ogg": "-c:a libvorbis",
    "pipe.ogg": "| -f ogg -c:a libvorbis",
    "opus.opus": "-c:a libopus",
    "opus.ogg": "-c:a libopus",
    "opus.webm": "-c:a libopus",
    "vorbis.webm": "-c:a libvorbis",
    "opus.mka": "-c:a libopus",
    "live.webm": "| -f webm -c:a libopus",
    "aac.m4a": "-c:a aac",
    "fragments.mp4": "| -f mp4 -c:a aac -movflags frag_keyframe+empty_moov",
    "alac.m4a": "-c:a alac",
    "opus.mp4": "-c:a libopus",
    "adts.aac": "-c:a aac",
    "wma.wma": "-c:a wmav2",
    "wavpack.wv": "-c:a wavpack",
    "tta.tta": "-c:a tta",
    "aiff.aiff": "",
    "au.au": "",
    "pipe.au": "| -f au",
    "w64.w64": "",
    "caf.caf": "",
}  # fmt: skip


@dataclass(frozen=True)
class Animal:
    """One file, and what is right: its length in seconds, or `None` where it must be refused."""

    name: str
    length_in_s: float | None


def make_zoo(folder: Path) -> Iterator[Animal]:
    """Write every kind of file whole, cut in half, and with a hole; and the odd ones."""
    for name, arguments in WHOLE.items():
        path, piped = folder / name, arguments.startswith("|")
        command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", SOURCE, *arguments.lstrip("| ").split()]
        if piped:
            path.write_bytes(subprocess.run([*command, "-"], check=True, capture_output=True).stdout)
        else:
            subprocess.run([*command, str(path)], check=True)
        yield Animal(name, LENGTH_IN_S)
        content = path.read_bytes()
        (folder / f"half-{name}").write_bytes(content[: int(0.47 * len(content)) | 1])
        yield Animal(f"half-{name}", None)
    for name in ("plain.flac", "vorbis.ogg", "opus.opus", "vbr.mp3", "headless-vbr.mp3"):
        content = (folder / name).read_bytes()
        middle = len(content) // 2
        (folder / f"holed-{name}").write_bytes(content[:middle] + bytes(3000) + content[middle + 3000 :])
        yield Animal(f"holed-{name}", None)
    for name in ("vbr.mp3", "headless-cbr.mp3", "tagged.mp3", "vorbis.ogg", "opus.opus", "plain.flac", "pipe.flac"):
        (folder / f"twice-{name}").write_bytes((folder / name).read_bytes() * 2)
        yield Animal(f"twice-{name}", 2 * LENGTH_IN_S)
    (folder / "twice.wav").write_bytes((folder / "pcm16.wav").read_bytes() * 2)
    (folder / "page.mp3").write_text("<!DOCTYPE html><html><body>404</body></html>")
    (folder / "zeros.flac").write_bytes(bytes(100_000))
    (folder / "renamed.wav").write_bytes((folder / "vbr.mp3").read_bytes())
    yield from (Animal("twice.wav", None), Animal("page.mp3", None), Animal("zeros.flac", None))
    yield Animal("renamed.wav", LENGTH_IN_S)


def look_at(folder: Path, animals: Iterator[Animal], say: Callable[[str], None]) -> list[str]:
    """Read every file; the names of those that were read short, or refused though they are whole."""
    wrong = []
    for animal in animals:
        try:
            audio, rate = read_audio(folder / animal.name)
        except SkippedFile as refusal:
            told, right = f"refused, {refusal.reason}: {refusal.detail}", animal.length_in_s is None
        else:
            length = audio.shape[1] / rate
            told = f"read whole, {length:.3f} s"
            right = animal.length_in_s is not None and abs(length - animal.length_in_s) < TOLERANCE_IN_S
        say(f"{'' if right else 'WRONG '}{animal.name}: {told}")
        if not right:
            wrong.append(animal.name)
    return wrong


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        folder.mkdir(parents=True, exist_ok=True)
        wrong = look_at(folder, make_zoo(folder), print)
        print(
            f"{len(wrong)} wrong: {', '.join(wrong)}" if wrong else "none silently short, none refused for no reason"
        )
        return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
