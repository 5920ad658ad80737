"""Converts Open-MusicLM checkpoints to folders that `from_pretrained` loads: `open-musiclm convert` from a clone.

python conversion/convert_open_musiclm.py --checkpoint-dir checkpoints --output-dir my-musiclm
"""

import sys

from open_musiclm.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
