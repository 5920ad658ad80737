import numpy as np
import pytest
import torch
from tiny import tiny_clap, tiny_codec, tiny_quantizers, tiny_semantic_encoder
from transformers import EncodecConfig, EncodecModel

from open_musiclm.tokenizers.networks import (
    acoustic_codes,
    acoustic_waveform,
    clap_audio_embeddings,
    clap_text_embeddings,
    codec_bandwidth,
    codec_frame_rate,
    semantic_features,
)


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


def test_a_text_longer_than_the_network_is_cut():
    clap, processor = tiny_clap()
    assert clap_text_embeddings(clap, processor, ["piano " * 500]).shape == (1, 16)


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


def test_semantic_features_are_of_the_normalised_crop_cut_to_whole_frames():
    encoder, (_, quantizer) = tiny_semantic_encoder(), tiny_quantizers()
    crop = torch.randn(1, 4 * 16_000 + 137, generator=torch.Generator().manual_seed(0))
    features = semantic_features(encoder, quantizer.config, crop)
    assert features.shape == (1, 4 * 25 - 1, 16)  # a frame is lost at the end
    # loudness and offset are gone
    torch.testing.assert_close(
        semantic_features(encoder, quantizer.config, crop * 0.3 + 0.2), features, atol=1e-4, rtol=1e-3
    )
    normalised = (crop - crop.mean()) / (crop.var() + 1e-7).sqrt()
    with torch.no_grad():
        states = encoder(normalised[:, : 4 * 16_000], output_hidden_states=True).hidden_states
    torch.testing.assert_close(features, states[1], atol=1e-5, rtol=1e-4)
    quantizer.config.layer = 2
    torch.testing.assert_close(semantic_features(encoder, quantizer.config, crop), states[2], atol=1e-5, rtol=1e-4)


def test_too_short_a_crop_is_refused():
    encoder, (_, quantizer) = tiny_semantic_encoder(), tiny_quantizers()
    with pytest.raises(ValueError, match="at least 1280 samples"):
        semantic_features(encoder, quantizer.config, torch.zeros(1, 1000))


def test_acoustic_codes_and_back():
    codec = tiny_codec()
    assert codec_frame_rate(codec) == 50.0
    audio = torch.randn(2, 1, 8000, generator=torch.Generator().manual_seed(0))
    codes = acoustic_codes(codec, audio, 5)
    assert codes.shape == (2, 50, 5)
    with torch.no_grad():
        direct = codec.encode(audio, bandwidth=1.0).audio_codes[0]
    assert torch.equal(codes, direct.transpose(1, 2))
    assert torch.equal(acoustic_codes(codec, audio, 2), codes[..., :2])
    assert acoustic_waveform(codec, codes).shape == (2, 1, 8000)


def test_bandwidth_is_the_smallest_that_has_the_codebooks():
    config = EncodecConfig(num_filters=4, hidden_size=8, codebook_dim=8)
    codec = EncodecModel(config)  # 24 kHz: 1.5, 3, 6, 12, 24 kbit/s
    assert [codec_bandwidth(codec, n) for n in (1, 2, 3, 8, 9)] == [1.5, 1.5, 3.0, 6.0, 12.0]
    assert codec_frame_rate(codec) == 75.0
    with pytest.raises(ValueError, match="33 codebooks"):
        codec_bandwidth(codec, 33)
    codec.config.normalize = True
    with pytest.raises(ValueError, match="normalises"):
        codec_bandwidth(codec, 8)
