import numpy as np
import pytest
import torch
from music import notes
from tiny import tiny_clap
from transformers import ClapFeatureExtractor

from open_musiclm.tokenizers.clap import clap_audio_embeddings
from open_musiclm.tokenizers.clap_spectrogram import can_compute, clap_embeddings, clap_spectrograms


@pytest.mark.parametrize("duration", [10.0, 9.99, 4.0, 0.7])
def test_spectrograms_are_the_extractors(duration):
    """At CLAP's published settings, against transformers' own extractor."""
    extractor = ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad", frequency_min=50)
    audio = np.stack([notes(seed, duration, 48000) for seed in range(2)])
    audio[1, : len(audio[1]) // 2] = 0  # silence reaches the floor
    expected = extractor(list(audio), sampling_rate=48000, return_tensors="pt")["input_features"]
    found = clap_spectrograms(extractor, torch.from_numpy(audio))
    assert found.shape == expected.shape == (2, 1, 1001, 64)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-5)


def test_embeddings_are_those_of_the_extractor():
    clap, processor = tiny_clap()
    audio = np.stack([notes(seed, 10, 8000) for seed in range(3)])
    expected = clap_audio_embeddings(clap, processor, audio)
    torch.testing.assert_close(clap_embeddings(clap, processor, audio), expected, atol=1e-5, rtol=1e-4)


def test_extractors_of_another_kind_are_left_to_transformers():
    assert can_compute(tiny_clap()[1].feature_extractor)
    assert not can_compute(ClapFeatureExtractor())  # fusion: four spectrograms a window
    assert not can_compute(ClapFeatureExtractor(truncation="rand_trunc", padding="repeat"))
