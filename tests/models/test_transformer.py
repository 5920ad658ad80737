"""What the goldens do not reach: gradients, and the bucketed bias."""

import pytest
import torch
from transformers.models.t5.modeling_t5 import T5Attention

from open_musiclm import MusicLMSemanticConfig
from open_musiclm.models.transformer import BucketedPositionBias, MusicLMDecoder, MusicLMUnitNorm, causal_convolution

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}


def make_decoder(**settings) -> MusicLMDecoder:
    config = MusicLMSemanticConfig(**{**SIZES, **settings})
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    return MusicLMDecoder(config).eval()


def run(decoder, hidden_states):
    length = hidden_states.shape[1]
    mask = decoder.attention_mask(torch.arange(length), length, None, decoder.bias_table(length))
    return decoder(hidden_states, mask)


@pytest.mark.parametrize("bias", ["continuous", "t5", "none"])
@pytest.mark.parametrize("prefix", [0, 4])
def test_causality_by_gradient(bias, prefix):
    """Output i has no gradient to any later input, but inside the non-causal prefix."""
    decoder = make_decoder(position_bias_type=bias, non_causal_prefix_size=prefix)
    length = 9
    inputs = torch.randn(1, length, 32, requires_grad=True)
    outputs = run(decoder, inputs)
    for row in range(length):
        (gradient,) = torch.autograd.grad(outputs[0, row, 0], inputs, retain_graph=True)
        reached = gradient[0].abs().sum(-1) > 0
        last_visible = max(row, prefix - 1 if row < prefix else 0)
        assert reached[: last_visible + 1].all()
        assert not reached[last_visible + 1 :].any()


def test_t5_bias_has_transformers_buckets():
    config = MusicLMSemanticConfig(**SIZES, position_bias_type="t5")
    bias = BucketedPositionBias(config)
    torch.nn.init.normal_(bias.buckets.weight)
    distances = torch.arange(0, 400)
    buckets = T5Attention._relative_position_bucket(-distances, bidirectional=False, num_buckets=32, max_distance=128)
    torch.testing.assert_close(bias(distances), bias.buckets(buckets).T)
    assert len(buckets.unique()) == 32


def test_bias_table_serves_every_position():
    """The bias depends on the distance alone, so one row of the mask is another, shifted."""
    decoder = make_decoder()
    mask = decoder.attention_mask(torch.arange(12), 12, None, decoder.bias_table(12))
    assert torch.equal(mask[0, :, 11, 1:], mask[0, :, 10, :11])
    assert not torch.equal(mask[0, :, 11, 1], mask[0, :, 11, 2])


def test_gradient_shrinks_and_values_do_not_change():
    decoder = make_decoder(gradient_shrink=0.1)
    inputs = torch.randn(1, 6, 32, requires_grad=True)
    shrunk = run(decoder, inputs)
    (gradient,) = torch.autograd.grad(shrunk.square().sum(), inputs)
    decoder.config.gradient_shrink = 1.0
    whole = run(decoder, inputs)
    (full_gradient,) = torch.autograd.grad(whole.square().sum(), inputs)
    assert torch.equal(shrunk, whole)
    torch.testing.assert_close(gradient, 0.1 * full_gradient)


def test_unit_norm():
    norm = MusicLMUnitNorm(8)
    torch.nn.init.constant_(norm.weight, 3.0)
    torch.testing.assert_close(norm(torch.randn(5, 8)).norm(dim=-1), torch.full((5,), 3.0))


def test_dropouts_act_in_training_only():
    decoder = make_decoder(hidden_dropout=0.5, attention_dropout=0.5)
    inputs = torch.randn(1, 6, 32)
    assert torch.equal(run(decoder, inputs), run(decoder, inputs))
    decoder.train()
    assert not torch.equal(run(decoder, inputs), run(decoder, inputs))


@pytest.mark.parametrize("length", [1, 2, 9])
def test_a_convolution_by_taps_is_the_librarys_and_learns_the_same(length):
    """What a GPU trains with in its place."""
    torch.manual_seed(0)
    conv = torch.nn.Conv1d(6, 6, 3, groups=6, bias=False)
    inner = torch.randn(2, length, 6, requires_grad=True)
    found = causal_convolution(inner, conv.weight[:, 0].T.unbind(0))
    expected = conv(torch.nn.functional.pad(inner.transpose(1, 2), (2, 0))).transpose(1, 2)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(found)
    gradients = [torch.autograd.grad(each, (inner, conv.weight), direction) for each in (found, expected)]
    torch.testing.assert_close(*gradients)
