import numpy as np
import pytest

from open_musiclm.evaluation.metrics.chroma import (
    NOTES,
    Key,
    chroma_agreement,
    chromagram,
    estimate_key,
    key_agreement,
    parse_key,
)

RATE = 32000


def tones(frequencies, seconds=2.0, rate=RATE):
    time = np.arange(int(seconds * rate)) / rate
    return sum(np.sin(2 * np.pi * f * time) for f in frequencies) * 0.1


def note(midi):
    return 440.0 * 2 ** ((midi - 69) / 12)


def test_matches_librosa():
    # librosa 0.11.0: filters.chroma(sr=32000, n_fft=16384, tuning=0) @ |stft(y, 16384, 4096, pad_mode="reflect")|²
    noise = np.random.default_rng(0).standard_normal(60000)
    chroma = chromagram(noise, RATE)
    assert chroma.shape == (15, 12)
    assert chroma.argmax(axis=1).tolist() == [11, 11, 9, 9, 9, 11, 7, 7, 10, 10, 10, 7, 8, 8, 6]
    frame = np.array(
        [
            2042981.31641558, 2198335.79177748, 2016062.30255008, 1947816.81283447, 2038660.28113054, 2231499.62468676,
            2060786.97476949, 2122100.6188798, 2048194.74228903, 2307445.58719543, 2229306.63748858, 2143088.17136937,
        ]
    )  # fmt: skip
    assert chroma[3] == pytest.approx(frame / frame.max(), rel=1e-6)


def test_spectrogram_matches_torch():
    import torch

    from open_musiclm.evaluation.metrics.spectrum import power_spectrogram

    noise = np.random.default_rng(1).standard_normal(5000)
    window = torch.hann_window(1024, dtype=torch.float64)
    expected = (
        torch.stft(torch.tensor(noise), 1024, 256, window=window, return_complex=True, pad_mode="reflect").abs() ** 2
    )
    assert power_spectrogram(noise, 1024, 256) == pytest.approx(expected.T.numpy(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("midi", range(60, 72))
def test_a_tone_lights_its_pitch_class(midi):
    assert set(chromagram(tones([note(midi)]), RATE)[2:-2].argmax(axis=1)) == {midi % 12}


def test_agreement():
    a, c = tones([440.0], 4), tones([note(60)], 4)
    assert chroma_agreement(a, a, RATE) == 1.0
    assert chroma_agreement(a, c, RATE) == 0.0
    half = np.concatenate([a[: len(a) // 2], c[: len(a) // 2]])
    assert chroma_agreement(half, a, RATE) == pytest.approx(0.5, abs=0.05)
    assert chroma_agreement(half, a, RATE) == chroma_agreement(a, half, RATE)
    assert chroma_agreement(a[:RATE], a, RATE) == 1.0  # the frames that both have
    assert chroma_agreement(tones([880.0], 4), a, RATE) == 1.0  # an octave is the same pitch class


def test_number_of_frames_is_audiocrafts():
    # ceil(samples / hop) frames are compared: the last one is wrong here, and only it
    a = tones([440.0], 65536 / RATE)
    b = a.copy()
    b[-4096:] = tones([note(63)], 4096 / RATE) * 100
    share = chroma_agreement(b, a, RATE)
    assert share * 16 == round(share * 16)
    assert share < 1


def scale_chords(tonic, mode):
    degrees = {
        "major": [(0, 4, 7), (5, 9, 12), (7, 11, 14), (0, 4, 7)],
        "minor": [(0, 3, 7), (5, 8, 12), (7, 10, 14), (0, 3, 7)],
    }
    return np.concatenate([tones([note(60 + tonic + step) for step in chord], 1.0) for chord in degrees[mode]])


@pytest.mark.parametrize("mode", ["major", "minor"])
@pytest.mark.parametrize("tonic", range(12))
def test_key_of_a_cadence(tonic, mode):
    assert estimate_key(scale_chords(tonic, mode), RATE) == Key(tonic, mode)


def test_silence_has_no_key():
    assert estimate_key(np.zeros(RATE * 2), RATE) is None


def test_key_agreement_is_mirex():
    c = Key(0, "major")
    scores = {"C major": 1.0, "G major": 0.5, "A minor": 0.3, "C minor": 0.2, "F major": 0.0, "D minor": 0.0}
    assert {name: key_agreement(parse_key(name), c) for name in scores} == scores
    assert key_agreement(parse_key("C major"), parse_key("A minor")) == 0.3
    assert key_agreement(None, c) == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A minor", Key(9, "minor")), ("F# major", Key(6, "major")), ("Bb minor", Key(10, "minor")), ("c", Key(0, "major")),
        ("E♭ major", Key(3, "major")), ("Cb major", Key(11, "major")), ("Am", Key(9, "minor")), ("F#m", Key(6, "minor")),
        ("unknown", None), ("", None), ("Bassoon", None),
    ],
)  # fmt: skip
def test_parse_key(text, expected):
    assert parse_key(text) == expected
    if expected:
        assert str(expected).split()[0] in NOTES
