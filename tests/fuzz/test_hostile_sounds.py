"""Sound files damaged at random are read whole or refused by name: nothing else comes out of the reader."""

import io

import numpy as np
import pytest
import soundfile
from tally import Tally, pick, seeded

from open_musiclm.audio import read_audio

RATE = 16_000
KINDS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III", "aiff": "PCM_16"}


def sound(kind: str) -> bytes:
    time = np.arange(RATE) / RATE
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.3 * np.sin(2 * np.pi * 330 * time), RATE, format=kind.upper(), subtype=KINDS[kind])
    return buffer.getvalue()


WHOLE = {kind: sound(kind) for kind in KINDS}
WAYS = ("cut", "flip", "zeros", "repeat", "head")


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """One to three times damaged, more finely than files of other kinds."""
    for _ in range(random.integers(1, 4)):
        way, at, amount = pick(random, WAYS), int(random.random() * len(content)), int(random.integers(1, 65))
        if way == "cut":
            content = content[:at]
        elif way == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ (1 << amount % 8)]) + content[at + 1 :]
        elif way == "zeros":
            content = content[:at] + bytes(amount) + content[at + amount :]
        elif way == "repeat":
            content = content[:at] + content[at : at + amount] * 2 + content[at + amount :]
        else:
            content = content[amount:]
    return content


@pytest.mark.parametrize("kind", KINDS)
def test_undamaged_it_is_read_whole(tmp_path, kind):
    path = tmp_path / f"sound.{kind}"
    path.write_bytes(WHOLE[kind])
    audio, rate = read_audio(path)
    assert rate == RATE
    assert abs(audio.shape[-1] - RATE) <= (0 if kind != "mp3" else 2304)


def test_damaged_it_is_read_or_refused_by_name(tmp_path, number):
    tally = Tally("3 sound files damaged")

    def read(path):
        try:
            audio, rate = read_audio(path)
        except (ValueError, OSError) as error:
            assert "sound" in str(error), error  # noqa: PT017 - what it says, where it says anything
            raise
        assert audio.size, "no samples"
        assert np.isfinite(audio).all(), "not finite"
        assert rate > 0, rate

    for kind, content in WHOLE.items():
        path = tmp_path / f"sound.{kind}"
        for index in range(number(20, 3000)):
            path.write_bytes(damaged(content, seeded(index)))
            tally.attempt((kind, index), lambda path=path: read(path))
    tally.finish()
