"""`open-musiclm edit`: a recording in, a recording out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..given import as_length, shown
from .loading import add_model_arguments, load_pipeline, quiet_libraries
from .other_systems import continue_with_system, is_other_system

WAYS = ("continue", "replace", "extend", "vary", "repeat", "loop", "remake")
#: those that make candidates, of which what follows chooses
JUDGED = ("replace", "extend", "vary", "loop")
EPILOG = """examples:
  open-musiclm edit song.wav continue --duration 10 -o longer.wav          (ten seconds more, from its end)
  open-musiclm edit song.wav replace --start 4 --stop 6 -o mended.wav      (the region anew)
  open-musiclm edit song.wav extend --start 6 --duration 4                 (four seconds more at 0:06)
  open-musiclm edit song.wav vary --start 0 --stop 5 --prompt "on an organ"
  open-musiclm edit song.wav repeat --start 4 --stop 8                     (the region twice)
  open-musiclm edit song.wav loop                                          (its end runs into its beginning)
  open-musiclm edit song.wav remake --prompt "loud drums"                  (its structure with another sound)
  open-musiclm edit phone.mp3 remake --keep coarse                         (its coarse tokens, the rest made anew)

Every sample outside the region stays as it is. Without a prompt the recording itself is what is asked for.
"""


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "edit",
        help="continue, change or loop a recording",
        description="Continue, replace, extend, vary, repeat, loop or remake a recording.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recording", metavar="FILE", help="a sound file")
    parser.add_argument("way", choices=WAYS, help="what to do with it")
    parser.add_argument("--output", "-o", default="edited.wav", help=".wav or .flac (default: %(default)s)")
    parser.add_argument("--prompt", "-p", help="what the new part should be like")
    parser.add_argument(
        "--start", type=float, default=0.0, metavar="SECONDS", help="of the region (default: its beginning)"
    )
    parser.add_argument("--stop", type=float, metavar="SECONDS", help="of the region (default: the recording's end)")
    parser.add_argument(
        "--duration", "-d", type=float, metavar="SECONDS", help="of what is made (default: the region's; 10)"
    )
    parser.add_argument(
        "--keep", metavar="STREAM", help="remake: the tokens to keep (default: those of the first stage)"
    )
    parser.add_argument("--decode-up-to", metavar="STREAM", help="remake: decode the codes up to this stream only")
    parser.add_argument("--num-samples", "-n", type=int, default=1, help="variants (default: %(default)s)")
    parser.add_argument(
        "--num-candidates", type=int, default=4, help="made for each; what follows chooses (default: %(default)s)"
    )
    parser.add_argument("--guidance-scale", type=float, metavar="SCALE", help="lead towards the prompt, 3 say")
    parser.add_argument("--seed", type=int, help="the same seed gives the same samples (default: a random one)")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..audio import audio_format
    from ..outputs import try_folder
    from .generate import MOST_CANDIDATES, MOST_FILES, check_seed, output_paths

    if not Path(args.recording).is_file():
        raise ValueError(f"there is no file {args.recording!r}.")
    if args.decode_up_to is not None and args.way != "remake":
        raise ValueError("--decode-up-to is for remake: the other ways join what is made to the recording.")
    if args.num_samples < 1 or args.num_candidates < 1:
        raise ValueError("--num-samples and --num-candidates must be at least 1.")
    for name, count, most in (
        ("--num-samples", args.num_samples, MOST_FILES),
        ("--num-candidates", args.num_candidates, MOST_CANDIDATES),
    ):
        if count > most:
            raise ValueError(f"{name} must be at most {most}, got {shown(count)}.")
    if args.duration is not None:
        as_length("--duration", args.duration)
    check_seed(args.seed)
    audio_format(args.output)
    paths = output_paths(args.output, args.num_samples)
    for path in paths:
        if path.is_dir() or (path.exists() and not args.overwrite):
            raise ValueError(f"{str(path)!r} is already there; pass --overwrite to replace it.")
    try_folder(paths[0].parent)

    import torch

    from ..pipelines.arguments import check_batch
    from ..pipelines.mixtures import Recording

    quiet_libraries()
    num_each = args.num_candidates if args.way in JUDGED else 1
    check_batch(args.num_samples, num_each)
    recording = Recording.read(args.recording)
    if is_other_system(args.model, args.revision):
        return continue_with_system(args, recording, paths)
    pipe = load_pipeline(args.model, args.device, args.dtype, args.revision)
    seed = args.seed if args.seed is not None else torch.Generator().seed() % 2**31
    arguments = {"prompt": args.prompt}
    if args.guidance_scale is not None:
        arguments["guidance_scale"] = args.guidance_scale
    number = args.num_samples * num_each
    generators = [torch.Generator().manual_seed((seed + row) % 2**63) for row in range(number)]
    stop = recording.length_in_s if args.stop is None else args.stop
    rate = recording.sampling_rate
    if args.way == "continue":
        audios = pipe.continue_audio(
            recording, args.duration or 10.0, num_variants=args.num_samples, generator=generators, **arguments
        ).audios
    elif args.way == "loop":
        audios = pipe.loop_audio(
            recording, num_candidates=args.num_candidates, generator=generators[: args.num_candidates], **arguments
        ).audios
    elif args.way == "remake":
        audios = pipe.remake_audio(
            recording,
            args.keep,
            num_waveforms=args.num_samples,
            generator=generators,
            decode_up_to=args.decode_up_to,
            **arguments,
        )
        rate = pipe.sampling_rate
    else:
        start = stop if args.way == "extend" and args.stop is not None else args.start
        audios = pipe.edit_audio(
            recording,
            start,
            start if args.way == "extend" else stop,
            args.way,
            args.duration if args.duration is not None or args.way != "extend" else 10.0,
            num_variants=args.num_samples,
            num_candidates=args.num_candidates,
            generator=generators,
            **arguments,
        ).audios
    return keep_edited(args, paths, audios, rate, seed)


def keep_edited(args: argparse.Namespace, paths: list[Path], audios: Any, rate: int, seed: int) -> int:
    """Write the variants (variants, channels, samples), and say so; the exit code."""
    from .generate import keep

    told = {"edited": args.way, "recording": Path(args.recording).name, "prompt": args.prompt, "seed": seed}
    for path, audio in zip(paths, audios, strict=False):
        kept = keep(path, audio, rate, told, args.overwrite)
        print(f"{kept}  ({audio.shape[-1] / rate:.2f} s, seed {seed})", flush=True)
    return 0
