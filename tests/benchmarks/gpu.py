"""One short run on a GPU: is decoding right there, how fast is it, and training, and MusicGen beside.

python -m tests.benchmarks.gpu --minutes 6 --json gpu.json

Correctness comes first. Every part is a process of its own with a share of the time; what a part has measured when its
time is over is kept, and what it has not is listed. It needs torch, triton, transformers and this repository.
`--tiny --device cpu` rehearses it anywhere, with small stages, in Triton's interpreter.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

#: each part's share of the time that is left when it begins, against those after it
PARTS = {"correctness": 3, "steps": 3, "kernels": 1, "blocks": 2, "pieces": 3, "training": 3, "musicgen": 2}
#: processes that check at the same time: most of a check is the compiling of its kernels
CHECKS_TOGETHER = 7
RACE_BATCHES = [1, 2, 3, 5, 8, 16, 64]
#: what was measured before, on an H100 80 GB on 2026-11-26 (large size, bfloat16), and what is expected now
BEFORE = {
    "step, batch 1, chosen": ("20 ms (0.67 recorded)", "0.4 ms"),
    "step, batch 8, chosen": ("15 ms (2.45 recorded)", "0.55 ms"),
    "step, batch 16, chosen": ("1.27 ms recorded", "0.6 ms"),
    "step, batch 64, chosen": ("17 ms (1.56 recorded)", "0.95 ms"),
    "step, batch 1, torch": ("2.09 ms", "2.1 ms"),
    "step, batch 8, torch": ("2.56 ms", "2.6 ms"),
    "step, batch 64, torch": ("3.27 ms", "3.3 ms"),
    "step, batch 1, int8": ("", "0.3 ms"),
    "piece of 10 s, batch 1": ("44.8 s (3.27 recorded)", "1.8 s: 5.6 audio s/s"),
    "piece of 10 s, batch 8": ("8.4 s recorded", "2.6 s: 31 audio s/s"),
    "piece of 10 s, batch 64": ("10.8 s recorded", "5.4 s: 118 audio s/s"),
    "piece of 30 s, batch 1": ("7.07 s recorded", "4.5 s"),
    "first audio, batch 1": ("0.72 s recorded", "0.5 s"),
    "first audio, batch 1, a short first window": ("", "0.35 s"),
    "training step, masks": ("0.385 s, 5 % of the peak, 28.9 GB", "0.3 s"),
    "training step, flex": ("", "0.25 s"),
    "training step, flex, layers compiled": ("nothing within 150 s", "0.09 s, 25 % of the peak"),
    "MusicGen small, batch 1": ("0.31 audio s/s", ""),
    "MusicGen small, batch 64": ("20.3 audio s/s", ""),
    "MusicGen medium, batch 1": ("0.25 audio s/s", ""),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--runs", type=int, default=200, help="repetitions of the race test")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small stages and few repetitions: a rehearsal")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # a process for one part, its rows to --json
    parser.add_argument("--share", type=int, nargs=2, default=[0, 1], help=argparse.SUPPRESS)
    return parser.parse_args()


# --------------------------------------------------------------------------------------------------------- stages


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


# ---------------------------------------------------------------------------------------------------------- parts


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
    for batch in setting.batches:
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
        if not setting.args.tiny:  # the first piece of a shape also records its steps
            first = seconds_of(pipe, length, batch)[0]
        seconds, heard, peak = seconds_of(pipe, length, batch)
        measured = f"{seconds:.2f} s: {batch * length / seconds:.1f} audio s/s, {peak / 1e9:.1f} GB"
        if first is not None:
            measured += f" (the first time {first:.2f} s)"
        yield {"what": f"piece of {length:g} s, batch {batch}", "measured": measured, "value": seconds}
        yield {"what": f"first audio, batch {batch}", "measured": f"{heard:.2f} s", "value": heard}
        for _ in range(1 if setting.args.tiny else 2):  # the first time also records the short windows
            stream = pipe.stream(["x"] * batch, length, first_window_in_s=min(length, 1.0))
            next(stream)
        heard = stream.time_to_first_audio_in_s
        what = f"first audio, batch {batch}, a short first window"
        yield {"what": what, "measured": f"{heard:.2f} s", "value": heard}


def training(setting: Setting) -> Iterator[dict]:
    """Whole training steps of the coarse stage under bfloat16 autocast, batch 8."""
    from open_musiclm.training.speed import compile_layers

    from .machine import PeakMemory, measure_floor
    from .training import operations, step_seconds

    torch, batch = setting.torch, 2 if setting.args.tiny else 8
    cuda = setting.device.type == "cuda"
    peak = measure_floor(setting.device, torch.bfloat16).operations_a_second if cuda else None
    ways = [("masks", "sdpa", False)] + (
        [("flex", "flex_attention", False), ("flex, layers compiled", "flex_attention", True)] if cuda else []
    )
    for name, attention, compiled in ways:
        stage = setting.stage("coarse", torch.float32)
        stage.set_attn_implementation(attention)
        stage.train()
        if compiled:
            compile_layers(stage)
        rows, tokens = setting.window(stage)
        sizes = [(tokens if stream is stage.streams[-1] else None, stream) for stream in stage.streams]
        ids = {}
        for size, stream in sizes:
            frames = 1 if stream.frame_rate is None else int(stage.config.window_in_s * stream.frame_rate)
            size = size or (frames - stream.num_edge_frames) * stream.num_codebooks
            ids[stream.argument] = torch.randint(stream.codebook_size, (batch, size)).to(setting.device)
        labels = ids[stage.streams[-1].argument]
        with PeakMemory(setting.device) as memory:
            taken = step_seconds(stage, ids, labels, 1 if setting.args.tiny else 7, autocast=True)
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


# ------------------------------------------------------------------------------------------------------ processes


def run_part(args: argparse.Namespace) -> None:
    """In a process of its own: a line of JSON for each row, as soon as there is one."""
    part: Callable[[Setting], Iterator[dict]] = globals()[args.part]
    setting = Setting(args)
    with open(args.json, "a") as file:
        context = setting.torch.enable_grad() if args.part == "training" else setting.torch.no_grad()
        with context:
            for row in part(setting):
                print(json.dumps(row), file=file, flush=True)


def start_parts(name: str, args: argparse.Namespace, folder: str) -> list[tuple[subprocess.Popen, Path]]:
    """The processes of a part and where they write."""
    count = CHECKS_TOGETHER if name == "correctness" and args.device == "cuda" else 1
    started = []
    for index in range(count):
        rows = Path(folder) / f"{name}-{index}.jsonl"
        rows.touch()
        command = [sys.executable, "-m", "tests.benchmarks.gpu", "--part", name, "--share", str(index), str(count),
                   "--device", args.device, "--runs", str(args.runs), "--json", str(rows)]  # fmt: skip
        command += ["--tiny"] if args.tiny else []
        log = open(rows.with_suffix(".log"), "w")  # noqa: SIM115  (the process writes to it)
        started.append((subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT), rows))
    return started


def measure(args: argparse.Namespace) -> dict:
    """All parts, one after another, within the time; what there is, is printed and written after each."""
    ends = time.monotonic() + args.minutes * 60
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for place, name in enumerate(args.parts):
            left = ends - time.monotonic()
            limit = left * PARTS[name] / sum(PARTS[each] for each in args.parts[place:])
            started = time.monotonic()
            processes = start_parts(name, args, folder)
            ended, rows, trouble = [], [], []
            for process, path in processes:
                try:
                    ended.append(process.wait(max(started + limit - time.monotonic(), 0.1)))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    trouble.append(f"stopped after {limit:.0f} s")
                rows += [json.loads(line) for line in path.read_text().splitlines()]
                if ended and ended[-1]:
                    trouble += path.with_suffix(".log").read_text().strip().splitlines()[-1:]
            results[name] = {
                "seconds": time.monotonic() - started,
                "finished": not trouble and not any(ended),
                "trouble": trouble,
                "rows": rows,
            }
            print(f"{name}: {len(rows)} rows in {results[name]['seconds']:.0f} s", flush=True)
            for row in rows:  # a run that is cut off has said what it knows
                print(f"  {row['what']}: {row['measured']}", flush=True)
            write(args, results)
    return results


def write(args: argparse.Namespace, results: dict, machine: str | None = None) -> None:
    """All figures so far to `--json`, aside and renamed."""
    if args.json is not None:
        aside = args.json.with_name(f"{args.json.name}.part")
        aside.write_text(json.dumps({"machine": machine, "parts": results}, indent=1, ensure_ascii=False))
        aside.replace(args.json)


def main() -> None:
    args = arguments()
    if args.device == "cpu":  # before anything imports triton
        os.environ["TRITON_INTERPRET"] = "1"
    if args.part is not None:
        run_part(args)
        return
    results = measure(args)
    import torch

    from .machine import describe, table

    machine = describe(torch.device(args.device))
    write(args, results, machine)
    print(f"\n{machine}\n")
    rows = [
        [name, row["what"], row["measured"], *BEFORE.get(row["what"], ("", ""))]
        for name, part in results.items()
        for row in part["rows"]
    ]
    print(*table(["part", "what", "measured", "before", "predicted"], rows), sep="\n")
    unfinished = {name: part["trouble"] for name, part in results.items() if not part["finished"]}
    print("\n" + (f"Not finished: {unfinished}" if unfinished else "All parts finished."))
    wrong = [row["what"] for row in results.get("correctness", {"rows": []})["rows"] if not row["right"]]
    sys.exit(f"WRONG on this device: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
