import pytest
import torch
from tiny import tiny_quantizers, tiny_semantic_encoder

from open_musiclm.tokenizers.semantic import semantic_features


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
