import numpy as np
import pytest
import torch
from evaluation_networks import chord, tiny_ast
from tiny import tiny_clap, tiny_semantic_encoder

from open_musiclm.evaluation.embedders.networks import (
    AstEmbedder,
    ClapEmbedder,
    Embedder,
    HubertEmbedder,
    load_embedder,
    weights_fingerprint,
)


def windows(rate, num=3, length_in_s=1.0):
    return np.stack([chord(110.0 * (i + 1), length_in_s, rate) for i in range(num)])


def test_clap(nets):
    embedder = load_embedder(f"clap:{nets / 'clap'}")
    assert isinstance(embedder, Embedder)
    audio = windows(8000)
    made = embedder.embed(audio)
    assert made.shape == (3, 1, 16)
    assert made.dtype == np.float64
    assert np.linalg.norm(made, axis=2) == pytest.approx(np.ones((3, 1)), abs=1e-5)
    assert embedder.embed(audio[1:2])[0] == pytest.approx(made[1], abs=1e-5)  # a clip does not depend on its batch
    text = embedder.embed_text(["a calm piano", "fast drums"], batch_size=1)
    assert text.shape == (2, 16)
    assert embedder.embed_text(["fast drums"]) == pytest.approx(text[1:], abs=1e-5)
    assert embedder.backbone.sampling_rate == 8000
    assert embedder.max_window_in_s == 10


def test_clap_of_a_pipeline(nets):
    own = ClapEmbedder.from_pretrained(str(nets / "pipeline"))
    model, processor = tiny_clap()
    assert own.backbone.weights_fingerprint == ClapEmbedder(model, processor).backbone.weights_fingerprint
    assert own.backbone.weights_fingerprint != load_embedder(f"clap:{nets / 'clap'}").backbone.weights_fingerprint


def test_hubert(nets):
    audio = windows(16000)
    pooled = load_embedder(f"hubert:{nets / 'hubert'}#1")
    frames = load_embedder(f"hubert:{nets / 'hubert'}#1/frames")
    made = frames.embed(audio)
    assert made.shape == (3, 24, 16)
    assert pooled.embed(audio) == pytest.approx(made.mean(axis=1, keepdims=True))
    model = tiny_semantic_encoder()
    normal = (audio - audio.mean(1, keepdims=True)) / np.sqrt(audio.var(1, keepdims=True) + 1e-7)
    with torch.no_grad():
        expected = model(torch.tensor(normal, dtype=torch.float32), output_hidden_states=True).hidden_states[1]
    assert made == pytest.approx(expected.numpy(), abs=1e-4)
    assert pooled.embed(audio * 0.1) == pytest.approx(pooled.embed(audio), abs=1e-3)  # level does not matter
    assert "hidden state 1" in pooled.backbone.layer
    with pytest.raises(ValueError, match="hidden states 0 … 2"):
        load_embedder(f"hubert:{nets / 'hubert'}#3")
    with pytest.raises(ValueError, match="names no layer"):
        load_embedder(f"hubert:{nets / 'hubert'}")


def test_ast(nets):
    embedder = load_embedder(f"ast:{nets / 'ast'}")
    audio = windows(16000)
    probabilities = embedder.probabilities(audio)
    assert probabilities.shape == (3, 1, 5)
    assert probabilities.sum(axis=2) == pytest.approx(np.ones((3, 1)))
    model, extractor = tiny_ast()
    inputs = extractor(list(audio), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        expected = torch.softmax(model(**inputs).logits, -1)
    assert probabilities[:, 0] == pytest.approx(expected.numpy(), abs=1e-6)
    assert embedder.embed(audio).shape == (3, 1, 16)
    # what lies past the longest window does not reach the network
    longest = round(embedder.max_window_in_s * 16000)
    longer = np.concatenate([chord(220.0, embedder.max_window_in_s, 16000)[:longest], np.ones(1600, np.float32)])
    assert embedder.embed(longer[None]) == pytest.approx(embedder.embed(longer[None, :longest]), abs=0.05)


def test_fingerprint_tells_weights_apart():
    model, _ = tiny_clap(0)
    before = weights_fingerprint(model)
    assert before == weights_fingerprint(tiny_clap(0)[0])
    assert before.startswith("sha256:")
    with torch.no_grad():
        model.logit_scale_a.add_(1e-4)
    assert weights_fingerprint(model) != before
    assert weights_fingerprint(model.to(torch.bfloat16)) != before


def test_layer_of_the_record():
    model, extractor = tiny_ast()
    assert AstEmbedder(model, extractor).backbone.layer == "pooled output"
    with pytest.raises(ValueError, match="pooling"):
        HubertEmbedder(tiny_semantic_encoder(), None, 1, pooling="max")


@pytest.mark.parametrize("spec", ["vggish:x", "clap:", "clap", ""])
def test_unknown_kind(spec):
    with pytest.raises(ValueError, match="is no embedder"):
        load_embedder(spec)


def test_missing_weights(tmp_path):
    with pytest.raises(ValueError, match="could not be loaded as clap"):
        load_embedder(f"clap:{tmp_path}")
