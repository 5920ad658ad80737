"""The Triton kernels against plain PyTorch: on a GPU, or anywhere with Triton and TRITON_INTERPRET=1."""

import copy
import os

import pytest
import torch
from goldens import CASES, stage_model
from tiny import tiny_stage

from open_musiclm.decoding.packed_weights import PackedStage
from open_musiclm.decoding.sampling import StandardSampling
from open_musiclm.decoding.static_step import StaticState, TorchStep

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs a CUDA GPU or TRITON_INTERPRET=1", allow_module_level=True)

from open_musiclm.decoding.triton_step import FEW_SAMPLES, TritonStep  # noqa: E402


def filled_state(packed, batch_size, num_rows, num_tokens, index, seed=0):
    """A window with random keys, values, convolution inputs and hidden keys; poison where nothing was written."""
    generator = torch.Generator().manual_seed(seed)
    state = StaticState(packed, batch_size, num_rows, num_tokens)
    for buffer in (state.keys, state.values, state.conv_inputs):
        buffer.copy_(torch.randn(buffer.shape, generator=generator))
    first = num_rows - num_tokens
    state.keys[:, :, first + index :] = torch.nan
    state.values[:, :, first + index :] = torch.nan
    if batch_size > 1:
        state.hidden_keys[0, 1:first:2] = -torch.inf
    state.first_row.fill_(first)
    state.index.fill_(index)
    state.ids.copy_(torch.randint(packed.codebook_size, (batch_size,), generator=generator))
    state.noise.copy_(-torch.rand(state.noise.shape, generator=generator).log_().neg_().log_())
    return state


def twin(state):
    other = copy.copy(state)
    for name, value in vars(state).items():
        if isinstance(value, torch.Tensor):
            setattr(other, name, value.clone())
    return other


def compare(model, batch_size, num_rows=90, num_tokens=60, index=37, steps=3, sampling=None, tolerance=2e-5):
    """A few steps of both: the same ids, logits and buffers."""
    packed = PackedStage(model.to(DEVICE), repack=False)
    sampling = sampling or StandardSampling(packed.codebook_size, 0.9, 7)
    state = filled_state(packed, batch_size, num_rows, num_tokens, index)
    plain_state = twin(state)
    for buffer in (plain_state.keys, plain_state.values):
        buffer.nan_to_num_(0.0)  # the plain step multiplies what it hides by zero
    plain = TorchStep(packed, plain_state, sampling, True)
    kernels = TritonStep(packed, state, sampling, True)
    kernels.logits = state.logits.fill_(torch.nan)
    kernels.begin()
    for step in range(steps):
        plain()
        kernels()
        scale = float(plain_state.logits.std())
        torch.testing.assert_close(state.logits, plain_state.logits, atol=tolerance * scale * 10, rtol=tolerance)
        assert torch.equal(state.ids, plain_state.ids)
        assert state.index.item() == plain_state.index.item() == index + step + 1
    made = slice(index + 1, index + 1 + steps)
    assert torch.equal(state.token_ids[:, made], plain_state.token_ids[:, made])
    last = num_rows - num_tokens + index + steps
    for name in ("keys", "values"):
        mine, theirs = getattr(state, name)[:, :, :last], getattr(plain_state, name)[:, :, :last]
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
        assert getattr(state, name)[:, :, last:].isnan().all(), "rows to come must not be written"
    torch.testing.assert_close(state.conv_inputs, plain_state.conv_inputs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, FEW_SAMPLES + 1])
@pytest.mark.parametrize("case", CASES)
def test_original_weights(case, batch_size):
    compare(stage_model(case, "coarse"), batch_size)


@pytest.mark.parametrize("batch_size", [1, FEW_SAMPLES + 2])
@pytest.mark.parametrize("index", [0, 1, 63, 64, 127, 128, 190])
def test_every_place_in_a_window(batch_size, index):
    compare(tiny_stage("fine"), batch_size, num_rows=230, num_tokens=200, index=index, steps=2)


@pytest.mark.parametrize("kernel", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [2, FEW_SAMPLES + 1])
def test_convolution_kernels(kernel, batch_size):
    compare(tiny_stage("coarse", conv_kernel_size=kernel), batch_size)


@pytest.mark.parametrize("batch_size", [2, FEW_SAMPLES + 1])
def test_other_shapes(batch_size):
    compare(tiny_stage("coarse", use_conv_feed_forward=False, position_bias_type="t5"), batch_size)
    compare(tiny_stage("semantic", position_bias_type="none", hidden_size=48, num_attention_heads=3), batch_size)
    compare(tiny_stage("fine", max_position_embeddings=80, num_attention_heads=20), batch_size)


@pytest.mark.parametrize(
    "sampling", [StandardSampling(16, 1.0, None), StandardSampling(16, 0.3, 1), StandardSampling(16, 1.7, 40)], ids=str
)
def test_sampling(sampling):
    compare(tiny_stage("coarse"), 3, sampling=sampling)


def test_ties_are_kept():
    """Of equal scores at the border all stay, as in the plain path."""
    model = tiny_stage("semantic")
    packed = PackedStage(model.to(DEVICE), repack=False)
    state = filled_state(packed, 4, 40, 20, 5)
    logits = torch.randint(-2, 3, state.logits.shape).float().to(DEVICE)
    for top_k in (1, 2, 5, 19):
        sampling = StandardSampling(packed.codebook_size, 0.7, top_k)
        kernels = TritonStep(packed, state, sampling, True)
        state.logits.copy_(logits)
        state.index.fill_(5)
        kernels._sample()
        assert torch.equal(state.ids, sampling(logits, state.noise))


@pytest.mark.parametrize("batch_size", [1, FEW_SAMPLES + 1])
def test_half_precision(batch_size):
    """Not further from float32 than plain PyTorch in the same dtype (Triton's interpreter has no bfloat16 product)."""
    low_dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float16
    exact, rounded = stage_model("conv_continuous", "coarse"), stage_model("conv_continuous", "coarse")
    packs = {
        "exact": PackedStage(exact.to(DEVICE), repack=False),
        "rounded": PackedStage(rounded.to(DEVICE, low_dtype), repack=False),
    }
    sampling = StandardSampling(packs["exact"].codebook_size)
    state = filled_state(packs["exact"], batch_size, 90, 60, 37)
    for buffer in (state.keys, state.values):
        buffer.nan_to_num_(0.0)
    errors = {}
    with torch.no_grad():
        expected = TorchStep(packs["exact"], twin(state), sampling, False).compute_logits()
    for name in ("plain", "kernels"):
        low = StaticState(packs["rounded"], batch_size, 90, 60)
        for key, value in vars(state).items():
            if isinstance(value, torch.Tensor) and key != "bias":
                getattr(low, key).copy_(value)
        if name == "plain":
            with torch.no_grad():
                logits = TorchStep(packs["rounded"], low, sampling, False).compute_logits().float()
        else:
            kernels = TritonStep(packs["rounded"], low, sampling, False)
            kernels.begin()
            kernels.write_logits()
            logits = low.logits
        errors[name] = float((logits - expected).norm() / expected.norm())
    assert errors["kernels"] < 1.2 * errors["plain"] + 1e-3
    assert errors["kernels"] < 3e-2


def test_inputs_of_another_sample_do_not_matter():
    model = tiny_stage("coarse")
    packed = PackedStage(model.to(DEVICE), repack=False)
    sampling = StandardSampling(packed.codebook_size)
    state = filled_state(packed, 3, 90, 60, 20)
    other = twin(state)
    for buffer in (other.keys, other.values, other.conv_inputs):
        buffer[:, 2] *= 2.0
    logits = []
    for each in (state, other):
        kernels = TritonStep(packed, each, sampling, False)
        kernels.begin()
        kernels.write_logits()
        logits.append(each.logits.clone())
    assert torch.equal(logits[0][:2], logits[1][:2])
    assert not torch.equal(logits[0][2], logits[1][2])
