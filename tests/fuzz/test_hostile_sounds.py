"""Sound files damaged at random are read whole or refused by name: nothing else comes out of the reader."""

import io

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from open_musiclm.audio import read_audio

RATE = 16_000
KINDS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III", "aiff": "PCM_16"}


def sound(kind: str) -> bytes:
    time = np.arange(RATE) / RATE
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.3 * np.sin(2 * np.pi * 330 * time), RATE, format=kind.upper(), subtype=KINDS[kind])
    return buffer.getvalue()


WHOLE = {kind: sound(kind) for kind in KINDS}
DAMAGE = st.lists(
    st.tuples(st.sampled_from(["cut", "flip", "zeros", "repeat", "head"]), st.floats(0, 1), st.integers(1, 64)),
    min_size=1,
    max_size=3,
)


def damaged(content: bytes, damage) -> bytes:
    for way, place, amount in damage:
        at = int(place * len(content))
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


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(damage=DAMAGE)
def test_damaged_it_is_read_or_refused_by_name(tmp_path, capfd, kind, damage):
    path = tmp_path / f"sound.{kind}"
    path.write_bytes(damaged(WHOLE[kind], damage))
    refusal = None
    try:
        audio, rate = read_audio(path)
    except (ValueError, OSError) as error:
        refusal = str(error)
    if refusal is not None:
        assert "sound" in refusal
        assert "\n" not in refusal
        return
    assert audio.size
    assert np.isfinite(audio).all()
    assert rate > 0
