"""The recorded prefill: what is recorded is called here as it is, on buffers that a window before has used."""

import warnings

import pytest
import torch
from goldens import CASES, STAGES, stage_inputs, stage_model
from test_packed import FRAMES, conditions, generators
from tiny import patterned_stage, tiny_stage

from open_musiclm.decoding import cuda_graph, recorded_prefill
from open_musiclm.decoding.cuda_graph import GraphDecoder, StepRecording, forget_oldest
from open_musiclm.decoding.interface import Request
from open_musiclm.decoding.known import REMEMBERED_WINDOWS, KnownWindows
from open_musiclm.decoding.packed_weights import PackedStage, pack_stage
from open_musiclm.decoding.recorded_prefill import KEPT_PREFILLS, PrefillRecording, bytes_of_recording
from open_musiclm.decoding.sampling import StandardSampling

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


@pytest.fixture
def static(monkeypatch):
    """Take the recorded step and prefill on a CPU too, where nothing is recorded."""
    monkeypatch.setattr(cuda_graph, "can_record_steps", lambda device: True)


@pytest.fixture
def calls(monkeypatch):
    """How often recorded prefills are used."""
    made, call = [], PrefillRecording.__call__

    def counted(self, ids):
        made.append(self)
        return call(self, ids)

    monkeypatch.setattr(PrefillRecording, "__call__", counted)
    return made


def both(model, frames, number, device="cpu", **settings):
    """The tokens of the recorded and of the plain loop."""
    settings = {name: value.to(device) if torch.is_tensor(value) else value for name, value in settings.items()}
    made = [
        model.generate(frames, generator=generators(2, 10 * number), fast=fast, **settings)
        for fast in ("graph", False)
    ]
    return made


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("case", CASES)
def test_windows_of_a_shape_are_those_of_the_plain_loop(static, calls, case, stage, device):
    """Three windows after another of each of two shapes, other ids in each, keys hidden in one sample."""
    model, inputs = stage_model(case, stage).to(device), stage_inputs(case, stage)
    beginning = inputs.pop(f"{stage}_token_ids")[:, :3]
    inputs = {name: ids.flatten(1) for name, ids in inputs.items()}
    *_, last = inputs
    for number in range(3):
        streams = {name: ids.roll(number, dims=1).clone() for name, ids in inputs.items()}
        streams[last][number % 2, -2 - number :] = -1
        for prime in ({}, {f"{stage}_token_ids": beginning.roll(number, dims=1)}):
            found, expected = both(model, FRAMES[stage], number, device, **streams, **prime, temperature=0.9)
            assert torch.equal(found, expected), (number, list(prime))
    assert len(calls) == 4, "of each shape, the second and the third window"
    assert len(set(map(id, calls))) == 2
    assert pack_stage(model).known_windows.fault is None


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pattern", ["delay", "parallel"])
def test_patterns_and_guidance(static, calls, pattern, device):
    model = patterned_stage("parallel", pattern).to(device)
    for number in range(3):
        streams = conditions(model, 2, seed=number)
        found, expected = both(model, 6, number, device, **streams, guidance_scale=2.0, force_guidance=True)
        assert torch.equal(found, expected)
    assert len(calls) == 2


@pytest.mark.parametrize("modes", [(torch.inference_mode, torch.no_grad), (torch.no_grad, torch.inference_mode)])
def test_what_is_recorded_serves_with_and_without_inference_mode(static, calls, modes):
    model = tiny_stage("coarse")
    for number in range(6):
        with modes[number // 3]():
            assert torch.equal(*both(model, 6, number, **conditions(model, 2, seed=number)))
    assert len(calls) == 5


def test_other_settings_of_the_prefill_are_another_shape(static, calls):
    """An end of conditioning that is hidden or not; a window of the same ids and more steps."""
    model = tiny_stage("coarse")
    for number in range(2):
        for mask in (True, False):
            for frames in (6, 7):
                settings = conditions(model, 2, seed=number) | {"mask_condition_eos": mask}
                assert torch.equal(*both(model, frames, number, **settings))
    assert len(set(map(id, calls))) == 4


@pytest.mark.parametrize("part", ["keys", "values", "conv_inputs", "hidden_keys", "logits"])
def test_a_recording_that_does_something_else_is_not_used(static, monkeypatch, calls, part):
    initialise = PrefillRecording.__init__

    def initialise_wrongly(self, prefill, ids, state, *sizes):
        """Its recording leaves one number of a part out."""

        def record(function, device):
            def replay():
                written = logits if part == "logits" else getattr(state, part)
                before = written.view(-1)[0].clone()
                logits.copy_(function())
                written.view(-1)[0] = before
                return logits

            logits = function().clone() + 1.0
            return replay

        monkeypatch.setattr(recorded_prefill, "record", record)
        initialise(self, prefill, ids, state, *sizes)

    monkeypatch.setattr(PrefillRecording, "__init__", initialise_wrongly)
    model = tiny_stage("coarse")
    said = []
    for number in range(4):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert torch.equal(*both(model, 6, number, **conditions(model, 2, seed=number)))
        said += [str(each.message) for each in caught if "Prefills" in str(each.message)]
    assert not calls
    assert len(said) == 1
    assert f"its {part.replace('_', ' ')} are others" in said[0]


def test_what_cannot_be_recorded_is_computed_as_it_is(static, monkeypatch, calls):
    def refuse(function, device):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(recorded_prefill, "record", refuse)
    model = tiny_stage("coarse")
    assert torch.equal(*both(model, 6, 0, **conditions(model, 2)))
    with pytest.warns(UserWarning, match="Prefills are not recorded here: RuntimeError: operation not permitted"):
        assert torch.equal(*both(model, 6, 1, **conditions(model, 2, seed=1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(*both(model, 6, 2, **conditions(model, 2, seed=2)))
    assert not calls


def test_few_are_kept_and_none_that_is_too_large(static, calls, monkeypatch):
    model = tiny_stage("coarse")
    for _ in range(2):  # beginnings of another length are windows of another shape, over one recorded step
        for given in range(KEPT_PREFILLS + 2):
            streams = conditions(model, 1)
            model.generate(6, fast="graph", **streams, coarse_token_ids=torch.ones(1, given, 2, dtype=torch.long))
    ((_, recording),) = pack_stage(model).recordings
    assert len(recording.prefills) == KEPT_PREFILLS
    one = next(iter(recording.prefills.values())).num_bytes
    assert recording.num_bytes > KEPT_PREFILLS * one * 0.9

    calls.clear()
    monkeypatch.setattr(cuda_graph, "memory_of", lambda device: one / recorded_prefill.MOST_SHARE - 1)
    recording.prefills.clear()
    model.generate(6, fast="graph", **conditions(model, 1), coarse_token_ids=torch.ones(1, 4, 2, dtype=torch.long))
    assert not calls


def test_recordings_are_forgotten_with_what_their_prefills_take():
    packed = PackedStage(tiny_stage("coarse"), repack=False)
    kept = [((), StepRecording(packed, (1, 30, 20), None, False)) for _ in range(3)]
    alone = kept[0][1].num_bytes

    class Large:
        num_bytes = 10 * alone

    kept[1][1].prefills["shape"] = Large()
    forget_oldest(kept, 3.5 * alone)
    assert len(kept) == 1


def test_shapes_that_came_up_long_ago_are_forgotten():
    known = KnownWindows()
    for number in range(REMEMBERED_WINDOWS + 5):
        known.remember((number,), number)
        known.remember((0,), 0)
    assert len(known.first_rows) == REMEMBERED_WINDOWS
    assert (0,) in known.first_rows
    assert (1,) not in known.first_rows


def test_the_memory_is_that_of_all_samples_masks():
    config = tiny_stage("coarse").config
    one, three = (bytes_of_recording(config, batch, 100, torch.float32) for batch in (1, 3))
    assert three - one >= 2 * 3 * config.num_attention_heads * 100 * 100 * 4


def test_a_recording_does_not_keep_its_model(static):
    import gc
    import weakref

    model = tiny_stage("coarse")
    for _ in range(2):
        model.generate(4, fast="graph", **conditions(model, 1))
    ((_, recording),) = pack_stage(model).recordings
    assert recording.prefills
    del recording
    watched = weakref.ref(model)
    del model
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize("bias", ["continuous", "t5", "none"])
@torch.no_grad()
def test_a_prefill_waits_for_no_value(bias):
    """On the meta device anything that asks for one fails: such a thing cannot be recorded."""
    model = tiny_stage("coarse", position_bias_type=bias).to("meta")
    streams = {name: ids.to("meta") for name, ids in conditions(model, 2).items()}
    decoder = GraphDecoder(model, Request(streams, 2, 12, sampling=StandardSampling(16)))
    if bias == "continuous":  # it is computed before, and under an autocast that this device does not know
        decoder.packed._bias_of = lambda length: torch.empty(decoder.num_heads, length, device="meta")
    ids = {**streams, "coarse_token_ids": torch.zeros(2, 4, 1, dtype=torch.long, device="meta")}
    state = StepRecording(decoder.packed, (2, 60, 12), None, False).state
    logits = decoder._fill(state, ids)
    assert logits.shape == (2, 1, 17)
