import numpy as np
import pytest

from open_musiclm.evaluation.metrics.levels import measure_levels

RATE = 1000


def test_silence():
    levels = measure_levels(np.zeros((2, RATE)), RATE)
    assert levels.is_silent
    assert not levels.is_clipped
    assert (levels.silent_share, levels.clipped_share, levels.peak, levels.rms_in_db) == (1.0, 0.0, 0.0, -np.inf)


def test_half_silent():
    audio = np.zeros(RATE)
    audio[: RATE // 2] = 0.5
    levels = measure_levels(audio, RATE)
    assert levels.silent_share == pytest.approx(0.5)
    assert not levels.is_silent
    assert levels.rms_in_db == pytest.approx(20 * np.log10(0.5 * np.sqrt(0.5)))


def test_threshold_is_60_db_and_takes_all_channels():
    assert measure_levels(np.full(RATE, 1.01e-3), RATE).silent_share == 0.0
    assert measure_levels(np.full(RATE, 0.99e-3), RATE).silent_share == 1.0
    assert measure_levels(np.stack([np.zeros(RATE), np.full(RATE, 0.1)]), RATE).silent_share == 0.0


def test_clipping_needs_three_in_a_row():
    audio = np.zeros(100)
    audio[[3, 10, 11, 50]] = 1.0
    assert not measure_levels(audio, RATE).is_clipped
    audio[20:24] = -1.0
    assert measure_levels(audio, RATE).clipped_share == pytest.approx(0.04)


def test_a_clip_shorter_than_a_frame():
    assert measure_levels(np.full(5, 0.1), RATE).silent_share == 0.0
    with pytest.raises(ValueError, match="no samples"):
        measure_levels(np.zeros((1, 0)), RATE)
