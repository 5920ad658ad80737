"""`open-musiclm convert`: the original's checkpoints in, a folder that `from_pretrained` loads out."""

from __future__ import annotations

import argparse
from pathlib import Path

from .loading import DTYPES

EPILOG = """examples:
  open-musiclm convert --checkpoint-dir checkpoints --output-dir my-musiclm
  open-musiclm convert --checkpoint-dir checkpoints --output-dir my-musiclm --clap 630k-audioset-best.pt \\
      --codec facebook/encodec_24khz --semantic-encoder m-a-p/MERT-v0
  open-musiclm convert --fine fine.transformer.24000.pt --config my_config.json --output-dir my-fine-stage

`checkpoints` holds what people have: a model config JSON, semantic.transformer.N.pt, coarse.transformer.N.pt,
fine.transformer.N.pt, clap.rvq.N*.pt, kmeans*.joblib. Whatever is there is converted, the rest is listed; with the frozen
parts (--clap, --codec) the result is a whole pipeline.

Nothing in a checkpoint is executed. Each part is reloaded from disk and compared with the original's arithmetic.
"""
STAGES = ("semantic", "coarse", "fine")


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "convert",
        help="make a pipeline of the original Open-MusicLM's checkpoints",
        description="Convert Open-MusicLM checkpoints to folders that from_pretrained loads.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint-dir", type=Path, metavar="DIR", help="folder with the original's files")
    parser.add_argument(
        "--output-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="written whole or not at all, apart from what is read",
    )
    files = parser.add_argument_group("files outside the folder, or among several in it")
    files.add_argument("--config", type=Path, metavar="FILE", help="the model config JSON")
    for stage in STAGES:
        files.add_argument(f"--{stage}", type=Path, metavar="FILE", help=f"{stage}.transformer.N.pt")
    files.add_argument("--clap-rvq", type=Path, metavar="FILE", help="clap.rvq.N*.pt")
    files.add_argument("--kmeans", type=Path, metavar="FILE", help="kmeans*.joblib")
    frozen = parser.add_argument_group("frozen parts: a Hub id, a folder, or an original file")
    frozen.add_argument("--clap", metavar="SOURCE", help="e.g. 630k-audioset-best.pt or laion/clap-htsat-unfused")
    frozen.add_argument(
        "--clap-tokenizer", metavar="SOURCE", default="roberta-base", help="for an original CLAP file (%(default)s)"
    )
    frozen.add_argument("--codec", metavar="SOURCE", help="e.g. facebook/encodec_24khz or encodec_24khz-d7cc33bc.th")
    frozen.add_argument("--semantic-encoder", metavar="SOURCE", help="e.g. m-a-p/MERT-v0")
    parser.add_argument("--dtype", choices=DTYPES, help="cast the stages' weights (default: keep every bit)")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier conversion wrote there")
    parser.add_argument("--push-to-hub", metavar="REPO", help="upload the result to this repository")
    parser.add_argument("--private", action="store_true", help="make that repository private")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..conversion.convert import ConversionRequest, convert_checkpoints
    from .loading import quiet_libraries

    quiet_libraries()
    given = {f"{stage}_model": getattr(args, stage) for stage in STAGES}
    given |= {"clap_quantizer": args.clap_rvq, "semantic_quantizer": args.kmeans}
    request = ConversionRequest(
        checkpoint_dir=args.checkpoint_dir,
        config=args.config,
        given=given,
        clap=args.clap,
        clap_tokenizer=args.clap_tokenizer,
        codec=args.codec,
        semantic_encoder=args.semantic_encoder,
        dtype=args.dtype,
    )
    convert_checkpoints(request, args.output_dir, args.overwrite, args.push_to_hub, args.private)
    return 0
