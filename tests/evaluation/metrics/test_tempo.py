import numpy as np
import pytest

from open_musiclm.evaluation.metrics.tempo import estimate_tempo, tempo_agreement

RATE = 16000


def drums(tempo, seconds=10.0, seed=0):
    rng = np.random.default_rng(seed)
    audio = rng.standard_normal(int(seconds * RATE)) * 1e-3
    hit = rng.standard_normal(int(0.05 * RATE)) * np.exp(-np.arange(int(0.05 * RATE)) / (0.01 * RATE))
    for index, beat in enumerate(np.arange(0, seconds - 0.06, 60 / tempo)):
        start = round(beat * RATE)
        audio[start : start + len(hit)] += hit * (1.0 if index % 4 == 0 else 0.7)
    return audio


@pytest.mark.parametrize("tempo", [72, 90.5, 100, 120, 128, 140, 170])
def test_tempo_of_drums(tempo):
    found = estimate_tempo(drums(tempo), RATE)
    assert found == pytest.approx(tempo, rel=0.01)


def test_half_and_double_are_told_apart_from_wrong():
    assert tempo_agreement(estimate_tempo(drums(60), RATE), 60) == 1.0
    assert tempo_agreement(estimate_tempo(drums(97), RATE), 120) == 0.0
    assert tempo_agreement(60.0, 120.0) == 1.0
    assert tempo_agreement(60.0, 120.0, octaves=False) == 0.0
    assert tempo_agreement(124.0, 120.0, octaves=False) == 1.0
    assert tempo_agreement(126.0, 120.0) == 0.0
    assert tempo_agreement(None, 120.0) == 0.0


def test_nothing_repeats():
    assert estimate_tempo(np.zeros(RATE * 5), RATE) is None
    assert estimate_tempo(drums(120, seconds=2.0), RATE) is None


def test_level_does_not_matter():
    assert estimate_tempo(drums(110) * 0.01, RATE) == pytest.approx(estimate_tempo(drums(110), RATE))
