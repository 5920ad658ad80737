import warnings

import numpy as np
import pytest
import torch
from tiny import tiny_clap

from open_musiclm.tokenizers.clap import clap_audio_embeddings, clap_text_embeddings


def test_text_embeddings_do_not_depend_on_the_batch():
    clap, processor = tiny_clap()
    texts = ["a calm piano", "fast drums in a minor key with a bright guitar melody", "x"]
    together = clap_text_embeddings(clap, processor, texts)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(3))
    for index, text in enumerate(texts):
        torch.testing.assert_close(
            clap_text_embeddings(clap, processor, [text])[0], together[index], atol=1e-6, rtol=0
        )
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_a_text_longer_than_the_network_is_cut_and_it_is_said():
    clap, processor = tiny_clap()
    with pytest.warns(
        UserWarning, match=r"CLAP reads 77 tokens of a text: 1 of 2 texts are longer.*up to “…no piano"
    ) as told:
        assert clap_text_embeddings(clap, processor, ["piano " * 500, "drums"]).shape == (2, 16)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clap_text_embeddings(clap, processor, ["x" * 38])


def test_a_clap_with_fusion_gives_the_same_in_every_batch_and_order():
    """Its extractor calls one window of each batch longer than it is, by the global generator."""
    clap, processor = tiny_clap(fusion=True)
    audio = torch.randn(3, 80_000, generator=torch.Generator().manual_seed(0)) * 0.1
    together = clap_audio_embeddings(clap, processor, audio)
    for _ in range(3):
        torch.testing.assert_close(clap_audio_embeddings(clap, processor, audio), together)
    torch.testing.assert_close(
        clap_audio_embeddings(clap, processor, audio.flip(0)).flip(0), together, atol=1e-5, rtol=0
    )
    for index in range(3):
        alone = clap_audio_embeddings(clap, processor, audio[index : index + 1])[0]
        torch.testing.assert_close(alone, together[index], atol=1e-5, rtol=0)


def test_audio_embeddings():
    clap, processor = tiny_clap()
    audio = torch.randn(2, 80_000, generator=torch.Generator().manual_seed(0)) * 0.1
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    embeddings = clap_audio_embeddings(clap, processor, audio)
    now = np.random.get_state()[1]  # noqa: NPY002
    assert (now == state).all(), "the feature extractor must not crop at random"
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(2))
    # rounded through int16: what lies under half a step of it is silence
    step = 1 / 32767
    torch.testing.assert_close(embeddings, clap_audio_embeddings(clap, processor, (audio / step).trunc() * step))
    with pytest.raises(ValueError, match="80000 samples"):
        clap_audio_embeddings(clap, processor, torch.zeros(1, 80_001))
    with pytest.raises(ValueError, match="shape"):
        clap_audio_embeddings(clap, processor, torch.zeros(80_000))
