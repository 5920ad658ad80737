"""Generation: steps against the floor, whole pieces, the original's loop and MusicGen, in one run.

python -m tests.benchmarks.generation --size small --dtype float32 --original path/to/open-musiclm
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from open_musiclm.decoding.compiled import MOST_ROWS
from open_musiclm.decoding.interface import Request
from open_musiclm.decoding.registry import choose_backend
from open_musiclm.pipelines.pieces import windows_a_batch

from . import musicgen, original
from .machine import Floor, PeakMemory, ReadSpeed, describe, measure_floor, synchronize, table
from .models import STAGES, cache_bytes, pipeline, random_stage, weight_bytes
from .original import predicted_steps, stream_lengths


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["small", "large"], default="small")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's)")
    parser.add_argument("--lengths", type=float, nargs="+", default=[4, 10, 30, 120], help="seconds of audio")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--budget-in-s", type=float, default=90, help="longer pieces are summed up from their parts")
    parser.add_argument("--original", metavar="PATH", help="a checkout of zhvng/open-musiclm")
    parser.add_argument("--musicgen", nargs="*", choices=list(musicgen.SIZES), default=[])
    parser.add_argument("--compile", action="store_true", help="also the compiled step (`generate(fast='compile')`)")
    parser.add_argument("--no-plain", action="store_true", help="leave out the plain loop")
    return parser.parse_args()


def decoder_of(kind: str, stage, batch_size: int):
    """A decoder of random conditioning, its window's tokens, and how many of them a stride leaves known."""
    generator = torch.Generator().manual_seed(0)
    config, stream = stage.config, stage.predicted_stream
    frames = int(config.window_in_s * stream.frame_rate) - stream.num_edge_frames
    lengths = stream_lengths(stream.name, frames * stream.num_codebooks)
    ids = [
        torch.randint(each.codebook_size, (batch_size, length), generator=generator).to(stage.device)
        for each, length in zip(stage.streams, lengths, strict=True)
    ]
    streams = {each.argument: token_ids[:, :-1] for each, token_ids in zip(stage.streams[:-1], ids, strict=False)}
    name = {"compiled": "compile", "fast": "packed"}.get(kind, kind)
    return choose_backend(stage, Request(streams, batch_size, ids[-1].shape[1]), name), ids[-1]


@torch.no_grad()
def time_steps(kind: str, stage, batch_size: int, num_steps: int) -> tuple[list[float], float, int]:
    """Seconds of steps around the middle of a window (sorted), of its prefill to there, and keys in the middle."""
    decoder, ids = decoder_of(kind, stage, batch_size)
    middle = ids.shape[1] // 2 // stage.predicted_stream.num_codebooks * stage.predicted_stream.num_codebooks
    first = max(middle - num_steps // 2, 1)
    decoder.prefill(ids[:, :first, None])
    synchronize(stage.device)
    started = time.perf_counter()
    decoder.prefill(ids[:, :first, None])
    synchronize(stage.device)
    prefill = time.perf_counter() - started
    taken = []
    for length in range(first + 1, min(first + 1 + num_steps, ids.shape[1])):
        started = time.perf_counter()
        decoder.decode_one_step(ids[:, :length, None])
        synchronize(stage.device)
        taken.append(time.perf_counter() - started)
    num_keys = sum(stream_lengths(stage.predicted_stream.name, middle)) + len(stage.streams)
    return sorted(taken), prefill, num_keys


def step_rows(
    stages: dict, batches: list[int], floor: Floor, read_speed: ReadSpeed, kinds: list[str]
) -> tuple[list[list[str]], dict]:
    """The table of decoding steps, and the median seconds by (kind, stage, batch)."""
    rows, medians = [], {}
    for batch_size in batches:
        for name, stage in stages.items():
            for kind in kinds:
                if kind == "plain" and batch_size > 8:
                    continue
                if kind == "compiled" and (stage.device.type != "cpu" or batch_size > MOST_ROWS):
                    continue
                speed = read_speed.measure()
                taken, prefill, keys = time_steps(kind, stage, batch_size, 12 if kind == "plain" else 60)
                speed = max(speed, read_speed.measure())
                seconds = taken[len(taken) // 2]
                read = weight_bytes(stage, batch_size) + cache_bytes(stage, keys, batch_size)
                products = 2 * batch_size * weight_bytes(stage) / stage.dtype.itemsize
                least = max(read / speed, products / floor.operations_a_second)
                medians[kind, name, batch_size] = (seconds, prefill / keys)
                rows.append(
                    [
                        name,
                        str(batch_size),
                        kind,
                        f"{seconds * 1e3:.2f}",
                        f"{taken[0] * 1e3:.2f}",
                        f"{batch_size / seconds:.0f}",
                        f"{speed / 1e9:.1f}",
                        f"{least * 1e3:.2f}",
                        f"{least / seconds:.0%}",
                        f"{prefill * 1e3:.0f}",
                    ]
                )
    return rows, medians


def seconds_of(pipe, length: float, batch_size: int, fast: bool | str = True) -> tuple[float, float, int]:
    """A whole piece from CLAP tokens to samples: seconds, seconds to the first second of audio, peak bytes."""
    device = pipe.coarse_model.device
    generators = [torch.Generator().manual_seed(index) for index in range(batch_size)]
    prompts = ["x"] * batch_size
    with PeakMemory(device) as memory, torch.no_grad():
        started = time.perf_counter()
        clap = pipe.encode_prompt(prompts)
        semantic = pipe.generate_semantic_tokens(clap, length, generators, fast=fast)
        coarse = pipe.generate_coarse_tokens(clap, semantic, length, generators, fast=fast)
        fine = pipe.generate_fine_tokens(clap, coarse, length, generators, fast=fast)
        audio = pipe.decode_tokens(coarse, fine, length)
        synchronize(device)
        seconds = time.perf_counter() - started
    if audio.shape[-1] != round(length * pipe.sampling_rate):
        raise AssertionError(f"{audio.shape[-1]} samples for {length} s")
    settings = {"fast": fast}
    stream = pipe.stream(
        prompts, length, generator=generators, semantic_settings=settings, coarse_settings=settings,
        fine_settings=settings,
    )  # fmt: skip
    next(stream)
    return seconds, stream.time_to_first_audio_in_s, memory.bytes


def estimated_seconds(stages: dict, length: float, batch_size: int, medians: dict) -> float:
    """What a piece should take by its steps and prefills; without the codec."""
    total = 0.0
    for name, stage in stages.items():
        windows = predicted_steps(name, length)
        together = 1
        if stage.config.window_in_s == stage.config.window_stride_in_s:
            together = min(windows_a_batch(stage, batch_size), len(windows))
        rows = together * batch_size
        known = min((size for _, stage_name, size in medians if stage_name == name), key=lambda size: abs(size - rows))
        step, prefill_a_row = medians["fast", name, known]
        groups = -(-len(windows) // together)
        for steps in windows[:groups]:
            total += len(steps) * step * max(rows / known, 1) + prefill_a_row * (steps.start + 220) * rows / known
    return total


def original_seconds(args, device: torch.device) -> tuple[dict, dict, list[list[str]]]:
    """The original's step times by stage, its weights converted, and the rows of the table."""
    stages, loops, rows = {}, {}, []
    with tempfile.TemporaryDirectory() as folder:
        for name in STAGES:
            saved = Path(folder) / f"{name}.pt"
            probes = original.probe_lengths(name)
            lengths = [stream_lengths(name, count) for count in probes]
            task = original.job(
                name, args.size, args.original, "steps", device, save=str(saved), lengths=lengths[1:2] + lengths
            )
            measured = original.ask(task)[1:]
            stage, off = original.converted_stage(name, args.size, saved)
            stages[name] = stage.to(device)
            loops[name] = (probes, [each[0] for each in measured])
            rows += [
                [name, str(count), f"{each[0]:.3f}", f"{each[len(each) // 2]:.3f}", f"{off:.1e}"]
                for count, each in zip(probes, measured, strict=True)
            ]
    return stages, loops, rows


def main() -> None:
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    print(describe(device))
    read_speed = ReadSpeed(device, dtype)
    floor = measure_floor(device, dtype, read_speed)
    print(floor, flush=True)

    loops: dict = {}
    if args.original:
        stages, loops, rows = original_seconds(args, device)
        print(f"\nOne step of the original's loop, {args.size}, float32, batch 1 (the same weights as below):")
        header = ["stage", "tokens so far", "best s", "median s", "logits off, of their deviation"]
        print(*table(header, rows), sep="\n", flush=True)
        stages = {name: stage.to(dtype) for name, stage in stages.items()}
    else:
        stages = {name: random_stage(name, args.size, dtype, device) for name in STAGES}

    kinds = ["fast"] + ([] if args.no_plain else ["plain"]) + (["compiled"] if args.compile else [])
    sizes = sorted({*args.batches, 5 if 1 in args.batches else 1, min(16, max(args.batches))})
    rows, medians = step_rows(stages, sizes, floor, read_speed, kinds)
    del read_speed
    print(f"\nDecoding steps, {args.size}, {args.dtype}, in the middle of a window:")
    header = [
        "stage",
        "batch",
        "path",
        "median ms",
        "best ms",
        "tokens/s",
        "GB/s then",
        "floor ms",
        "share",
        "prefill ms",
    ]
    print(*table(header, rows), sep="\n", flush=True)

    pipe = pipeline(args.size, dtype, device, stages)
    rows = []
    for batch_size in args.batches:
        for length in args.lengths:
            estimate = estimated_seconds(stages, length, batch_size, medians)
            if estimate > args.budget_in_s:
                rows.append([f"{length:g}", str(batch_size), f"≈ {estimate:.0f}",
                             f"≈ {batch_size * length / estimate:.2f}", "", "", ""])  # fmt: skip
                continue
            fast = "compile" if args.compile and batch_size == 1 else True
            seconds, first, peak = seconds_of(pipe, length, batch_size, fast)
            compared = ""
            if loops and batch_size == 1:
                theirs = sum(original.loop_seconds(name, length, *loop) for name, loop in loops.items())
                compared = f"{theirs:.0f} s: {theirs / seconds:.0f} ×"
            rows.append([f"{length:g}", str(batch_size), f"{seconds:.2f}", f"{batch_size * length / seconds:.2f}",
                         f"{first:.2f}", f"{peak / 1e9:.2f}", compared])  # fmt: skip
    print("\nWhole pieces, CLAP tokens to samples (≈: summed up from the steps above, without the codec):")
    header = ["length s", "batch", "seconds", "audio s/s", "first audio s", "peak GB", "original (extrapolated)"]
    print(*table(header, rows), sep="\n", flush=True)

    rows = []
    for size in args.musicgen:
        model = musicgen.build(size, dtype, device)
        for batch_size in args.batches[:2] if device.type == "cpu" else args.batches:
            step = musicgen.seconds_a_step(model, batch_size, 24 if device.type == "cpu" else 200)
            steps = 10 * musicgen.FRAME_RATE + 3
            rows.append([size, f"{musicgen.decoder_parameters(model) / 1e6:.0f}", str(batch_size), f"{step * 1e3:.1f}",
                         f"{batch_size * 10 / (steps * step):.2f}"])  # fmt: skip
        del model
    if rows:
        print("\nMusicGen (transformers), its decoder alone, guidance 3:")
        print(*table(["size", "M parameters", "batch", "ms a step", "audio s/s"], rows), sep="\n")


if __name__ == "__main__":
    main()
