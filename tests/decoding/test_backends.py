"""One function, several ways: every back-end makes the plain loop's tokens, or says why it does not serve a request."""

import shutil

import pytest
import torch
from goldens import CASES, STAGES, stage_model
from test_packed import conditions, generators
from tiny import inputs_of, patterned_stage, tiny_stage

from open_musiclm.decoding import cuda_graph
from open_musiclm.decoding.interface import Backend, Request
from open_musiclm.decoding.registry import AUTOMATIC, BACKENDS, backend_class, choose_backend

PATTERNED = [("flat", "delay"), ("parallel", "delay"), ("delay", "parallel")]
HAS_COMPILER = any(map(shutil.which, ("g++", "clang++", "cl")))
#: those that make the plain loop's tokens; compiling takes long, so it is done for a few stages
SAME_TOKENS = [
    "packed",
    "graph",
    pytest.param(
        "compile",
        marks=[
            pytest.mark.slow,
            pytest.mark.timeout(1800),
            pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler"),
        ],
    ),
]


@pytest.fixture
def static(monkeypatch):
    """Take the recorded step on a CPU too, where nothing is recorded."""
    monkeypatch.setattr(cuda_graph, "can_record_steps", lambda device: True)


def stages() -> dict:
    golden = {f"{case}-{stage}": (lambda c=case, s=stage: stage_model(c, s)) for case in CASES for stage in STAGES}
    return golden | {"-".join(each): (lambda e=each: patterned_stage(*e)) for each in PATTERNED}


def same_tokens(model, backend: str, batch_sizes=(1, 2, 3), num_frames: int = 7) -> int:
    """Compare a back-end with the plain loop, with guidance and without, primed and not; returns how often it served."""
    served, argument = 0, model.predicted_stream.argument
    for batch_size in batch_sizes:
        streams = conditions(model, batch_size)
        beginning = torch.randint(8, (batch_size, 2 * model.predicted_stream.num_codebooks))
        for guidance in ({}, {"guidance_scale": 2.5, "force_guidance": True}):
            for prime in ({}, {argument: beginning}):
                settings = {**streams, **prime, **guidance, "temperature": 0.9, "top_k": 6}
                plain = model.generate(num_frames, generator=generators(batch_size), fast="plain", **settings)
                try:
                    made = model.generate(num_frames, generator=generators(batch_size), fast=backend, **settings)
                except ValueError as error:
                    assert f"`fast={backend!r}`" in str(error)  # noqa: PT017
                    continue
                assert torch.equal(made, plain), (batch_size, guidance, list(prime))
                served += 1
    return served


@pytest.mark.parametrize("backend", SAME_TOKENS)
@pytest.mark.parametrize("stage", stages())
def test_every_back_end_makes_the_plain_loops_tokens(static, stage, backend):
    model = stages()[stage]()
    served = same_tokens(model, backend)
    least = {"packed": 12, "compile": 6, "graph": 12}[backend]
    assert served >= least


@pytest.mark.skipif(not HAS_COMPILER, reason="compiling needs a C++ compiler")
def test_the_compiled_step_has_patterns_and_guidance():
    model = patterned_stage(num_hidden_layers=1)
    assert same_tokens(model, "compile", batch_sizes=(1,), num_frames=4) == 4


@pytest.mark.parametrize("backend", ["packed", "graph", "plain"])
def test_more_steps_than_learned_positions_are_refused_by_name(static, backend):
    model = tiny_stage("coarse", max_position_embeddings=12)
    assert model.generate(6, fast=backend, **conditions(model, 2, 4)).shape == (2, 6, 2)
    with pytest.raises(ValueError, match=r"'coarse' has 14 steps, more than the 12 learned positions"):
        model.generate(7, fast=backend, **conditions(model, 2, 4))
    model = patterned_stage(max_position_embeddings=9)
    given = {name: ids for name, ids in inputs_of(model).items() if not name.startswith("acoustic")}
    assert model.generate(6, fast=(backend, "plain"), **given).shape == (2, 6, 4)
    with pytest.raises(ValueError, match="'acoustic' has 10 steps"):
        model.generate(7, fast=(backend, "plain"), **given)


def test_every_back_end_is_one():
    for name in BACKENDS:
        chosen = backend_class(name)
        assert issubclass(chosen, Backend)
        assert chosen.name == name
    assert AUTOMATIC[-1] == "plain", "what serves everything stands last"


@pytest.mark.parametrize(
    ("fast", "request_", "reason"),
    [
        ("graph", {}, "records CUDA graphs.*on cpu"),
        ("int8", {}, "for a stage in bfloat16 on a CPU; this one is in torch.float32"),
        ("compile", {"num_rows": 3}, "up to 2 rows; this call has 3"),
        ("packed", {"use_cache": False}, "`use_cache=False` forbids"),
        (("graph", "int8"), {}, "records CUDA graphs.*`fast='int8'` is for"),
    ],
)
def test_a_named_one_says_why_it_does_not_serve(fast, request_, reason):
    model = tiny_stage("semantic")
    settings = {"streams": conditions(model, 1), "num_rows": 1, "num_steps": 4, **request_}
    with pytest.raises(ValueError, match=reason):
        choose_backend(model, Request(**settings), fast)
    assert choose_backend(model, Request(**settings)).name in AUTOMATIC


def test_what_a_stage_has_of_its_own_goes_the_plain_way_and_is_named():
    model = tiny_stage("semantic")
    handle = model.decoder.norm.register_forward_hook(lambda *_: None)
    request = Request(conditions(model, 1), 1, 4)
    assert choose_backend(model, request).name == "plain"
    with pytest.raises(ValueError, match="does not call the hooks that a MusicLMLayerNorm of this stage has"):
        choose_backend(model, request, "packed")
    handle.remove()
    assert choose_backend(model, request, True).name == "packed"
    assert choose_backend(model, request, False).name == "plain"
    with pytest.raises(ValueError, match="in evaluation mode"):
        choose_backend(model.train(), request, "packed")
