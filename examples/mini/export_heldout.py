"""Held-out music of the mini recipe as files, to evaluate on:

    python examples/mini/export_heldout.py --output work/heldout
    open-musiclm evaluate --model mini --model held-out=work/heldout/held-out \\
        --prompts work/heldout/prompts.csv --reference work/heldout/reference --output work/report

`held-out/` has one clip for each prompt of `prompts.csv`, `reference/` as many others to measure distances to. All are
drawn from another seed sequence than the training pieces, and the prompts from sentence templates that training never
saw.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

from recipe import Recipe
from render import make_clip
from tqdm import tqdm

from open_musiclm.audio import write_audio


def export(output: Path, num_clips: int, recipe: Recipe) -> None:
    """Write `num_clips` held-out clips with a prompt each, and as many clips of reference."""
    rows: list[tuple[str, str]] = []
    for folder in ("held-out", "reference"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    for index in tqdm(range(2 * num_clips), desc="render", unit="clip"):
        audio, record = make_clip(index, "heldout", recipe.seed, recipe.clip_length_in_s, recipe.sampling_rate)
        folder, name = ("held-out", f"p{index:04d}") if index < num_clips else ("reference", f"r{index:04d}")
        write_audio(output / folder / f"{name}.flac", audio / 32767, recipe.sampling_rate)
        if folder == "held-out":
            # the caption that asks for most: what a prompt leaves open cannot be heard to be missing
            rows.append((name, max(record["captions"], key=lambda caption: len(caption["requires"]))["text"]))
    aside = output / ".prompts.csv.part"
    with aside.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "prompt"), *rows])
    os.replace(aside, output / "prompts.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--num-clips", type=int, default=100)
    args = parser.parse_args()
    export(args.output, args.num_clips, Recipe())


if __name__ == "__main__":
    main()
