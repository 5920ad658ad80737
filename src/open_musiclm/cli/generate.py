"""`open-musiclm generate`: prompts in, audio files out."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

from .loading import add_model_arguments, load_pipeline, quiet_libraries

EPILOG = """examples:
  open-musiclm generate "a calm piano melody in a minor key" --duration 10 --output song.wav --seed 0
  open-musiclm generate "fast drums" "slow strings" --output pieces.flac        (pieces-1.flac, pieces-2.flac)
  open-musiclm generate "a bright organ" --num-samples 4 --output organ.wav     (organ-1.wav … organ-4.wav)
  open-musiclm generate "a jazz trio" --model me/my-musiclm --device cuda --dtype bfloat16 --output trio.wav

The prompt, the seed, the model and the versions are stored in each file's comment.
"""


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "generate",
        help="make music from a text",
        description="Make music from a text: CLAP tokens, semantic tokens, coarse and fine tokens, waveform.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="what the music should be like")
    parser.add_argument("--output", "-o", default="song.wav", help=".wav or .flac (default: %(default)s)")
    parser.add_argument("--duration", "-d", type=float, default=10.0, help="seconds (default: %(default)s)")
    parser.add_argument("--num-samples", "-n", type=int, default=1, help="files a prompt (default: %(default)s)")
    parser.add_argument(
        "--num-candidates", type=int, metavar="N", help="make N a prompt, keep those nearest to it by CLAP"
    )
    parser.add_argument("--seed", type=int, help="the same seed gives the same samples (default: a random one)")
    parser.add_argument("--temperature", type=float, help="of all three stages (default: what each was saved with)")
    parser.add_argument(
        "--fast",
        choices=("compile", "int8", "graph"),
        help="compile: CPU, one piece at a time, needs a C++ compiler; int8: CPU, bfloat16; graph: CUDA (see docs/performance.md)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def output_paths(output: str, num_files: int) -> list[Path]:
    """`song.wav`, or `song-1.wav`, `song-2.wav`, … for several."""
    path = Path(output)
    if num_files == 1:
        return [path]
    digits = len(str(num_files))
    return [path.with_name(f"{path.stem}-{index:0{digits}d}{path.suffix}") for index in range(1, num_files + 1)]


def run(args: argparse.Namespace) -> int:
    from ..audio import audio_format

    # everything that can be refused is refused before a model is loaded
    if not math.isfinite(args.duration) or args.duration <= 0:
        raise ValueError(f"--duration must be a positive number of seconds, got {args.duration}.")
    if args.num_samples < 1:
        raise ValueError(f"--num-samples must be at least 1, got {args.num_samples}.")
    if args.num_candidates is not None and args.num_candidates < args.num_samples:
        raise ValueError(f"--num-candidates {args.num_candidates} is less than the {args.num_samples} files to keep.")
    if any(not prompt.strip() for prompt in args.prompts):
        raise ValueError("a prompt is empty; say what the music should be like.")
    if args.temperature is not None and not (math.isfinite(args.temperature) and args.temperature > 0):
        raise ValueError(f"--temperature must be a positive number, got {args.temperature}.")
    if args.seed is not None and not 0 <= args.seed < 2**63:
        raise ValueError(f"--seed must lie in [0, 2^63), got {args.seed}.")
    audio_format(args.output)
    paths = output_paths(args.output, len(args.prompts) * args.num_samples)
    for path in paths:
        if not path.parent.is_dir():
            raise ValueError(f"the folder {str(path.parent)!r} does not exist.")
        if path.is_dir() or (path.exists() and not args.overwrite):
            raise ValueError(f"{str(path)!r} is already there; pass --overwrite to replace it.")

    import diffusers
    import torch
    import transformers

    from ..audio import write_audio
    from ..version import __version__

    quiet_libraries()
    pipe = load_pipeline(args.model, args.device, args.dtype, args.revision)
    seed = args.seed if args.seed is not None else torch.Generator().seed() % 2**31
    num_made = args.num_candidates or args.num_samples
    seeds = [seed + index for index in range(len(args.prompts) * num_made)]
    settings = {name: getattr(args, name) for name in ("temperature", "fast") if getattr(args, name) is not None}

    started = time.perf_counter()
    made = pipe(
        args.prompts,
        audio_length_in_s=args.duration,
        num_waveforms_per_prompt=args.num_samples,
        num_candidates=args.num_candidates,
        generator=[torch.Generator().manual_seed(each % 2**63) for each in seeds],
        semantic_settings=settings,
        coarse_settings=settings,
        fine_settings=settings,
    )
    elapsed = time.perf_counter() - started

    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "diffusers": diffusers.__version__,
    }
    for index, (path, audio) in enumerate(zip(paths, made.audios, strict=True)):
        number, place = divmod(index, args.num_samples)  # of the prompt, and among those kept of it
        own_seed = seeds[number * num_made + (place if made.kept is None else int(made.kept[index]))]
        metadata = {
            "prompt": args.prompts[number],
            "seed": own_seed,
            "model": args.model or "mini",
            "revision": args.revision,
            "duration_in_s": args.duration,
            "software": f"open-musiclm {__version__}",
            "versions": versions,
        }
        similarity = ""
        if made.similarities is not None:
            metadata["clap_similarity"] = round(float(made.similarities[index]), 6)
            similarity = f", CLAP similarity {metadata['clap_similarity']:.3f}"
        write_audio(path, audio, pipe.sampling_rate, metadata)
        print(f"{path}  ({args.duration:g} s, seed {own_seed}{similarity})")
    print(f"made {len(seeds) * args.duration:g} s of audio in {elapsed:.1f} s ({pipe.device})")
    return 0
