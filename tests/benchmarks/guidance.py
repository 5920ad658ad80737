"""Guidance as a token: how near one branch comes to two, and what it saves.

python -m tests.benchmarks.guidance --folder work/ --steps 200
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import torch

from open_musiclm import MusicLMPipeline, mini_checkpoint
from open_musiclm.cli import main as command
from open_musiclm.data import TokenDataset
from open_musiclm.training import CropCollator
from open_musiclm.training.guidance_distillation import measure

from .machine import describe, table, times
from .small_corpus import make_tokens

NUM_FRAMES = 249  # ten seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, required=True, help="clips, tokens and the distilled pipeline are kept here"
    )
    parser.add_argument("--clips", type=int, nargs=2, default=[200, 32], metavar=("TRAIN", "HELDOUT"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--largest", type=float, default=5.0)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.5, 2.5, 3.0, 4.0])
    args = parser.parse_args()
    tokens, _ = make_tokens(args.folder, "train", args.clips[0])
    held_out, _ = make_tokens(args.folder, "heldout", args.clips[1])
    output = args.folder / f"distilled-{args.steps}"
    trained = command(
        ["train", "--stage", "semantic", "--from", str(mini_checkpoint()), "--tokens", str(tokens), "--output", str(output)]
        + ["--distil-guidance", str(args.largest), "--steps", str(args.steps), "--batch-size", str(args.batch_size), "--accumulate", "1"]
        + ["--learning-rate", str(args.learning_rate), "--hold-out", "0", "--set", "lr_scheduler_type=linear"]
    )  # fmt: skip
    if trained:
        raise SystemExit(trained)
    print(describe(torch.device("cpu")))
    history = json.loads((output / "training.json").read_text())["history"]
    print(f"{args.steps} steps in {history[-1].get('train_runtime', float('nan')):.0f} s")

    teacher = MusicLMPipeline.from_pretrained(mini_checkpoint()).semantic_model
    student = MusicLMPipeline.from_pretrained(output).semantic_model
    dataset = TokenDataset.load(held_out, crops_per_file=1)
    batch = CropCollator(student, record=dataset.record)([dataset[index] for index in range(len(dataset))])
    conditions = {"clap_token_ids": batch["clap_token_ids"][:1]}
    rows = []
    for scale in args.scales:
        apart = measure(student, teacher, batch, scale)
        seconds = [
            times(partial(stage.generate, NUM_FRAMES, **conditions, guidance_scale=scale), torch.device("cpu"), 3, 1)[
                0
            ]
            for stage in (teacher, student)
        ]
        rows.append(
            [f"{scale:g}", *(f"{value:.4f}" for value in apart.values()), *(f"{value:.2f}" for value in seconds)]
        )
    header = ["scale", "token: nats a token from two branches", "no guidance: the same", "two branches, s", "token, s"]
    print("\n".join(table(header, rows)))


if __name__ == "__main__":
    main()
