import numpy as np
import pytest

from open_musiclm.evaluation.embedders.windows import cut_windows, prepare_waveform
from open_musiclm.evaluation.presets import PRESETS, fit_windowing, get_preset
from open_musiclm.evaluation.records import Windowing

RATE = 10


def cut(num_samples, **settings):
    windowing = Windowing(**{"window_in_s": 1.0, "hop_in_s": 1.0, **settings})
    return [w.tolist() for w in cut_windows(np.arange(1, num_samples + 1.0), RATE, windowing)]


def test_windows_side_by_side():
    assert cut(20, tail="drop") == [list(range(1, 11)), list(range(11, 21))]
    assert cut(25, tail="drop") == cut(20, tail="drop")
    assert cut(25, tail="keep")[2] == [21, 22, 23, 24, 25]
    assert cut(25, tail="zero")[2] == [21, 22, 23, 24, 25, 0, 0, 0, 0, 0]
    assert cut(23, tail="keep", min_tail_in_s=0.3) == cut(20, tail="drop")
    assert len(cut(24, tail="keep", min_tail_in_s=0.3)) == 3


def test_short_clips():
    assert cut(4, tail="drop") == []
    assert cut(4) == [[1, 2, 3, 4, 1, 2, 3, 4, 0, 0]]  # whole repeats, then zeros, as CLAP
    assert cut(9) == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 0]]
    assert cut(4, window_in_s=None) == [[1, 2, 3, 4]]


def test_a_rest_is_a_window_only_if_it_is_half_of_one():
    whole = list(range(1, 11))
    for rest in range(5):
        assert cut(10 + rest) == [whole]
        assert cut(20 + rest) == [whole, list(range(11, 21))]
    for rest in range(5, 10):
        assert cut(10 + rest) == [whole, list(range(1 + rest, 11 + rest))]  # whole, and it ends with the clip
    audio = np.random.default_rng(0).standard_normal(240_001).astype(np.float32)
    (window,) = cut_windows(audio, 24_000, Windowing())
    assert (window == audio[:240_000]).all()
    assert [w[0] for w in cut(27, hop_in_s=0.5)] == [1, 6, 11, 16]
    assert [w[0] for w in cut(28, hop_in_s=0.5)] == [1, 6, 11, 16, 19]


def test_every_metric_of_the_default_preset_cuts_alike():
    default = get_preset("default")
    assert default.distance == default.classifier == default.clap == Windowing()
    with pytest.raises(ValueError, match="'back', 'drop', 'zero' or 'keep'"):
        cut(25, tail="repeat")


def test_overlap():
    starts = [w[0] for w in cut(30, hop_in_s=0.5, tail="drop")]
    assert starts == [1, 6, 11, 16, 21]
    assert [w[0] for w in cut(30, hop_in_s=0.5, tail="zero", starts="all")] == [1, 6, 11, 16, 21, 26]


def test_google_windows_are_those_of_its_tool():
    # range(0, samples − 16000 + 1, 8000)
    windowing = PRESETS["google"].distance
    for num_samples in (15999, 16000, 23999, 24000, 100_001):
        expected = len(range(0, num_samples - 16000 + 1, 8000))
        assert len(cut_windows(np.zeros(num_samples, np.float32), 16000, windowing)) == expected


def test_fadtk_windows_are_those_of_its_loader():
    # [audio[i : i + 480000] for i in range(0, len(audio), 48000)], each filled with zeros
    windowing = PRESETS["fadtk"].distance
    audio = np.random.default_rng(0).standard_normal(600_000).astype(np.float32)
    windows = cut_windows(audio, 48000, windowing)
    assert len(windows) == len(range(0, 600_000, 48000))
    assert all(len(w) == 480_000 for w in windows)
    assert (windows[12][: 600_000 - 12 * 48000] == audio[12 * 48000 :]).all()
    assert (windows[12][600_000 - 12 * 48000 :] == 0).all()


def test_levels_and_int16():
    audio = np.array([0.1, -0.4, 0.2], np.float32)
    louder, _ = prepare_waveform(audio, RATE, Windowing(level="google_peak"))
    assert louder == pytest.approx(audio / 0.2)  # the largest sample, not the largest magnitude
    assert prepare_waveform(audio * 0, RATE, Windowing(level="google_peak"))[0].tolist() == [0, 0, 0]
    rounded, _ = prepare_waveform(np.array([0.5, -0.5, 2.0], np.float32), RATE, Windowing(int16=True))
    assert (rounded * 32767).round(3).tolist() == [16383, -16383, 32767]  # truncated and clipped, as fadtk does
    with pytest.raises(ValueError, match="google_peak"):
        prepare_waveform(audio, RATE, Windowing(level="loud"))


def test_rate():
    tone = np.sin(np.arange(8000) / 8000 * 2 * np.pi * 100).astype(np.float32)
    resampled, rate = prepare_waveform(tone, 8000, Windowing(sampling_rate=4000))
    assert rate == 4000
    assert resampled[1000:3000] == pytest.approx(tone[2000:6000:2], abs=1e-3)


def test_windows_longer_than_the_network_takes_are_cut_and_it_is_said():
    windowing, said = fit_windowing(PRESETS["audiocraft"].classifier, 10.24)
    assert (windowing.window_in_s, windowing.hop_in_s, windowing.tail) == (10.24, 10.24, "keep")
    assert "20.0 s cut to 10.24 s" in said[0]
    assert fit_windowing(Windowing(window_in_s=1.0), 10.0) == (Windowing(window_in_s=1.0), ())
    assert fit_windowing(Windowing(window_in_s=None), 10.0)[0].window_in_s == 10.0


def test_constants_of_the_sources():
    audiocraft, fadtk, google = (get_preset(name) for name in ("audiocraft", "fadtk", "google"))
    assert audiocraft.kl_direction == "reference||generated"
    assert (audiocraft.kl_epsilon, audiocraft.chroma_n_fft, audiocraft.chroma_hop_length) == (1e-6, 16384, 4096)
    assert (fadtk.fad_num_steps, fadtk.fad_min_samples, fadtk.fad_replace) == (25, 500, True)
    assert (fadtk.embedding_dtype, fadtk.distance.int16) == ("float16", True)
    assert (google.distance.sampling_rate, google.distance.window_in_s, google.distance.hop_in_s) == (16000, 1.0, 0.5)
    with pytest.raises(ValueError, match="default, audiocraft, fadtk, google"):
        get_preset("best")
