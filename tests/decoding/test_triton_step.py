"""The Triton kernels against plain PyTorch: on a GPU, elsewhere in Triton's interpreter (see conftest.py)."""

import copy

import pytest
import torch
from goldens import CASES, stage_model
from tiny import tiny_stage

from open_musiclm.decoding.packed_weights import PackedStage
from open_musiclm.decoding.sampling import StandardSampling
from open_musiclm.decoding.static_step import StaticState, TorchStep

pytest.importorskip("triton")  # there is none for macOS and Windows

from open_musiclm.decoding.triton_step import TritonStep

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
#: of each comparison: a race gives other results from run to run; the interpreter has none
REPEATS = 10 if DEVICE == "cuda" else 1


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
    state.ids.copy_(torch.randint(packed.codebook_size, state.ids.shape, generator=generator))
    state.noise.copy_(-torch.rand(state.noise.shape, generator=generator).log_().neg_().log_())
    return state


def twin(state):
    other = copy.copy(state)
    for name, value in vars(state).items():
        if isinstance(value, torch.Tensor):
            setattr(other, name, value.clone())
    return other


@torch.no_grad()
def compare(
    model,
    batch_size,
    num_rows=90,
    num_tokens=60,
    index=37,
    steps=4,
    sampling=None,
    dtype=torch.float32,
    tolerance=2e-5,
    int8=False,
):
    """A few steps of both: the same ids, logits and buffers; and the same again, to the last bit."""
    packed = PackedStage(model.to(DEVICE, dtype), repack=False, int8=int8)
    sampling = sampling or StandardSampling(packed.codebook_size, 0.9, 7)
    start = filled_state(packed, batch_size, num_rows, num_tokens, index)
    states = []
    for _ in range(REPEATS):
        state = twin(start)
        plain_state = twin(start)
        for buffer in (plain_state.keys, plain_state.values):
            buffer.nan_to_num_(0.0)  # the plain step multiplies what it hides by zero
        plain = TorchStep(packed, plain_state, sampling, True)
        kernels = TritonStep(packed, state, sampling, True)
        state.logits.fill_(torch.nan)
        for step in range(steps):
            plain()
            kernels.begin()
            kernels()
            assert error(state.logits, plain_state.logits) < tolerance
            assert torch.equal(state.ids[:, 0], sampling(state.logits, state.noise))
            if dtype == torch.float32:
                assert torch.equal(state.ids, plain_state.ids)
            assert state.index.item() == plain_state.index.item() == index + step + 1
            carried = kernels.x.clone()
            kernels.begin()
            assert torch.equal(carried, kernels.x), "the next input is the chosen id's embedding"
            plain_state.ids.copy_(state.ids)  # rounding may choose another one of two near ones
        states.append(state)
    made = slice(index + 1, index + 1 + steps)
    assert torch.equal(state.ids[:, 0], state.token_ids[:, index + steps])
    if dtype == torch.float32:
        assert torch.equal(state.token_ids[:, made], plain_state.token_ids[:, made])
    first, last = num_rows - num_tokens + index, num_rows - num_tokens + index + steps
    for name in ("keys", "values"):
        mine, theirs, before = getattr(state, name), getattr(plain_state, name), getattr(start, name)
        assert error(mine[:, :, first:last], theirs[:, :, first:last]) < tolerance
        assert torch.equal(mine[:, :, :first], before[:, :, :first]), "rows before must not be written"
        assert mine[:, :, last:].isnan().all(), "rows to come must not be written"
    if packed.num_taps:
        for mine, theirs in zip(state.conv_inputs, plain_state.conv_inputs, strict=True):
            assert error(mine, theirs) < tolerance
    for name, value in vars(states[0]).items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(getattr(states[-1], name), value, rtol=0, atol=0, equal_nan=True)


def error(mine, theirs):
    return float((mine.float() - theirs.float()).norm() / theirs.float().norm())


BATCHES = [1, 2, 3, 5, 8, 16]
#: of a bfloat16 step against the same in plain PyTorch, which rounds at other places
BFLOAT16 = {"dtype": torch.bfloat16, "tolerance": 3e-2}


@pytest.mark.parametrize("batch_size", BATCHES)
@pytest.mark.parametrize("settings", [{}, BFLOAT16], ids=["float32", "bfloat16"])
def test_state_after_several_steps(settings, batch_size):
    """More steps than the convolution has taps: every slot of its ring is overwritten."""
    compare(tiny_stage("coarse"), batch_size, **settings)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_original_weights(case, batch_size):
    compare(stage_model(case, "coarse"), batch_size, steps=2)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_rounded_weights(batch_size):
    """The same function as plain PyTorch's of the numbers that the rounded weights stand for, which are others."""
    model = tiny_stage("coarse")
    compare(model, batch_size, int8=True)
    exact, rounded = (PackedStage(model, repack=False, int8=int8).layers[0].up_proj for int8 in (False, True))
    assert rounded.rounded.dtype == torch.int8
    assert 1e-3 < error(rounded.weight, exact.weight) < 1e-2


@pytest.mark.parametrize("pattern", ["delay", "parallel"])
@torch.no_grad()
def test_steps_of_several_tokens(pattern):
    """Of these the recorded step ends at the logits of all columns; a place without a token adds nothing."""
    stream = {"name": "fine", "codebook_size": 16, "num_codebooks": 3, "frame_rate": 50.0, "pattern": pattern}
    condition = {"name": "clap", "codebook_size": 16, "num_codebooks": 3}
    packed = PackedStage(tiny_stage("fine", [condition, stream]).to(DEVICE), repack=False)
    states = [filled_state(packed, 2, 40, 20, 5) for _ in range(2)]
    for buffer in (states[0].keys, states[0].values):
        buffer.nan_to_num_(0.0)
    steps = TorchStep(packed, states[0], None, False), TritonStep(packed, states[1], None, False)
    for ids in ([[3, 7, -1], [1, 2, 3]], [[4, 4, 4], [-1, 0, 15]]):
        for state, step in zip(states, steps, strict=True):
            state.ids.copy_(torch.tensor(ids))
            step.begin()
            step()
        assert states[1].logits.shape == (2, 3 * packed.vocabulary_size)
        assert error(states[1].logits, states[0].logits) < 2e-5


def test_more_samples_than_a_block():
    compare(tiny_stage("coarse"), 70, steps=2)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("index", [0, 63, 64, 190])
def test_every_place_in_a_window(batch_size, index):
    compare(tiny_stage("fine"), batch_size, num_rows=230, num_tokens=200, index=index, steps=2)


@pytest.mark.parametrize("kernel", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_convolution_kernels(kernel, batch_size):
    compare(tiny_stage("coarse", conv_kernel_size=kernel), batch_size, steps=kernel + 1)


@pytest.mark.parametrize("batch_size", [1, 2])
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
        assert torch.equal(state.ids[:, 0], sampling(logits, state.noise))


@pytest.mark.parametrize("low_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("batch_size", [1, 9])
def test_half_precision(batch_size, low_dtype):
    """Not further from float32 than plain PyTorch in the same dtype."""
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
