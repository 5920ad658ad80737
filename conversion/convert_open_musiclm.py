"""Converts Open-MusicLM checkpoints to folders that `from_pretrained` loads.

    python conversion/convert_open_musiclm.py --checkpoint-dir checkpoints --output-dir my-musiclm

`checkpoints` holds what people have: a model config JSON, semantic.transformer.N.pt, coarse.transformer.N.pt,
fine.transformer.N.pt, clap.rvq.N*.pt, kmeans*.joblib. Whatever is there is converted; the rest is listed. For a whole
pipeline name the frozen parts too, by Hub id, folder or original file:

    python conversion/convert_open_musiclm.py --checkpoint-dir checkpoints --output-dir my-musiclm \\
        --clap 630k-audioset-best.pt --codec facebook/encodec_24khz --semantic-encoder m-a-p/MERT-v0

Nothing in a checkpoint is executed. Each part is reloaded from disk and compared with the original's arithmetic.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from assemble import describe_folder, finish_pipeline, upload_folder
from checkpoint_folder import CheckpointFiles, find_checkpoint_files
from component_conversion import convert_clap_quantizer, convert_semantic_quantizer, convert_stage
from convert_clap import DEFAULT_TOKENIZER
from frozen_parts import bring_clap, bring_codec, bring_semantic_encoder
from original_config import STAGES, original_stream, read_original_config
from output_folder import check_free, run_command, whole_folder
from transformers import EncodecModel
from transformers.utils import logging

from open_musiclm.hub.model_card import PIPELINE_PARTS
from open_musiclm.tokenizers.fingerprints import codec_fingerprint

_DTYPES = ("float32", "bfloat16", "float16")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint-dir", type=Path, help="folder with the original's files")
    parser.add_argument(
        "--output-dir", type=Path, required=True, help="folder to write; it appears whole or not at all"
    )
    files = parser.add_argument_group("files outside the folder, or among several in it")
    files.add_argument("--config", type=Path, help="the model config JSON")
    for stage in STAGES:
        files.add_argument(f"--{stage}", type=Path, help=f"{stage}.transformer.N.pt")
    files.add_argument("--clap-rvq", type=Path, help="clap.rvq.N*.pt")
    files.add_argument("--kmeans", type=Path, help="kmeans*.joblib")
    frozen = parser.add_argument_group("frozen parts: a Hub id, a folder, or an original file")
    frozen.add_argument("--clap", help="e.g. 630k-audioset-best.pt or laion/clap-htsat-unfused")
    frozen.add_argument("--clap-tokenizer", default=DEFAULT_TOKENIZER, help="for an original CLAP file (%(default)s)")
    frozen.add_argument("--codec", help="e.g. facebook/encodec_24khz or encodec_24khz-d7cc33bc.th")
    frozen.add_argument("--semantic-encoder", help="e.g. m-a-p/MERT-v0")
    parser.add_argument("--dtype", choices=_DTYPES, help="cast the stages' weights (default: keep every bit)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output folder")
    parser.add_argument("--push-to-hub", metavar="REPO", help="upload the result to this repository")
    parser.add_argument("--private", action="store_true", help="make that repository private")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    logging.disable_progress_bar()
    check_free(args.output_dir, args.overwrite)
    given = {f"{stage}_model": getattr(args, stage) for stage in STAGES}
    given |= {"clap_quantizer": args.clap_rvq, "semantic_quantizer": args.kmeans}
    files = find_checkpoint_files(args.checkpoint_dir, args.config, given)
    print(f"config: {files.config}")
    for note in files.notes:
        print(note)
    with whole_folder(args.output_dir, args.overwrite) as folder:
        missing = convert(files, folder, args)
        describe_folder(folder, title=args.output_dir.name)
    for part in missing:
        print(f"not there: {part}")
    print(f"written: {args.output_dir}")
    if args.push_to_hub:
        print(f"uploaded: {upload_folder(args.output_dir, args.push_to_hub, args.private)}")


def convert(files: CheckpointFiles, folder: Path, args: argparse.Namespace) -> list[str]:
    """Converts everything into `folder`, codebooks first since the stages record theirs; returns what is missing."""
    dtype = getattr(torch, args.dtype) if args.dtype else None
    original = read_original_config(files.config)
    fingerprints: dict[str, str | None] = {}
    quantizers = {
        "clap_quantizer": ("clap", convert_clap_quantizer),
        "semantic_quantizer": ("semantic", convert_semantic_quantizer),
    }
    for component, (stream, convert_quantizer) in quantizers.items():
        if component in files.components:
            path = files.components[component]
            fingerprints[stream], proof = convert_quantizer(path, original, folder / component)
            print(f"{path.name} → {component} ({fingerprints[stream]}); {proof}")
    if args.codec:
        bring_codec(args.codec, folder)
        print(f"{args.codec} → codec")
        fingerprints |= codec_fingerprints(folder / "codec", original)
    for stage in STAGES:
        component = f"{stage}_model"
        if component in files.components:
            path = files.components[component]
            proof = convert_stage(stage, path, original, folder / component, fingerprints, dtype)
            print(f"{path.name} → {component}; {proof}")
    if args.clap:
        for note in bring_clap(args.clap, folder, args.clap_tokenizer):
            print(note)
        print(f"{args.clap} → clap, clap_processor")
    if args.semantic_encoder:
        bring_semantic_encoder(args.semantic_encoder, folder)
        print(f"{args.semantic_encoder} → semantic_encoder")
    missing = files.missing + [f"{part} (--{part})" for part in ("clap", "codec") if not getattr(args, part)]
    if all((folder / part).is_dir() for part in PIPELINE_PARTS):
        finish_pipeline(folder)
        print("assembled: load it with MusicLMPipeline.from_pretrained")
    return missing


def codec_fingerprints(folder: Path, original: dict) -> dict[str, str | None]:
    """Of the codebooks that the coarse and the fine stage use."""
    codec, first, found = EncodecModel.from_pretrained(folder), 0, {}
    for name in ("coarse", "fine"):
        last = first + original_stream(original, name).num_codebooks
        found[name] = codec_fingerprint(codec, first, last)
        first = last
    return found


if __name__ == "__main__":
    run_command(main)
