"""A reference cut a few milliseconds longer gives the same verdict: no clip gets a second window of next to nothing."""

from pathlib import Path

import numpy as np
import pytest
from music import notes

from open_musiclm.audio import write_audio
from open_musiclm.evaluation.clips import scan_clips
from open_musiclm.evaluation.embedders.cache import EmbeddingCache
from open_musiclm.evaluation.embedders.networks import ClapEmbedder
from open_musiclm.evaluation.measurements.distances import measure_distances
from open_musiclm.evaluation.measurements.measured import Context, MeasuredSystem
from open_musiclm.evaluation.presets import get_preset

RATE = 8000
NUM_CLIPS = 24


def write_clips(folder: Path, first: int, length_in_s: float, keep=1.0) -> Path:
    """Melodies by seed; `keep` is what a low-pass filter leaves of the spectrum, as a poor codec does."""
    folder.mkdir()
    for index in range(NUM_CLIPS):
        audio = notes(first + index, 10.03, RATE)
        spectrum = np.fft.rfft(audio)
        spectrum[round(keep * len(spectrum)) :] = 0
        audio = np.fft.irfft(spectrum, len(audio))[: round(length_in_s * RATE)]
        write_audio(folder / f"{index:02d}.wav", audio, RATE)
    return folder


@pytest.fixture(scope="module")
def clap(nets):
    return ClapEmbedder.from_pretrained(str(nets / "clap"))


def distances(clap, reference: Path, systems: dict[str, Path]) -> dict[tuple[str, str], float]:
    context = Context(
        get_preset("default"), EmbeddingCache(None), scan_clips(reference, "reference"), {}, num_set_resamples=5
    )
    measured = [MeasuredSystem(name, scan_clips(folder, name), {}) for name, folder in systems.items()]
    results, _ = measure_distances(context, measured, clap)
    assert {result.num_windows for result in results} == {NUM_CLIPS}
    return {(result.metric, result.system): result.value for result in results}


def test_ten_seconds_and_a_little_more_give_the_same_order(tmp_path, clap):
    systems = {
        "real": write_clips(tmp_path / "real", 0, 10.0),
        "codec": write_clips(tmp_path / "codec", 0, 10.0, keep=0.7),
    }
    exact = distances(clap, write_clips(tmp_path / "exact", 500, 10.0), systems)
    longer = distances(clap, write_clips(tmp_path / "longer", 500, 10.03), systems)
    for metric in ("FAD", "KAD"):
        assert exact[metric, "real"] < exact[metric, "codec"]
    assert longer == pytest.approx(exact, rel=1e-6)  # the windows are the same samples
