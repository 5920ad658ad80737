"""Converts laion's CLAP checkpoint (HTSAT tiny, base or large, fused or not) to transformers.

    python conversion/convert_clap.py --checkpoint 630k-audioset-best.pt --output-dir clap

The folder then loads with `ClapModel.from_pretrained` and `ClapProcessor.from_pretrained`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from open_musiclm.cli import one_line
from open_musiclm.conversion.clap_conversion import DEFAULT_TOKENIZER, convert_clap
from open_musiclm.conversion.output_folder import whole_folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the original .pt file")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder to write")
    parser.add_argument("--tokenizer", default=DEFAULT_TOKENIZER, help="Hub id or folder (default: %(default)s)")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier conversion wrote there")
    args = parser.parse_args()
    with whole_folder(args.output_dir, args.overwrite, [args.checkpoint, args.tokenizer]) as folder:
        convert_clap(args.checkpoint, folder, folder, args.tokenizer)
    print(f"{args.checkpoint.name} → {args.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(one_line(main, "convert_clap.py"))
