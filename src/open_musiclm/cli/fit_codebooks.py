"""`open-musiclm fit-codebooks`: a folder of audio in, a CLAP quantizer and a semantic quantizer out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .loading import model_path, pick_device, quiet_libraries

EPILOG = """examples:
  open-musiclm fit-codebooks music/ --model me/my-musiclm --output codebooks/ --device cuda
  open-musiclm fit-codebooks music/ --model me/my-musiclm --output codebooks/ --only clap --max-hours 20
  open-musiclm tokenize music/ --model me/my-musiclm --codebooks codebooks/ --output tokens/

Tokens of new codebooks mean nothing to stages that were trained on others: train those from nothing.
"""


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "fit-codebooks",
        help="fit the CLAP quantizer and the semantic k-means",
        description="Fit the CLAP residual quantizer and the semantic k-means to audio.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="AUDIO_DIR_OR_MANIFEST", help="a folder, or a .csv or .jsonl of files")
    parser.add_argument("--output", "-o", required=True, metavar="DIR", help="folder of the quantizers")
    parser.add_argument("--model", metavar="PIPELINE", help="whose CLAP and encoder (default: the one in the box)")
    parser.add_argument("--revision", help="branch, tag or commit of a Hub id")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps, … (default: a GPU if there is one)")
    parser.add_argument("--only", choices=("clap", "semantic"), help="fit one of the two")
    parser.add_argument("--clap-codebook-size", type=int, metavar="N", help="(default: the pipeline's)")
    parser.add_argument("--num-quantizers", type=int, metavar="N", help="residual steps (default: the pipeline's)")
    parser.add_argument("--semantic-codebook-size", type=int, metavar="N", help="(default: the pipeline's)")
    parser.add_argument("--crop", type=float, default=10.0, metavar="S", help="seconds read at a time (default: 10)")
    parser.add_argument("--max-hours", type=float, help="read no more audio than this")
    parser.add_argument("--batch-size", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..data.discovery import find_audio

    output = Path(args.output)
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"{args.output!r} is not empty; give another --output.")
    if args.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {args.batch_size}.")
    from ..extras import require

    require("sklearn")
    files = find_audio(args.source)
    print(f"{len(files)} files in {args.source}", flush=True)

    from ..data.networks import load_networks
    from ..data.records import write_whole
    from ..outputs import sole_writer, try_folder
    from ..training.codebook_fitting import FittingSettings, fit_codebooks
    from ..training.finish import place

    quiet_libraries()
    only = ("clap", "clap_processor", "clap_quantizer", "semantic_encoder", "semantic_quantizer")
    networks, _ = load_networks(
        model_path(args.model, args.revision), device=pick_device(args.device), revision=args.revision, only=only
    )
    sizes = present_sizes(networks)
    chosen = {name: getattr(args, name) for name in sizes if getattr(args, name) is not None}
    sizes.update(chosen)
    if args.only == "clap":
        sizes["semantic_codebook_size"] = 0
    if args.only == "semantic":
        sizes["num_quantizers"] = 0
    settings = FittingSettings(
        **sizes, crop_in_s=args.crop, max_hours=args.max_hours, batch_size=args.batch_size, seed=args.seed
    )
    with sole_writer(output):
        try_folder(output)
        quantizers, report = fit_codebooks(files, networks, settings)
        for name, quantizer in quantizers.items():
            place(quantizer.save_pretrained, output / name)
        write_whole(output / "report.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    print_report(report, output)
    return 0


def present_sizes(networks: dict[str, Any]) -> dict[str, int]:
    """The sizes of the pipeline's quantizers, or the published ones."""
    clap, semantic = networks.get("clap_quantizer"), networks.get("semantic_quantizer")
    return {
        "clap_codebook_size": 1024 if clap is None else clap.config.codebook_size,
        "num_quantizers": 12 if clap is None else clap.config.num_quantizers,
        "semantic_codebook_size": 1024 if semantic is None else semantic.config.codebook_size,
    }


def print_report(report: dict[str, Any], output: Path) -> None:
    print(f"fitted to {report['num_files']} files, {report['hours']:.2f} h of audio, in {output}")
    for row in report["skipped"]:
        print(f"  left out {row['path']}: {row['reason']} ({row['detail']})")
    for name in ("clap", "semantic"):
        if name not in report:
            continue
        fitted = report[name]
        print(
            f"{name}: {fitted['fingerprint']}, {fitted['num_vectors']} vectors, measured on {fitted['num_held_out']}"
        )
        print("  codebook   error left   perplexity   dead codes")
        for index, row in enumerate(fitted["codebooks"]):
            dead = f"{row['dead_codes']} of {row['codebook_size']}"
            print(f"  {index:8d} {row['reconstruction_error']:12.4f} {row['perplexity']:12.1f}   {dead}")
