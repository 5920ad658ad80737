"""`open-musiclm generate`: prompts in, audio files out."""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..given import as_length, shown
from .loading import add_model_arguments, load_pipeline, model_path, quiet_libraries
from .other_systems import generate_with_system, is_other_system
from .requests import ATTRIBUTES, PLAIN, add_request_arguments, check_requests, request_arguments, understand_prompts

EPILOG = """examples:
  open-musiclm generate "a calm piano melody in a minor key" --duration 10 --output song.wav --seed 0
  open-musiclm generate "fast drums" "slow strings" --output pieces.flac        (pieces-1.flac, pieces-2.flac)
  open-musiclm generate "a bright organ" --num-samples 4 --output organ.wav     (organ-1.wav … organ-4.wav)
  open-musiclm generate "a jazz trio" --model me/my-musiclm --device cuda --dtype bfloat16 --output trio.wav

what else it can be asked for:
  open-musiclm generate "0:00 calm piano | 0:15 add drums" --duration 30 --transition 4
  open-musiclm generate "0.7 * warm strings + 0.3 * song.wav"          (a weighted mixture of texts and recordings)
  open-musiclm generate "a bright organ" --melody hum.wav --tempo 120 --key "A minor" --guidance-scale 3
  open-musiclm generate "drums" --duration 8 --tempo 120 --loop
  open-musiclm edit song.wav continue --duration 10                     (recordings: see `open-musiclm edit --help`)
  open-musiclm generate "a jazz trio" --model facebook/musicgen-small   (other systems, with what they can be asked for)

The prompt, the seed, the model and the versions are stored in each file's comment. Files are written as they are
finished: interrupted, those that are there stay.
"""
#: files of one command
MOST_FILES = 10_000
MOST_CANDIDATES = 1000
#: waveforms made at once; what they sound like does not depend on it
ROWS_AT_ONCE = {"cpu": 8}
ROWS_AT_ONCE_ELSEWHERE = 32


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "generate",
        help="make music from a text",
        description="Make music from a text: CLAP tokens, the tokens of each stage, waveform.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prompts", nargs="*", metavar="PROMPT", help="what the music should be like, in quotes")
    parser.add_argument("--output", "-o", default="song.wav", help=".wav or .flac (default: %(default)s)")
    parser.add_argument("--duration", "-d", type=float, default=10.0, help="seconds (default: %(default)s)")
    parser.add_argument("--num-samples", "-n", type=int, default=1, help="files a prompt (default: %(default)s)")
    parser.add_argument(
        "--num-candidates", type=int, metavar="N", help="make N a prompt, keep those nearest to it by CLAP"
    )
    parser.add_argument("--seed", type=int, help="the same seed gives the same samples (default: a random one)")
    parser.add_argument("--temperature", type=float, help="of all stages (default: what each was saved with)")
    parser.add_argument(
        "--fast",
        choices=("compile", "int8", "graph", "graph-int8"),
        help="compile: CPU, one piece at a time, needs a C++ compiler; int8: CPU, bfloat16; graph: CUDA (see docs/performance.md)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of the CPU (default: the fastest number, by a few steps)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    add_request_arguments(parser)
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def output_paths(output: str, num_files: int) -> list[Path]:
    """`song.wav`, or `song-1.wav`, `song-2.wav`, … for several."""
    path = Path(output)
    if num_files == 1:
        return [path]
    digits = len(str(num_files))
    return [path.with_name(f"{path.stem}-{index:0{digits}d}{path.suffix}") for index in range(1, num_files + 1)]


def check(args: argparse.Namespace) -> list[Path]:
    """Refuse what can be refused before a model is loaded, try the outputs, and return their paths."""
    from ..audio import audio_format
    from ..outputs import try_folder

    as_length("--duration", args.duration)
    if args.num_samples < 1:
        raise ValueError(f"--num-samples must be at least 1, got {args.num_samples}.")
    if args.num_candidates is not None and args.num_candidates < args.num_samples:
        raise ValueError(f"--num-candidates {args.num_candidates} is less than the {args.num_samples} files to keep.")
    if args.num_candidates is not None and args.num_candidates > MOST_CANDIDATES:
        raise ValueError(f"--num-candidates must be at most {MOST_CANDIDATES}, got {args.num_candidates}.")
    check_requests(args)
    num_files = num_prompts(args) * args.num_samples
    if num_files > MOST_FILES:
        raise ValueError(
            f"{num_files} files are more than one command makes ({MOST_FILES}); give another --num-samples."
        )
    if any(not prompt.strip() for prompt in args.prompts):
        raise ValueError("a prompt is empty; say what the music should be like.")
    if args.temperature is not None and not (math.isfinite(args.temperature) and args.temperature > 0):
        raise ValueError(f"--temperature must be a positive number, got {args.temperature}.")
    check_seed(args.seed)
    if args.threads is not None and not 1 <= args.threads <= 1024:
        raise ValueError(f"--threads must lie in [1, 1024], got {args.threads}.")
    model_path(args.model, args.revision)
    audio_format(args.output)
    paths = output_paths(args.output, num_files)
    for path in paths:
        if path.is_dir() or (path.exists() and not args.overwrite):
            raise ValueError(f"{str(path)!r} is already there; pass --overwrite to replace it.")
    try_folder(paths[0].parent)
    return paths


def check_seed(seed: int | None) -> None:
    """Refuse what no generator can begin with."""
    if seed is not None and not 0 <= seed < 2**63:
        raise ValueError(f"--seed must lie in [0, 2^63), got {shown(seed)}.")


def num_prompts(args: argparse.Namespace) -> int:
    """Prompts there are; something else that is asked for counts as one."""
    return max(len(args.prompts), 1)


def announce(args: argparse.Namespace, paths: list[Path]) -> None:
    """Say what was understood, before anything that takes long."""
    where = str(paths[0]) if len(paths) == 1 else f"{paths[0]} … {paths[-1]}"
    if len(args.prompts) <= 1:
        what = f'"{args.prompts[0]}"' if args.prompts else "what is asked for by other arguments than a prompt"
        print(f"{what}, {args.duration:g} s: {where}", flush=True)
        return
    first = ", ".join(f'"{prompt}"' for prompt in args.prompts[:5]) + (", …" if len(args.prompts) > 5 else "")
    hint = ""
    if not any(" " in prompt for prompt in args.prompts):
        hint = f' (for one prompt of several words, write it in quotes: "{" ".join(args.prompts[:5])}")'
    print(f"{len(args.prompts)} prompts, {first}, {args.duration:g} s each: {where}{hint}", flush=True)


def batches(num_prompts: int, num_samples: int, size: int, together: bool) -> Iterator[tuple[range, range]]:
    """Which prompts, and which samples of each, are made at once.

    Args:
        num_samples: made of each prompt.
        size: samples at once.
        together: all samples of a prompt must be made at once (they are ranked).
    """
    if together or num_samples <= size:
        group = max(size // num_samples, 1)
        for first in range(0, num_prompts, group):
            yield range(first, min(first + group, num_prompts)), range(num_samples)
        return
    for prompt in range(num_prompts):
        for first in range(0, num_samples, size):
            yield range(prompt, prompt + 1), range(first, min(first + size, num_samples))


def run(args: argparse.Namespace) -> int:
    paths = check(args)
    announce(args, paths)

    import torch

    from ..decoding.threads import set_num_threads
    from ..outputs import check_room

    quiet_libraries()
    if is_other_system(args.model, args.revision):
        return generate_with_system(args, paths)
    asked_prompts = understand_prompts(args)
    pipe = load_pipeline(args.model, args.device, args.dtype, args.revision)
    num_channels = 2  # at most, of the codecs there are
    check_room(paths[0].parent, len(paths) * round(args.duration * pipe.sampling_rate) * num_channels * 2)
    machine = str(pipe.device)
    if pipe.device.type == "cpu":
        num_threads = set_num_threads(tuple(pipe.chain.stages.values()), args.threads)
        machine += f", {num_threads} thread{'s' * (num_threads > 1)}"
    seed = args.seed if args.seed is not None else torch.Generator().seed() % 2**31
    num_made = args.num_candidates or args.num_samples
    settings = {name: getattr(args, name) for name in ("temperature", "fast") if getattr(args, name) is not None}
    if args.fast == "compile":  # windows side by side are made together, and those the compiled step does not take
        settings["fast"] = ("compile", "packed")

    asked = request_arguments(args, pipe)
    length = asked.pop("audio_length_in_s", args.duration)
    made_tokens: list[dict[str, Any]] = []

    started, num_done, elsewhere = time.perf_counter(), 0, 0
    rows = ROWS_AT_ONCE.get(pipe.device.type, ROWS_AT_ONCE_ELSEWHERE)
    try:
        for prompts, samples in batches(num_prompts(args), num_made, rows, args.num_candidates is not None):
            seeds = [(seed + prompt * num_made + sample) % 2**63 for prompt in prompts for sample in samples]
            num_kept = args.num_samples if args.num_candidates is not None else len(samples)
            made = pipe(
                prompts_of_batch(asked_prompts, prompts),
                audio_length_in_s=length,
                num_waveforms_per_prompt=num_kept,
                num_candidates=args.num_candidates,
                generator=[torch.Generator().manual_seed(each) for each in seeds],
                settings=settings,
                **asked,
            )
            if made.tokens is not None:
                made_tokens.append(made.tokens)
            for index, audio in enumerate(made.audios):
                number, place = divmod(index, num_kept)  # of the batch's prompts, and among those kept of it
                own = place if made.kept is None else int(made.kept[index])
                metadata = describe(args, told_prompt(args, prompts[number]), seeds[number * len(samples) + own])
                similarity = ""
                if made.similarities is not None:
                    metadata["clap_similarity"] = round(float(made.similarities[index]), 6)
                    similarity = f", CLAP similarity {metadata['clap_similarity']:.3f}"
                path = paths[prompts[number] * args.num_samples + samples.start + place]
                kept = keep(path, audio, pipe.sampling_rate, metadata, args.overwrite)
                elsewhere += kept != path
                num_done += 1
                print(f"{kept}  ({args.duration:g} s, seed {metadata['seed']}{similarity})", flush=True)
    except KeyboardInterrupt:
        if num_done:
            print(f"{num_done} of {len(paths)} files are finished and stay", flush=True)
        raise
    if made_tokens:
        import torch

        from ..pipelines.sidecar import save_tokens

        joined = {name: torch.cat([tokens[name] for tokens in made_tokens]) for name in made_tokens[0]}
        save_tokens(args.save_tokens, joined, pipe)
        print(f"{args.save_tokens}  (tokens; --from-tokens goes on from them)", flush=True)
    elapsed = time.perf_counter() - started
    seconds = num_prompts(args) * num_made * length
    print(f"made {seconds:g} s of audio in {elapsed:.1f} s ({machine})")
    return 1 if elsewhere else 0


def prompts_of_batch(prompts: list[Any], places: range) -> Any:
    """What the pipeline takes: a story by itself, several prompts as a list, nothing where there are none."""
    from ..pipelines.story import Story

    if not prompts:
        return None
    return prompts[0] if isinstance(prompts[0], Story) else [prompts[place] for place in places]


def told_prompt(args: argparse.Namespace, place: int) -> str:
    """What a file's metadata says was asked for."""
    if args.prompts:
        return args.prompts[place]
    return Path(args.story).read_text(encoding="utf-8-sig") if args.story is not None else ""


def describe(args: argparse.Namespace, prompt: str, seed: int) -> dict[str, Any]:
    """What is stored beside the samples: enough to make the file again."""
    from ..outputs import made_with

    return {
        "prompt": prompt,
        "seed": seed,
        "model": args.model or "mini",
        "revision": args.revision,
        "duration_in_s": args.duration,
        "asked": {name: value for name in (*PLAIN, *ATTRIBUTES) if (value := getattr(args, name)) is not None},
        **made_with(),
    }


def keep(path: Path, audio: Any, sampling_rate: int, metadata: dict[str, Any], overwrite: bool) -> Path:
    """Write a file where it was asked for, or else, said on stderr, where it can be; the path it has now.

    Raises:
        OSError: it cannot be written anywhere.
    """
    import sys

    from ..audio import write_audio
    from ..outputs import free_name

    reason: OSError | str = "it is there now, written by another command"
    if overwrite or not path.exists():
        try:
            write_audio(path, audio, sampling_rate, metadata)
            return path
        except (OSError, RuntimeError) as error:  # of the system, of libsndfile
            reason = str(error)
    for folder in (path.parent, Path.cwd(), Path.home(), Path(tempfile.gettempdir())):
        other = free_name(folder / path.name)
        try:
            write_audio(other, audio, sampling_rate, metadata)
        except (OSError, RuntimeError):
            continue
        print(f"{str(path)!r} could not be written ({reason}); kept elsewhere", file=sys.stderr)
        return other
    raise OSError(f"{str(path)!r} could not be written ({reason}), and neither could it be elsewhere.")
