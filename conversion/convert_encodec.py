"""Converts the original EnCodec 24 kHz state dict to transformers.

    python conversion/convert_encodec.py --checkpoint encodec_24khz-d7cc33bc.th --output-dir codec

The folder then loads with `EncodecModel.from_pretrained`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from checkpoint_files import read_state_dict
from encodec_names import encodec_config, encodec_rows
from name_table import apply_name_table, meta_shapes, save_converted
from output_folder import run_command, whole_folder
from transformers import EncodecConfig, EncodecModel


def convert_encodec(checkpoint: str | Path, folder: str | Path) -> None:
    """Writes an `EncodecModel`.

    Raises:
        CheckpointError: The file is damaged or no such checkpoint.
    """
    tensors = read_state_dict(checkpoint)
    config: Any = EncodecConfig(**encodec_config(tensors, checkpoint))
    config.source = Path(checkpoint).name
    shapes = meta_shapes(EncodecModel, config)
    converted = apply_name_table(tensors, encodec_rows(tensors), shapes, checkpoint)
    save_converted(EncodecModel, config, converted, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the original .th or .pt file")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the output folder")
    args = parser.parse_args()
    with whole_folder(args.output_dir, args.overwrite) as folder:
        convert_encodec(args.checkpoint, folder)
    print(f"{args.checkpoint.name} → {args.output_dir}")


if __name__ == "__main__":
    run_command(main)
