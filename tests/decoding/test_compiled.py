"""The compiled step makes the tokens of the plain loop, for one sample or two rows, and refuses more."""

import copy
import shutil

import pytest
import torch
from goldens import stage_inputs, stage_model
from tiny import tiny_stage

from open_musiclm.decoding.compiled import CompiledDecoder
from open_musiclm.decoding.interface import Request
from open_musiclm.decoding.packed import FastDecoder

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "cl"))), reason="compiling needs a C++ compiler"
)
FRAMES = {"semantic": 30, "coarse": 14, "fine": 10}


def both(model, inputs, num_frames, **settings):
    return [
        model.generate(num_frames, generator=torch.Generator().manual_seed(3), fast=fast, **inputs, **settings)
        for fast in ("compile", False)
    ]


@pytest.mark.parametrize(
    ("case", "stage"),
    [
        ("conv_continuous", "coarse"),
        pytest.param("conv_continuous", "semantic", marks=pytest.mark.slow),
        pytest.param("plain_t5", "fine", marks=pytest.mark.slow),
        pytest.param("abs_none_prefix", "coarse", marks=pytest.mark.slow),
    ],
)
def test_the_originals_weights_make_the_same_tokens(case, stage):
    """Convolution and none, continuous bias and none, absolute positions; with a beginning and without."""
    model = stage_model(case, stage)
    inputs = {name: ids[:1] for name, ids in stage_inputs(case, stage).items()}
    beginning = {f"{stage}_token_ids": inputs.pop(f"{stage}_token_ids")[:, :3]}
    for prime in ({}, beginning):
        compiled, plain = both(model, {**inputs, **prime}, FRAMES[stage], temperature=0.9)
        assert torch.equal(compiled, plain)
        assert len(compiled.unique()) > 4


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [1, 2, 5])
def test_any_kernel(kernel):
    model = tiny_stage("semantic", conv_kernel_size=kernel)
    compiled, plain = both(model, {"clap_token_ids": torch.zeros(1, 3, dtype=torch.long)}, 20)
    assert torch.equal(compiled, plain)


@pytest.mark.slow
def test_bfloat16_is_as_near_as_the_other_way():
    model = tiny_stage("semantic").to(torch.bfloat16)
    exact_model = copy.deepcopy(model).float()
    streams = {"clap_token_ids": torch.zeros(1, 3, dtype=torch.long)}
    ids = torch.arange(12)[None, :, None] % 8
    exact, errors = None, []
    request = Request(streams, 1, 12)
    for decoder in (
        FastDecoder(exact_model, request),
        FastDecoder(model, request),
        CompiledDecoder(model, request),
    ):
        with torch.no_grad():
            decoder.prefill(ids[:, :6])
            logits = torch.cat([decoder.decode_one_step(ids[:, :length]) for length in range(7, 13)]).float()
        exact = logits if exact is None else exact
        errors.append((logits - exact).norm() / exact.norm())
    assert 0 < errors[2] < 1.5 * errors[1]


def test_several_samples_are_refused_or_go_the_other_way():
    model = tiny_stage("semantic")
    clap = torch.zeros(3, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"`fast='compile'` reads the weights for each of up to 2 rows; .* has 3"):
        model.start_generation(5, clap_token_ids=clap, fast="compile")
    run = model.start_generation(5, clap_token_ids=clap, fast=("compile", "packed"))
    assert type(run.backend) is FastDecoder
    assert type(model.start_generation(5, clap_token_ids=clap[:1], fast="compile").backend) is CompiledDecoder


def test_unknown_ways_are_refused():
    with pytest.raises(ValueError, match=r"'graph', 'graph-int8', 'compile', 'int8', 'packed', 'plain'.*got 'slow'"):
        tiny_stage("semantic").generate(5, clap_token_ids=torch.zeros(1, 3, dtype=torch.long), fast="slow")
