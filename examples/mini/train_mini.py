"""From an empty folder to the pipeline in the box:

    python examples/mini/train_mini.py --work-dir DIR

Every step is skipped when its result is there, and a training that was stopped goes on from its last checkpoint, at
most a minute back. Needs: open-musiclm (numpy, torch, transformers, accelerate, diffusers).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from archive import pack, unpack
from recipe import Recipe, tiny_recipe


class WorkFolder:
    """Where everything lies, and which steps are done."""

    def __init__(self, root: Path, output: Path | None, recipe: Recipe):
        self.root, self.corpus, self.models = root, root / "corpus", root / "models"
        self.checkpoints, self.tokens, self.output = root / "checkpoints", root / "tokens", output or root / "pipeline"
        root.mkdir(parents=True, exist_ok=True)
        self._remember(recipe)

    def _remember(self, recipe: Recipe) -> None:
        path, text = self.root / "recipe.json", json.dumps(asdict(recipe), indent=2)
        if path.exists() and path.read_text() != text:
            raise ValueError(f"{self.root} was begun with another recipe (see {path}): use another --work-dir")
        aside = path.with_name(f"recipe.{os.getpid()}.part")  # steps may be started side by side
        aside.write_text(text)
        aside.replace(path)

    def is_done(self, step: str) -> bool:
        return (self.root / f"{step}.done").exists()

    def mark_done(self, step: str) -> None:
        (self.root / f"{step}.done").touch()


def render(work: WorkFolder, recipe: Recipe) -> None:
    from render import render_corpus

    for split, num_clips in (("train", recipe.num_train_clips), ("heldout", recipe.num_heldout_clips)):
        render_corpus(work.corpus, split, num_clips, recipe.seed, recipe.clip_length_in_s, recipe.sampling_rate)


def clap(work: WorkFolder, recipe: Recipe) -> None:
    from train_clap import train_clap

    train_clap(work.corpus, work.checkpoints, work.models / "clap", recipe)


def semantic_encoder(work: WorkFolder, recipe: Recipe) -> None:
    from train_semantic_encoder import train_semantic_encoder

    train_semantic_encoder(work.corpus, work.checkpoints, work.models / "semantic_encoder", recipe)


def codec(work: WorkFolder, recipe: Recipe) -> None:
    from train_codec import train_codec

    train_codec(work.corpus, work.checkpoints, work.models / "codec", recipe)


def codebooks(work: WorkFolder, recipe: Recipe) -> None:
    from fit_codebooks import fit_codebooks

    fit_codebooks(work.corpus, work.models, recipe)


def tokenize(work: WorkFolder, recipe: Recipe) -> None:
    from tokenize_corpus import tokenize_corpus

    tokenize_corpus(work.models, work.tokens, recipe)


def stages(work: WorkFolder, recipe: Recipe) -> None:
    from train_stages import train_stages

    train_stages(work.tokens, work.checkpoints, work.models, recipe)


def assemble(work: WorkFolder, recipe: Recipe) -> None:
    from assemble import assemble_pipeline

    assemble_pipeline(work.models, work.output, recipe)


STEPS: dict[str, Callable[[WorkFolder, Recipe], None]] = {
    f.__name__: f for f in (render, clap, semantic_encoder, codec, codebooks, tokenize, stages, assemble)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="everything is kept here; the same again resumes")
    parser.add_argument("--output", type=Path, help="where the pipeline goes (default: `pipeline` in the work folder)")
    parser.add_argument("--steps", default=",".join(STEPS), help="the steps to take, by name (default: all)")
    parser.add_argument("--tiny", action="store_true", help="a few clips and steps, to see that the path runs")
    parser.add_argument(
        "--export", type=Path, help="after each step, pack networks and tokens (no audio) into tars here"
    )
    parser.add_argument("--restore", type=Path, help="first unpack what --export wrote there, on another machine say")
    arguments = parser.parse_args()
    names = arguments.steps.split(",")
    if unknown := [name for name in names if name not in STEPS]:
        parser.error(f"no step is called {', '.join(unknown)}; the steps are {', '.join(STEPS)}")
    recipe = tiny_recipe() if arguments.tiny else Recipe()
    if arguments.restore:
        unpack(arguments.restore, arguments.work_dir)
    work = WorkFolder(arguments.work_dir, arguments.output, recipe)
    for name in names:
        if work.is_done(name):
            print(f"{name}: done before")
            continue
        started = time.monotonic()
        STEPS[name](work, recipe)
        work.mark_done(name)
        print(f"{name}: done in {time.monotonic() - started:.0f} s", flush=True)
        if arguments.export:
            pack(work.root, arguments.export)


if __name__ == "__main__":
    main()
