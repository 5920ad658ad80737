"""Converts the original EnCodec 24 kHz state dict to transformers.

    python conversion/convert_encodec.py --checkpoint encodec_24khz-d7cc33bc.th --output-dir codec

The folder then loads with `EncodecModel.from_pretrained`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from open_musiclm.cli import one_line
from open_musiclm.conversion.encodec_conversion import convert_encodec
from open_musiclm.conversion.output_folder import whole_folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the original .th or .pt file")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier conversion wrote there")
    args = parser.parse_args()
    with whole_folder(args.output_dir, args.overwrite, [args.checkpoint]) as folder:
        convert_encodec(args.checkpoint, folder)
    print(f"{args.checkpoint.name} → {args.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(one_line(main, "convert_encodec.py"))
