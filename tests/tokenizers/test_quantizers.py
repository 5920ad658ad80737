import numpy as np
import pytest
import torch
from goldens import CASES, GOLDENS, expected
from huggingface_hub.errors import StrictDataclassClassValidationError
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_codec, tiny_pipeline, tiny_quantizers
from transformers import AutoModel

from open_musiclm import (
    ClapQuantizer,
    ClapQuantizerConfig,
    SemanticQuantizer,
    SemanticQuantizerConfig,
    codebook_fingerprint,
    codec_fingerprint,
)
from open_musiclm.tokenizers.compatibility import semantic_stream
from open_musiclm.tokenizers.fingerprints import check_fingerprints
from open_musiclm.tokenizers.semantic import semantic_features
from open_musiclm.tokenizers.sources import SOURCES


def golden_clap_quantizer(case: str) -> ClapQuantizer:
    weights = torch.load(GOLDENS / case / "clap.rvq.950_no_fusion.pt", weights_only=True)
    codebooks = torch.cat([weights[f"layers.{index}._codebook.embed"] for index in range(4)])
    config = ClapQuantizerConfig(codebook_size=32, num_quantizers=4, embedding_dim=32)
    quantizer = ClapQuantizer(config)
    quantizer.load_state_dict({"codebooks": codebooks})
    return quantizer


@pytest.mark.parametrize("case", CASES)
def test_residual_codes_of_the_original(case):
    golden, quantizer = expected(case), golden_clap_quantizer(case)
    codes = quantizer.encode(golden["rvq_embeddings"])
    assert torch.equal(codes, golden["rvq_codes"])
    torch.testing.assert_close(quantizer.decode(codes), golden["rvq_quantized"], atol=1e-5, rtol=1e-5)


def test_semantic_codes_of_the_original():
    golden = np.load(GOLDENS / "conv_continuous" / "kmeans_expected.npz")
    quantizer = SemanticQuantizer(SemanticQuantizerConfig(codebook_size=40, feature_dim=96, normalize=False))
    quantizer.load_state_dict({"codebook": torch.from_numpy(golden["centers"]).float()})
    assert quantizer.encode(torch.from_numpy(golden["features"]).float()).tolist() == golden["codes"].tolist()


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 100))
def test_each_residual_step_takes_the_nearest(batch, seed):
    clap, _ = tiny_quantizers(seed)
    vectors = torch.randn(batch, 16, generator=torch.Generator().manual_seed(seed))
    codes = clap.encode(vectors)
    residual = vectors
    for step in range(3):
        distances = torch.cdist(residual, clap.codebooks[step])
        chosen = distances.gather(1, codes[:, step : step + 1])[:, 0]
        assert (chosen <= distances.min(1).values + 1e-5).all()
        residual = residual - clap.codebooks[step][codes[:, step]]
    torch.testing.assert_close(vectors - clap.decode(codes), residual, atol=1e-5, rtol=1e-5)


def test_semantic_features_are_normalised_over_each_vector():
    _, quantizer = tiny_quantizers()
    features = torch.randn(2, 5, 16)
    codes = quantizer.encode(features)
    assert codes.shape == (2, 5)
    assert torch.equal(quantizer.encode(features * 7.0 + 3.0), codes)
    normalised = quantizer.normalize(features)
    torch.testing.assert_close(normalised.mean(-1), torch.zeros(2, 5), atol=1e-6, rtol=0)
    torch.testing.assert_close(normalised.var(-1), torch.ones(2, 5))  # sample variance
    quantizer.config.normalize = False
    assert not torch.equal(quantizer.encode(features * 7.0 + 3.0), quantizer.encode(features))


@pytest.mark.parametrize("index", [0, 1])
def test_codebooks_keep_their_values_whatever_the_dtype(index, tmp_path):
    quantizer = tiny_quantizers()[index]
    fingerprint = quantizer.fingerprint
    quantizer.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert type(again) is type(quantizer)
    assert again.fingerprint == fingerprint
    assert again.to(torch.float16).fingerprint == fingerprint
    assert again.half().fingerprint == fingerprint


def test_fingerprints_tell_codebooks_apart():
    codebook = torch.randn(8, 4)
    same = codebook_fingerprint(codebook)
    assert same == codebook_fingerprint(codebook.clone())
    assert same.startswith("sha256:")
    assert len(same) == len("sha256:") + 16
    nudged = codebook.clone()
    nudged[3, 2] += 1e-6
    assert codebook_fingerprint(nudged) != same
    assert codebook_fingerprint(codebook.flip(0)) != same, "the order of entries is what codes mean"
    assert codebook_fingerprint(codebook.reshape(4, 8)) != same


def test_codec_fingerprint_covers_the_codebooks_asked_for():
    codec = tiny_codec()
    coarse, fine = codec_fingerprint(codec, 0, 2), codec_fingerprint(codec, 2, 5)
    codec.quantizer.layers[4].codebook.embed[0, 0] += 1.0
    assert codec_fingerprint(codec, 0, 2) == coarse
    assert codec_fingerprint(codec, 2, 5) != fine
    assert codec_fingerprint(tiny_codec().half(), 0, 2) is None
    with pytest.raises(ValueError, match="5 codebooks"):
        codec_fingerprint(codec, 4, 9)


def test_a_mismatch_names_both():
    check_fingerprints("a", None, "b", "sha256:1")
    check_fingerprints("a", "sha256:1", "b", "sha256:1")
    with pytest.raises(ValueError, match=r"tokens.*sha256:1.*the stage.*sha256:2"):
        check_fingerprints("tokens", "sha256:1", "the stage", "sha256:2")


def test_vectors_of_another_size_are_refused():
    clap, semantic = tiny_quantizers()
    with pytest.raises(ValueError, match="15"):
        clap.encode(torch.zeros(2, 15))
    with pytest.raises(ValueError, match="17"):
        semantic.encode(torch.zeros(2, 17))


def test_groups_of_features_have_codebooks_of_their_own(tmp_path):
    """Three codebooks are three quantizers side by side, each with its third of the normalised features."""
    torch.manual_seed(0)
    quantizer = SemanticQuantizer(SemanticQuantizerConfig(codebook_size=10, num_codebooks=3, feature_dim=24))
    features = torch.randn(2, 7, 24) * 3 + 1
    codes = quantizer.encode(features)
    assert codes.shape == (2, 7, 3)
    groups = quantizer.normalize(features).unflatten(-1, (3, 8))
    for index in range(3):
        distances = torch.cdist(groups[:, :, index], quantizer.codebook[index])
        assert torch.equal(codes[..., index], distances.argmin(-1))
        assert torch.equal(
            quantizer.decode(codes)[..., 8 * index : 8 * index + 8], quantizer.codebook[index][codes[..., index]]
        )
    quantizer.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert again.fingerprint == quantizer.fingerprint
    assert torch.equal(again.encode(features), codes)
    assert semantic_stream(quantizer).num_codebooks == 3
    with pytest.raises(StrictDataclassClassValidationError, match="equal groups, got 5"):
        SemanticQuantizerConfig(feature_dim=24, num_codebooks=5)


def test_a_codebook_for_each_group_of_features_gives_a_token_a_frame_and_codebook():
    pipe = tiny_pipeline(0)
    torch.manual_seed(0)
    config = SemanticQuantizerConfig(
        codebook_size=20, feature_dim=16, layer=1, frame_rate=25.0, num_edge_frames=1, num_codebooks=2
    )
    quantizer = SemanticQuantizer(config).eval()
    components = {"semantic_encoder": pipe.semantic_encoder, "semantic_quantizer": quantizer}
    source = SOURCES["semantic"](components)
    crops = np.random.default_rng(0).normal(0, 0.1, (2, 16_000)).astype(np.float32)
    codes = source.encode(crops, 2)
    assert codes.shape == (2, 24, 2)
    assert source.stream("words").num_codebooks == 2
    assert np.array_equal(source.encode(crops, 1), codes[..., :1])
    features = semantic_features(pipe.semantic_encoder, config, torch.from_numpy(crops))
    assert np.array_equal(quantizer.encode(features).numpy(), codes)
