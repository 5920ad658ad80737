"""The recorded step: what it computes is tested here on the CPU, that it can be recorded on a GPU."""

import copy

import pytest
import torch
from goldens import CASES, STAGES, stage_inputs, stage_model
from test_packed import FRAMES, conditions, generators
from tiny import tiny_stage

from open_musiclm.decoding import cuda_graph
from open_musiclm.decoding.cuda_graph import GraphDecoder
from open_musiclm.decoding.interface import Request
from open_musiclm.decoding.known import KnownSteps
from open_musiclm.decoding.packed_weights import PackedStage, pack_stage
from open_musiclm.decoding.sampling import StandardSampling
from open_musiclm.decoding.static_step import StaticState, TorchStep
from open_musiclm.decoding.step_check import fastest_right_step, find_fault

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


@pytest.fixture
def static(monkeypatch):
    """Take the static step on a CPU too, where nothing is recorded."""
    monkeypatch.setattr(cuda_graph, "can_record_steps", lambda device: True)


def on(device, streams):
    return {name: each.to(device) for name, each in streams.items()}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("case", CASES)
def test_same_tokens_as_the_plain_loop(static, case, stage, device):
    model, inputs = stage_model(case, stage).to(device), stage_inputs(case, stage)
    beginning = inputs.pop(f"{stage}_token_ids")[:, :3]
    for prime in ({}, {f"{stage}_token_ids": beginning}):
        for settings in ({"temperature": 0.9}, {"do_sample": False}, {"top_k": 0, "mask_condition_eos": False}):
            made = [
                model.generate(
                    FRAMES[stage], generator=generators(2), fast=fast, **on(device, {**inputs, **prime}), **settings
                )
                for fast in ("graph", False)
            ]
            assert torch.equal(*made)
    assert pack_stage(model).recordings, "the recorded step was not taken"


@pytest.mark.parametrize("device", DEVICES)
class TestRuns:
    def test_in_pieces_and_beside_one_another(self, static, device):
        """Two runs of one shape at once have buffers of their own; a third takes those of a finished one."""
        model = tiny_stage("coarse").to(device)
        streams = on(device, conditions(model, 2))
        whole = [model.generate(10, generator=generators(2, seed), fast=False, **streams) for seed in (0, 10)]
        runs = [model.start_generation(10, generator=generators(2, seed), fast="graph", **streams) for seed in (0, 10)]
        for frames in (1, 2, 7, 10):
            for run, expected in zip(runs, whole, strict=True):
                run.advance(frames)
                assert torch.equal(run.frames, expected[:, :frames])
        assert len(pack_stage(model).recordings) == 2
        model.generate(10, generator=generators(2), fast="graph", **streams)
        assert len(pack_stage(model).recordings) == 2

    def test_a_run_that_is_dropped_gives_its_buffers_back(self, static, device):
        model = tiny_stage("coarse").to(device)
        run = model.start_generation(10, fast="graph", **on(device, conditions(model, 2)))
        run.advance(4)
        assert not pack_stage(model).recordings
        del run
        assert len(pack_stage(model).recordings) == 1

    def test_few_recordings_are_kept(self, static, device):
        model = tiny_stage("coarse").to(device)
        for batch_size in range(1, 10):
            model.generate(2, fast="graph", **on(device, conditions(model, batch_size)))
        assert len(pack_stage(model).recordings) == cuda_graph.KEPT_RECORDINGS

    def test_of_unusual_processors_the_logits_are_recorded(self, static, device):
        model = tiny_stage("coarse").to(device)
        streams = on(device, conditions(model, 2))
        made = [
            model.generate(9, generator=generators(2), top_p=0.8, fast=fast, **streams) for fast in ("graph", False)
        ]
        assert torch.equal(*made)
        (key, _) = pack_stage(model).recordings[0]
        assert key[1:] == (None, False)

    def test_steps_are_reported(self, static, device):
        model, steps = tiny_stage("coarse").to(device), []
        model.generate(6, fast="graph", **on(device, conditions(model, 1)), on_token=steps.append)
        assert steps == list(range(1, 13))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pattern", ["delay", "parallel"])
def test_patterns_of_several_tokens_a_step(static, pattern, device):
    """Their logits are recorded, and tokens drawn beside them."""
    condition = {"name": "clap", "codebook_size": 16, "num_codebooks": 3}
    stream = {"name": "coarse", "codebook_size": 16, "num_codebooks": 3, "frame_rate": 50.0, "pattern": pattern}
    model = tiny_stage("coarse", [condition, stream]).to(device)
    streams = on(device, conditions(model, 2))
    made = [model.generate(7, generator=generators(2), fast=fast, **streams) for fast in (True, False)]
    assert torch.equal(*made)
    assert pack_stage(model).recordings, "the recorded step was not taken"


def test_recordings_that_are_kept_do_not_fill_the_memory():
    packed = PackedStage(tiny_stage("coarse"), repack=False)
    kept = [((), cuda_graph.StepRecording(packed, (size, 30, 20), None, False)) for size in (4, 1, 1, 2)]
    newest = kept[-1]
    one = sum(buffer.nbytes for buffer in kept[1][1].state.buffers().values())
    cuda_graph.forget_oldest(kept, 4.5 * one)
    assert [each.state.batch_size for _, each in kept] == [1, 1, 2]
    cuda_graph.forget_oldest(kept, 0)
    assert kept == [newest]


class Faulty(TorchStep):
    """A step that does something wrong: what a check has to find."""

    def __init__(self, fault, *arguments):
        super().__init__(*arguments)
        self.fault, self.calls = fault, 0

    def __call__(self):
        super().__call__()
        self.calls += 1
        state = self.state
        row = state.first_row + state.index - 1
        if self.fault == "convolution":  # the newest input in the slot of one that is still read
            slot = int(row) % state.conv_inputs.shape[2]
            state.conv_inputs[1, :, slot - 1] = state.conv_inputs[1, :, slot]
        elif self.fault == "race" and self.calls == 24:  # the last step of a run
            state.keys[0, 0, row] *= 1.0001
        elif self.fault == "row before":
            state.values[1, 0, 2] *= 1.0001
        elif self.fault == "logits":
            state.logits[1, 3] = torch.nan
        elif self.fault == "sampling":
            state.ids[0] = (state.ids[0] + 1) % self.packed.codebook_size


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (None, None),
        ("convolution", "its logits are off"),
        ("race", "its keys change from run to run"),
        ("row before", "its rows before are off"),
        ("logits", "its logits are off"),
        ("sampling", "it draws other tokens"),
    ],
)
@torch.no_grad()
def test_faults_are_found(fault, found):
    packed = PackedStage(tiny_stage("coarse"), repack=False)
    arguments = packed, StaticState(packed, 2, 30, 20), StandardSampling(packed.codebook_size, 0.9, 7), True
    reason = find_fault(TorchStep(*arguments), Faulty(fault, *arguments))
    assert (reason is None) == (found is None)
    assert found is None or found in reason


@torch.no_grad()
def test_the_fastest_step_that_is_right_is_taken():
    packed = PackedStage(tiny_stage("coarse"), repack=False)
    arguments = packed, StaticState(packed, 2, 30, 20), StandardSampling(packed.codebook_size, 0.9, 7), True
    plain = TorchStep(*arguments)
    steps = {name: Faulty(fault, *arguments) for name, fault in (("slow", None), ("right", None), ("wrong", "race"))}
    times = {plain: 3.0, steps["slow"]: 4.0, steps["right"]: 2.0, steps["wrong"]: 1.0}

    def broken():
        raise RuntimeError("no compiler")

    ways = {"torch": lambda: plain, **{name: lambda n=name: steps[n] for name in steps}, "broken": broken}
    name, step, faults = fastest_right_step(plain, ways, times.__getitem__, KnownSteps())
    assert (name, step) == ("right", steps["right"])
    assert faults.keys() == {"wrong", "broken"}
    assert "change from run to run" in faults["wrong"]
    assert "no compiler" in faults["broken"]
    del ways["right"], ways["wrong"]
    assert fastest_right_step(plain, ways, times.__getitem__, KnownSteps())[0] == "torch"


class Device:
    """Steps of one model at windows of any shape, whose times are given: `times[way](batch, rows, how it ends)`."""

    def __init__(self, broken=()):
        self.packed = PackedStage(tiny_stage("coarse"), repack=False)
        self.broken, self.known, self.made, self.checked = set(broken), KnownSteps(), [], []

    def choose(self, times, batch, rows, sampling, do_sample=True):
        plain = TorchStep(self.packed, StaticState(self.packed, batch, rows, 20), sampling, do_sample)
        self.made = []

        def make(way):
            if way in self.broken:
                raise RuntimeError("no memory")
            step = Named(way, plain)
            self.made.append(way)
            return step

        def milliseconds(step):
            return times[step.way](batch, rows, sampling is None)

        ways = {way: lambda way=way: make(way) for way in times}
        name, step, faults = fastest_right_step(plain, ways, milliseconds, self.known)
        assert step.way == name
        return name, faults


class Named(TorchStep):
    def __init__(self, way, plain):
        super().__init__(plain.packed, plain.state, plain.sampling, plain.do_sample)
        self.way = way


DRAWS = StandardSampling(16, 0.9, 7)
#: kernels are faster than PyTorch's step but for batches above 64, long windows, and steps that end at the logits
TIMES = {
    "torch": lambda batch, rows, ends_at_logits: 2.0,
    "kernels": lambda batch, rows, ends_at_logits: 3.0 if batch > 64 or rows > 40 or ends_at_logits else 1.0,
}


@torch.no_grad()
def test_the_choice_is_never_slower_than_the_recorded_pytorch_step():
    """At another batch, another window and with guidance (which ends at the logits) it is measured again."""
    device = Device()
    for batch in (1, 2, 65):
        for rows in (30, 50):
            for sampling in (DRAWS, None):
                name, _ = device.choose(TIMES, batch, rows, sampling)
                times = {way: time(batch, rows, sampling is None) for way, time in TIMES.items()}
                assert times[name] == min(times.values()), (batch, rows, sampling)
                again, _ = device.choose(TIMES, batch, rows, sampling)
                assert again == name
                assert device.made == [name], "what is known was measured again"


@torch.no_grad()
def test_a_way_is_checked_once_for_a_batch_and_an_ending(monkeypatch):
    from open_musiclm.decoding import step_check

    checked = []
    monkeypatch.setattr(step_check, "find_fault", lambda plain, step: checked.append(plain.state.batch_size))
    device = Device()
    for batch, rows, sampling in ((1, 30, DRAWS), (1, 50, DRAWS), (2, 30, DRAWS), (1, 30, None), (1, 60, None)):
        device.choose(TIMES, batch, rows, sampling)
    assert checked == [1, 2, 1]


@torch.no_grad()
def test_kernels_that_can_no_longer_be_made_give_way():
    device = Device()
    assert device.choose(TIMES, 1, 30, DRAWS) == ("kernels", {})
    device.broken.add("kernels")
    name, faults = device.choose(TIMES, 1, 30, DRAWS)
    assert (name, faults) == ("torch", {"kernels": "RuntimeError: no memory"})
    assert device.choose(TIMES, 1, 31, DRAWS) == ("torch", {})  # said once
    device.broken.add("torch")
    with pytest.raises(RuntimeError, match="no memory"):
        device.choose(TIMES, 1, 32, DRAWS)


def test_a_step_has_no_host_synchronisation():
    """On the meta device anything that asks for a value fails."""
    model = tiny_stage("coarse", max_position_embeddings=64)
    packed = PackedStage(model.to("meta"), repack=False)
    packed._bias_of = lambda length: torch.empty(packed.num_heads, length, device="meta")
    state = StaticState(packed, 2, 60, 40)
    TorchStep(packed, state, StandardSampling(16, 0.9, 3), True)()


def test_a_recording_is_not_kept_by_itself():
    import gc
    import weakref

    model = tiny_stage("coarse")
    packed = pack_stage(model)
    packed.recordings.append((("shape",), cuda_graph.StepRecording(packed, (1, 8, 4), StandardSampling(16), False)))
    watched = weakref.ref(packed)
    del packed, model
    gc.collect()
    assert watched() is None


@needs_gpu
def test_bfloat16_on_a_gpu_is_as_near_to_float32_as_the_plain_loop():
    exact = stage_model("conv_continuous", "coarse")
    inputs = stage_inputs("conv_continuous", "coarse")
    ids = inputs.pop("coarse_token_ids").flatten(1)
    model = copy.deepcopy(exact).cuda().to(torch.bfloat16)
    expected = exact(**inputs, coarse_token_ids=ids).logits[:, -1]
    decoder = GraphDecoder(
        model,
        Request(
            {name: each.flatten(1) for name, each in on("cuda", inputs).items()},
            len(ids),
            ids.shape[1] + 1,
            sampling=StandardSampling(1024),
            do_sample=False,
        ),
    )
    with torch.no_grad():
        decoder.prefill(ids[:, :-1, None].cuda())
        recording = decoder.recording[1]
        recording.begin(ids[:, -1:].cuda(), ids.shape[1] - 1)
        recording.replay()
    error = (recording.state.logits.cpu() - expected).norm() / expected.norm()
    plain = model(**on("cuda", inputs), coarse_token_ids=ids.cuda()).logits[:, -1].float().cpu()
    assert error < 1.5 * (plain - expected).norm() / expected.norm() + 1e-3
