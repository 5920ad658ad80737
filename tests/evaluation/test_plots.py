import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_musiclm.evaluation.records import Interval, MetricResult, too_few_warnings
from open_musiclm.evaluation.report.pictures import png, spectrogram_png
from open_musiclm.evaluation.report.plots import _Scale, interval_plot, line_plot, strip_plot
from open_musiclm.evaluation.report.tables import number, p_value, signed


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_ticks_are_few_round_and_inside(one, two):
    scale = _Scale(min(one, two), max(one, two), 0, 100)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 6
    assert all(-1e-6 <= scale(tick) <= 100 + 1e-6 for tick in ticks)


def test_dots_stand_where_the_figures_are():
    results = [
        MetricResult("FAD", name, value, False, 10, interval=Interval(value - 1, value + 1, 0.95, ""))
        for name, value in (("a", 1.0), ("b", 3.0), ("c", 5.0))
    ]
    plot = interval_plot(results, {})
    places = [float(x) for x in re.findall(r'cx="([\d.]+)"', plot)]
    assert places[2] - places[1] == pytest.approx(places[1] - places[0], abs=0.2)
    assert [float(x) for x in re.findall(r'x1="([\d.]+)" x2="[\d.]+" y1="39', plot)]
    one = interval_plot([MetricResult("FAD", "a", 2.0, False, 1)], {})
    assert one.count("<circle") == 1
    dots = strip_plot([MetricResult("x", "<a>", 0.5, True, 3, per_clip=(0.0, 0.5, 1.0), clip_ids=("p", "q", "r"))], {})
    assert dots.count('class="dot') == 3
    assert "<a>" not in dots
    line = {"sizes": [10, 20], "distances": [2.0, 1.5], "slope": 10.0}
    drawn = line_plot([MetricResult("FAD∞", "a", 1.0, False, 20, settings=line)], {})
    assert "∞" in drawn
    assert drawn.count("<circle") == 3


def test_ticks_of_one_over_n_are_where_they_say():
    line = {"sizes": [2, 3, 10], "distances": [2.0, 1.5, 1.1], "slope": 2.0}
    drawn = line_plot([MetricResult("FAD∞", "a", 1.0, False, 20, settings=line)], {})
    ticks = dict(re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle">(∞|1/\d+)<', drawn))
    places = {name: float(place) for place, name in ticks.items()}
    assert len(places) == len(ticks) >= 3  # no name stands twice
    start, end = places.pop("∞"), places["1/2"]
    for name, place in places.items():
        assert place == pytest.approx(start + (end - start) * 2 / int(name[2:]), abs=0.2)


def test_zeros_have_an_axis_that_can_be_read():
    results = [MetricResult("KAD", name, 0.0, False, 10) for name in "ab"]
    for drawn in (
        interval_plot(results, {}),
        strip_plot([replace(r, per_clip=(0.0, 0.0), clip_ids=("p", "q")) for r in results], {}),
    ):
        labels = re.findall(r'text-anchor="middle">([^<]+)<', drawn)
        assert len(labels) == len(set(labels)) >= 3
        assert {float(label) for label in labels} >= {-0.4, 0.0, 0.4}


def test_numbers():
    assert [number(v) for v in (0, 1e-9, -1e-9, 0.12345, 12.345, 123.45, 12345.6, math.nan, -1.5)] == [
        "0", "0.000", "0.000", "0.123", "12.35", "123.5", "12346", "–", "−1.500",
    ]  # fmt: skip
    assert (signed(1.0), signed(-1.0)) == ("+1.000", "−1.000")
    assert (p_value(0.0001), p_value(0.5), p_value(None)) == ("< 0.001", "0.500", "–")


def test_picture_shows_the_tone(tmp_path):
    import matplotlib.image

    time = np.arange(32000) / 16000
    for frequency in (200, 4000):
        (tmp_path / "tone.png").write_bytes(spectrogram_png(np.sin(2 * np.pi * frequency * time), 16000, 200, 100))
        picture = matplotlib.image.imread(tmp_path / "tone.png")
        assert picture.shape[:2] == (100, 200)
        brightest = picture[..., :3].sum(axis=2)[:, 50:150].mean(axis=1).argmax()
        expected = 100 * (1 - np.log(frequency / 40) / np.log(8000 / 40))
        assert brightest == pytest.approx(expected, abs=4)
    (tmp_path / "silence.png").write_bytes(spectrogram_png(np.zeros(1000), 16000))
    assert matplotlib.image.imread(tmp_path / "silence.png")[..., :3].max() < 0.05


def test_png_round_trip(tmp_path):
    import matplotlib.image

    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3)).astype(np.uint8)
    (tmp_path / "x.png").write_bytes(png(pixels))
    assert (np.round(matplotlib.image.imread(tmp_path / "x.png")[..., :3] * 255) == pixels).all()


def test_records_are_json():
    import json

    result = MetricResult("FAD", "a", math.nan, None, 0, settings={"n": np.float32(1.5), "sizes": (1, 2)})
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["settings"] == {"n": 1.5, "sizes": [1, 2]}
    assert result.as_dict()["value"] is None
    assert too_few_warnings("mean", 30) == ()
    assert "512 dimensions" in too_few_warnings("fad", 200, 300, 512)[0]
