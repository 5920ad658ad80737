"""`open-musiclm tokenize`: a folder of audio in, a dataset of tokens out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .loading import model_path, pick_device, quiet_libraries
from .settings import parse_settings

EPILOG = """examples:
  open-musiclm tokenize music/ --output tokens/
  open-musiclm tokenize music/ --output tokens/ --streams melody,tempo,key,genre
  open-musiclm tokenize music/metadata.csv --model me/my-musiclm --output tokens/ --device cuda --batch-size 64
  open-musiclm tokenize music/ --output tokens/ --num-shards 8 --shard-index 3      (one of eight jobs, any scheduler)

Killed and started again, it goes on where it was. Files that cannot be used are listed in report.json with the reason.
"""


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "tokenize",
        help="make tokens of a folder of audio",
        description="Make the tokens of audio files that a pipeline's stages are trained on: parquet shards.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="AUDIO_DIR_OR_MANIFEST", help="a folder, or a .csv or .jsonl of files")
    parser.add_argument("--output", "-o", required=True, metavar="TOKENS", help="folder of the dataset")
    parser.add_argument("--model", metavar="PIPELINE", help="a pipeline (default: the small one in the box)")
    parser.add_argument(
        "--codebooks", metavar="DIR", help="quantizers from `fit-codebooks` in place of the pipeline's"
    )
    about = parser.add_argument_group("what is said about a piece", "streams that stages can be conditioned on")
    about.add_argument(
        "--streams",
        metavar="NAMES",
        help="read these from audio and metadata too: melody,tempo,key,timing,genre,artist,lyrics, or all that the "
        "pipeline's stages have",
    )
    about.add_argument(
        "--labels",
        choices=("stage", "files"),
        default="stage",
        help="whose genres, artists and letters: those of the pipeline's stages, or the files' own (default: "
        "%(default)s, and the files' own where no stage has the stream)",
    )
    about.add_argument(
        "--confidence",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="hide what is heard with less: tempo=0.3 (defaults: melody 0.5, tempo 0.15, key 0.05)",
    )
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, … (default: a GPU if there is one)")
    parser.add_argument("--batch-size", type=int, default=16, help="crops computed together (default: %(default)s)")
    parser.add_argument("--crop", type=float, metavar="S", help="seconds read at a time (default: the longest window)")
    parser.add_argument("--overlap", type=float, metavar="S", help="seconds that crops share (default: a fifth)")
    parser.add_argument(
        "--min-length", type=float, metavar="S", help="leave out shorter files (default: shortest window)"
    )
    parser.add_argument(
        "--silence",
        type=float,
        metavar="DB",
        help="leave out files of which nothing is above this, in dB of full scale (default: -75)",
    )
    parser.add_argument("--files-per-shard", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--decode-threads", type=int, default=2, help="threads that read audio (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes on this machine (default: %(default)s)")
    parser.add_argument("--num-shards", type=int, default=1, metavar="N", help="this is one of N jobs")
    parser.add_argument("--shard-index", type=int, default=0, metavar="I", help="and it is number I, from 0")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    for name in ("batch_size", "files_per_shard", "decode_threads", "workers", "num_shards"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}.")
    if not 0 <= args.shard_index < args.num_shards:
        raise ValueError(f"--shard-index must lie in [0, {args.num_shards}), got {args.shard_index}.")
    if args.workers > 1 and args.num_shards > 1:
        raise ValueError("--workers is for one machine, --num-shards for several jobs: give one of the two.")
    from ..data.discovery import find_audio
    from ..extras import require

    require("datasets", "pyarrow")  # with which shards are written
    num_files = len(find_audio(args.source))  # before anything is loaded
    print(f"{num_files} files in {args.source}", flush=True)

    import torch

    from ..data.job import TokenizingJob
    from ..data.tokenizing import run_tokenizing, write_report
    from ..outputs import sole_writer

    quiet_libraries()
    job = TokenizingJob(
        args.source,
        model=model_path(args.model, args.revision),
        output=args.output,
        codebooks=args.codebooks,
        revision=args.revision,
        device=pick_device(args.device),
        settings={
            "crop_in_s": args.crop,
            "overlap_in_s": args.overlap,
            "min_length_in_s": args.min_length,
            "batch_size": args.batch_size,
            "silence_in_db": args.silence,
        },
        attributes=tuple(name.strip() for name in (args.streams or "").split(",") if name.strip()),
        labels_from=args.labels,
        confidences=parse_settings(args.confidence),
        files_per_shard=args.files_per_shard,
        decode_threads=args.decode_threads,
        num_threads=torch.get_num_threads(),  # another number rounds in another way: tokens would not be one worker's
        progress=True,
    )
    plan, tokenizer = job.prepare()
    with sole_writer(args.output, f"-{args.shard_index}-of-{args.num_shards}"):
        plan.start()
        if args.workers == 1:
            report = run_tokenizing(plan, tokenizer, args.shard_index, args.num_shards, args.decode_threads)
        else:
            del tokenizer
            job.run_in_processes(args.workers)
            report = write_report(plan)
    if report is None:
        missing = sum(not plan.shard_path(shard).is_file() for shard in range(plan.num_shards))
        print(f"this job's shards are done; {missing} of {plan.num_shards} shards are still to be made by other jobs")
        return 0
    return print_report(report, Path(args.output))


def print_report(report: dict[str, Any], output: Path) -> int:
    print(
        f"{report['num_tokenized']} of {report['num_files']} files made into tokens, {report['hours']:.2f} h of audio, "
        f"in {output}"
    )
    for name, share in report.get("known", {}).items():
        print(f"  {name}: known in {share:.0%} of its frames, hidden in the others")
    for row in report["skipped"][:20]:
        print(f"  left out {row['path']}: {row['reason']} ({row['detail']})")
    if report["num_skipped"] > 20:
        print(f"  … and {report['num_skipped'] - 20} more, in {output / 'report.json'}")
    if not report["num_tokenized"]:
        raise ValueError(f"none of the {report['num_files']} files could be used.")
    return 0
