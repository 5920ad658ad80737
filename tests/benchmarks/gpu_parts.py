"""What `gpu.py` measures: each part is a function of its setting and yields rows, as soon as there is one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

#: batches of the race test
RACE_BATCHES = [1, 2, 3, 5, 8, 16, 64]


class Setting:
    """Stages and windows of a run; imports what is heavy."""

    def __init__(self, args: argparse.Namespace):
        import torch

        self.torch, self.args, self.device = torch, args, torch.device(args.device)
        self.dtype = torch.bfloat16
        self.batches = [1, 2] if args.tiny else [1, 8, 16, 64]

    def stage(self, name: str, dtype=None, **config):
        """A stage of the large size with random weights, or of a tiny one."""
        from .models import STAGES

        config_class, model_class = STAGES[name]
        sizes: dict = {}
        if self.args.tiny:
            sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
            window = {"semantic": 1.0, "coarse": 0.4, "fine": 0.2}[name]
            sizes |= {"window_in_s": window, "window_stride_in_s": window / 2 if name != "fine" else window}
            streams = [stream.to_dict() for stream in config_class.from_preset("large").token_streams]
            sizes["streams"] = [each if each["name"] == "clap" else {**each, "codebook_size": 32} for each in streams]
        self.torch.manual_seed(0)
        model = model_class(config_class.from_preset("large", **sizes, **config))
        return model.eval().to(self.device, dtype or self.dtype)

    def window(self, stage) -> tuple[int, int]:
        """Rows and tokens of a whole window."""
        config, rows = stage.config, 0
        for stream in stage.streams:
            frames = 1 if stream.frame_rate is None else int(config.window_in_s * stream.frame_rate)
            tokens = (frames - stream.num_edge_frames) * stream.num_codebooks
            rows += tokens + (1 if stream is stage.streams[-1] else 2)  # a start vector, and EOS of conditioning
        return rows, tokens

    def ids(self, stage, batch_size: int) -> dict:
        """Random ids of a whole window by argument name, (batch, tokens) each."""
        ids = {}
        for stream in stage.streams:
            frames = 1 if stream.frame_rate is None else int(stage.config.window_in_s * stream.frame_rate)
            shape = batch_size, (frames - stream.num_edge_frames) * stream.num_codebooks
            ids[stream.argument] = self.torch.randint(stream.codebook_size, shape).to(self.device)
        return ids

    def steps(
        self, stage, batch_size: int, ways: list[str], int8: bool = False
    ) -> Iterator[tuple[str, object, object]]:
        """Of each way a step in the middle of a window, recorded on a GPU: (way, plain step, step)."""
        from open_musiclm.decoding.packed_weights import PackedStage
        from open_musiclm.decoding.recorded_step import RecordedStep
        from open_musiclm.decoding.sampling import StandardSampling
        from open_musiclm.decoding.static_step import StaticState, TorchStep
        from open_musiclm.decoding.triton_step import TritonStep

        packed = PackedStage(stage, repack=False, int8=int8)
        sampling = StandardSampling(packed.codebook_size, 0.95, 102)
        for way in ways:
            state = StaticState(packed, batch_size, *self.window(stage))
            plain = step = TorchStep(packed, state, sampling, True)
            if way != "torch":
                step = TritonStep(packed, state, sampling, True, overlap=way == "overlapping kernels")
            yield way, plain, RecordedStep(step) if self.device.type == "cuda" else step

    @property
    def kernel_ways(self) -> list[str]:
        if self.device.type != "cuda" or self.torch.cuda.get_device_capability() < (9, 0):
            return ["kernels"]
        return ["overlapping kernels", "kernels"]

    def milliseconds(self, step) -> float:
        """Of a step in the middle of a window, on random keys and values, the median of runs of 50."""
        from .machine import times

        state = step.state
        for buffer in (state.keys, state.values, state.conv_inputs):
            buffer.normal_()
        state.first_row.fill_(state.num_rows - state.num_tokens)
        count = 1 if self.args.tiny else 50

        def run() -> None:
            state.index.fill_(state.num_tokens // 2 - count // 2)
            step.begin()
            for _ in range(count):
                step()

        repeats, warm_up = (1, 0) if self.args.tiny else (7, 2)
        taken = times(run, self.device, repeats, warm_up)
        return taken[len(taken) // 2] / count * 1e3


def correctness(setting: Setting) -> Iterator[dict]:
    """Steps against PyTorch's, and the same to the last bit again and again, in the published width."""
    from open_musiclm.decoding.step_check import find_fault

    torch, args = setting.torch, setting.args
    batches = [1, 2] if args.tiny else RACE_BATCHES
    jobs = [(dtype, batch) for batch in batches for dtype in (torch.bfloat16, torch.float32)]
    for dtype, batch in jobs[args.share[0] :: args.share[1]]:
        stage = setting.stage("coarse", dtype, **({} if args.tiny else {"num_hidden_layers": 2}))
        for way, plain, step in setting.steps(stage, batch, setting.kernel_ways):
            fault = find_fault(plain, step, 2 if args.tiny else args.runs)
            name = f"{way}, {str(dtype).removeprefix('torch.')}, batch {batch}"
            yield {"what": name, "measured": "right" if fault is None else f"WRONG: {fault}", "right": fault is None}


def steps(setting: Setting) -> Iterator[dict]:
    """A step of the coarse stage in the middle of a window, every way, and the one that `generate` chooses."""
    from open_musiclm.decoding.cuda_graph import StepRecording
    from open_musiclm.decoding.packed_weights import PackedStage
    from open_musiclm.decoding.sampling import StandardSampling

    from .machine import measure_floor
    from .models import cache_bytes, weight_bytes

    floor = None
    if setting.device.type == "cuda":
        floor = measure_floor(setting.device, setting.dtype)
        yield {"what": "memory", "measured": str(floor), "value": floor.bytes_a_second}
    stage = setting.stage("coarse")
    rows, tokens = setting.window(stage)
    for batch in sorted({*setting.batches, *([] if setting.args.tiny else [4])}):
        least = None
        if floor is not None:
            read = weight_bytes(stage, batch) + cache_bytes(stage, rows - tokens // 2, batch)
            least = read / floor.bytes_a_second * 1e3
        packed = PackedStage(stage, repack=False)
        shape = batch, rows, tokens
        chosen = StepRecording(packed, shape, StandardSampling(packed.codebook_size, 0.95, 102), True)
        ways = [("chosen", chosen.step)]
        ways += [(way, step) for way, _, step in setting.steps(stage, batch, ["torch", *setting.kernel_ways])]
        ways += [("int8", step) for _, _, step in setting.steps(stage, batch, setting.kernel_ways[:1], int8=True)]
        for way, step in ways:
            value = setting.milliseconds(step)
            measured = f"{value:.3f} ms" + ("" if least is None else f", floor {least:.3f}: {least / value:.0%}")
            if way == "chosen":
                measured += f" ({next(iter(packed.known_steps.fastest.values()), 'torch')})"
            yield {"what": f"step, batch {batch}, {way}", "measured": measured, "value": value, "floor": least}


def prefill(setting: Setting) -> Iterator[dict]:
    """A window of the coarse stage that goes on from the one before, half of it known: as it is, and recorded."""
    from open_musiclm.decoding.cuda_graph import GraphDecoder
    from open_musiclm.decoding.interface import Request
    from open_musiclm.decoding.packed_weights import pack_stage
    from open_musiclm.decoding.sampling import StandardSampling

    from .machine import times

    stage = setting.stage("coarse")
    packed, stream = pack_stage(stage), stage.predicted_stream
    for batch in setting.batches:
        ids = setting.ids(stage, batch)
        beginning = ids.pop(stream.argument)
        sampling = StandardSampling(stream.codebook_size, 0.95, 102)
        request = Request(ids, batch, beginning.shape[1], sampling=sampling)
        steps = beginning[:, : beginning.shape[1] // (2 * stream.num_codebooks) * stream.num_codebooks, None]

        def run(request=request, steps=steps) -> None:
            decoder = GraphDecoder(stage, request)
            decoder.prefill(steps)
            decoder.close()

        def run_as_it_is(run=run) -> None:
            packed.known_windows.first_rows.clear()
            run()

        for way, function in (("as it is", run_as_it_is), ("recorded", run)):
            taken = times(function, setting.device, 1 if setting.args.tiny else 7)
            value = taken[len(taken) // 2] * 1e3
            recorded = any(each.prefills for _, each in packed.recordings if each.state.batch_size == batch)
            measured = f"{value:.2f} ms"
            if way == "recorded" and not recorded:
                measured += f": not recorded, {packed.known_windows.fault or 'it would hold too much memory'}"
            yield {"what": f"prefill, batch {batch}, {way}", "measured": measured, "value": value}


def kernels(setting: Setting) -> Iterator[dict]:
    """Microseconds of each kernel within a step."""
    torch = setting.torch
    if setting.device.type != "cuda":
        return
    stage = setting.stage("coarse")
    for batch in (1, 8, 64):
        for _, _, step in setting.steps(stage, batch, ["kernels"]):
            setting.milliseconds(step)
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                for _ in range(5):
                    step()
                torch.cuda.synchronize()
            for event in sorted(profile.key_averages(), key=lambda event: -event.device_time_total)[:8]:
                each = event.device_time_total / max(event.count, 1)
                measured = f"{each:.1f} µs, {event.count / 5:.0f} a step"
                yield {"what": f"kernel {event.key[:40]}, batch {batch}", "measured": measured, "value": each}


def blocks(setting: Setting) -> Iterator[dict]:
    """Other cuts of products and attention than the ones chosen without a measurement."""
    from open_musiclm.decoding.recorded_step import RecordedStep
    from open_musiclm.decoding.triton_step import Blocks, TritonStep

    stage = setting.stage("coarse")
    alone = [Blocks(outs, 1024, warps) for outs, warps in ((2, 4), (4, 4), (4, 8), (8, 4), (8, 8))]
    many = [
        Blocks(16, 128, 4, 2),
        Blocks(16, 128, 4, 4),
        Blocks(16, 256, 4, 3),
        Blocks(32, 128, 4, 4),
        Blocks(32, 64, 8, 5),
    ]
    if setting.args.tiny:
        alone, many = [Blocks(8, 32, 4)], [Blocks(32, 16, 4)]
    for batch in setting.batches:
        if batch == 16:
            continue
        cuts = [("gates", cut) for cut in (alone if batch == 1 else many)]
        cuts += [("products", cut) for cut in many if batch > 1]
        cuts += [("parts", parts) for parts in ([2] if setting.args.tiny else [2, 4, 8, 16])]
        _, plain, _ = next(setting.steps(stage, batch, ["torch"]))
        for field, cut in cuts:
            parts = cut if field == "parts" else None
            step = TritonStep(plain.packed, plain.state, plain.sampling, True, parts=parts)
            if field != "parts":
                setattr(step, field, cut)
            value = setting.milliseconds(RecordedStep(step) if setting.device.type == "cuda" else step)
            name = f"{field} {cut if field == 'parts' else '/'.join(map(str, cut))}, batch {batch}"
            yield {"what": name, "measured": f"{value:.3f} ms a step", "value": value}


def pieces(setting: Setting) -> Iterator[dict]:
    """Whole pieces from CLAP tokens to samples as `generate` makes them without arguments, and the first audio."""
    from .generation import seconds_of
    from .models import pipeline

    pipe = pipeline(
        "large", setting.dtype, setting.device, {name: setting.stage(name) for name in ("semantic", "coarse", "fine")}
    )
    lengths = [(0.4, 1)] if setting.args.tiny else [(10.0, 1), (10.0, 8), (10.0, 64), (30.0, 1)]
    for length, batch in lengths:
        first = None
        if not setting.args.tiny:  # the first piece of a shape also records its steps, the second its prefills
            first, _ = (seconds_of(pipe, length, batch)[0] for _ in range(2))
        seconds, heard, peak = seconds_of(pipe, length, batch)
        measured = f"{seconds:.2f} s: {batch * length / seconds:.1f} audio s/s, {peak / 1e9:.1f} GB"
        if first is not None:
            measured += f" (the first time {first:.2f} s)"
        yield {"what": f"piece of {length:g} s, batch {batch}", "measured": measured, "value": seconds}
        yield {"what": f"first audio, batch {batch}", "measured": f"{heard:.2f} s", "value": heard}
        for _ in range(1 if setting.args.tiny else 3):  # the first two times also record the short windows
            stream = pipe.stream(["x"] * batch, length, first_window_in_s=min(length, 1.0))
            next(stream)
        heard = stream.time_to_first_audio_in_s
        what = f"first audio, batch {batch}, a short first window"
        yield {"what": what, "measured": f"{heard:.2f} s", "value": heard}


def training(setting: Setting) -> Iterator[dict]:
    """Whole training steps of the coarse stage, batch 8: under bfloat16 autocast, and with weights in bfloat16."""
    from open_musiclm.training.speed import compile_layers

    from .machine import PeakMemory, measure_floor
    from .training import operations, step_seconds

    torch, batch = setting.torch, 2 if setting.args.tiny else 8
    cuda = setting.device.type == "cuda"
    peak = measure_floor(setting.device, torch.bfloat16).operations_a_second if cuda else None
    mixed, rounded = torch.float32, torch.bfloat16
    ways = [("masks", "sdpa", False, mixed), ("masks, bf16 weights", "sdpa", False, rounded)]
    if cuda:
        flex = "flex_attention"
        ways = [
            ways[0],
            ("flex", flex, False, mixed),
            ("flex, bf16 weights", flex, False, rounded),
            ("flex, layers compiled", flex, True, mixed),
            ("flex, bf16 weights, layers compiled", flex, True, rounded),
        ]
    for name, attention, compiled, dtype in ways:
        stage = setting.stage("coarse", dtype)
        stage.set_attn_implementation(attention)
        stage.train()
        if compiled:
            compile_layers(stage)
        rows, _ = setting.window(stage)
        ids = setting.ids(stage, batch)
        labels = ids[stage.streams[-1].argument]
        with PeakMemory(setting.device) as memory:
            taken = step_seconds(stage, ids, labels, 1 if setting.args.tiny else 7, autocast=dtype == mixed)
        value = taken[len(taken) // 2]
        measured = f"{value:.3f} s, {memory.bytes / 1e9:.1f} GB"
        if peak is not None:
            measured += f", {operations(stage, rows, batch) / value / peak:.0%} of the peak"
        yield {"what": f"training step, {name}", "measured": measured, "value": value}


def musicgen(setting: Setting) -> Iterator[dict]:
    """transformers' MusicGen with random weights."""
    from . import musicgen as other

    if setting.args.tiny:
        other.SIZES["tiny"] = (32, 2, 2)
    for size, batches in [("tiny", [1])] if setting.args.tiny else [("small", [1, 64]), ("medium", [1])]:
        model = other.build(
            size, setting.dtype if setting.device.type == "cuda" else setting.torch.float32, setting.device
        )
        for batch in batches:
            step = other.seconds_a_step(model, batch, 4 if setting.args.tiny else 60)
            value = batch * 10 / ((10 * other.FRAME_RATE + 3) * step)
            yield {"what": f"MusicGen {size}, batch {batch}", "measured": f"{value:.2f} audio s/s", "value": value}
