"""What `python -m tests.features` measures with is itself measured: it hears real clips right, and noise not at all."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1]))  # where `python -m tests.features` runs

from tests.features.hearing import Ear, chosen, of_chance, real_clip, tempo_scores, tune_of, tune_scores
from tests.features.rows import Row

RATE, LENGTH_IN_S = 24_000, 6.0
TEMPOS = (68.18, 107.14, 166.67)


@pytest.mark.parametrize(
    ("value", "without", "higher", "margin", "holds"),
    [
        (60.0, 33.0, True, 19.0, True),
        (50.0, 33.0, True, 19.0, False),  # it may be luck
        (3.0, 5.0, False, 1.0, True),
        (4.5, 5.0, False, 1.0, False),
        (5.5, 5.0, False, -1.0, True),  # no worse
        (6.5, 5.0, False, -1.0, False),
        (float("nan"), 0.0, True, 0.0, False),
    ],
)
def test_a_row_holds_beyond_luck(value, without, higher, margin, holds):
    assert Row("x", "y", value, without, higher_is_better=higher, margin=margin).holds is holds


def test_tempos_are_heard_in_real_clips_and_not_in_noise():
    real = [
        np.stack([tempo_scores(real_clip(i, LENGTH_IN_S, RATE, tempo_in_bpm=t)[0], RATE, TEMPOS) for i in range(4)])
        for t in TEMPOS
    ]
    assert chosen(real) >= 90
    rng = np.random.default_rng(0)
    noise = np.stack([tempo_scores(rng.normal(0, 0.1, round(RATE * LENGTH_IN_S)), RATE, TEMPOS) for _ in range(4)])
    assert chosen([noise] * 3) == pytest.approx(100 / 3)  # the same clips for each: chance, whatever is heard
    assert np.abs(noise).max() < 0.3 * np.mean([part.max(axis=1).mean() for part in real])


def test_tunes_are_heard_in_real_clips():
    fixed = {"register": "high", "instrument": "flute", "drums": "none"}
    clips = [real_clip(i, LENGTH_IN_S, RATE, **fixed) for i in range(4)]
    ids = []
    for _, score in clips:
        tune = np.full(30, 12)
        for start, stop, pitch in tune_of(score, LENGTH_IN_S):
            tune[round(5 * start) : round(5 * stop)] = pitch % 12
        ids.append(tune)
    scores = np.stack([tune_scores(clip, RATE, ids, 5.0) for clip, _ in clips])
    assert (scores.argmax(axis=1) == np.arange(4)).all()
    assert np.diag(scores).min() > 0.25 > 0.15 > np.abs(scores[~np.eye(4, dtype=bool)]).max()


def test_an_ear_tells_what_it_was_fitted_on_and_chance_is_told():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(3, 10))
    draw = lambda: np.concatenate([centre + 0.5 * rng.normal(size=(20, 10)) for centre in centres])  # noqa: E731
    labels = np.repeat(np.arange(3), 20)
    ear = Ear(draw(), labels)
    assert np.mean(ear.scores(draw()).argmax(axis=1) == labels) > 0.9
    assert of_chance(4, 100) == pytest.approx((25.0, 200 * np.sqrt(0.25 * 0.75 / 100)))
