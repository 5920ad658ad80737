"""Teach the semantic stage of a finished pipeline more, without the corpus that it was trained on:

    python examples/mini/train_on.py --work-dir DIR --steps 1500

It learns from scores, which are composed on the way; the acoustic stages need the tokens of clips. What is not kept in a
pipeline is the table of attributes that its CLAP was trained against: it is fitted anew to where the CLAP hears clips. Stop it whenever you like: the
same command goes on. The weights are left in `DIR/models`, and the whole pipeline with them in `DIR/pipeline`.
"""

from __future__ import annotations

import argparse
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from assemble import assemble_pipeline
from corpus import ATTRIBUTE_VALUES
from features import embed_clips
from recipe import Recipe, Training
from render import make_clip
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from train_clap import AttributeTable
from train_stages import train_stage
from training_loop import time_limit
from transformers import ClapModel, ClapProcessor

from open_musiclm import mini_checkpoint

STAGE = "semantic"
NUM_TABLE_CLIPS = 800


def lay_out(pipeline: Path, models: Path, stage: str) -> None:
    """The parts of a pipeline as the trainings find them, but for the stage that is trained."""
    for part in sorted(path.name for path in pipeline.iterdir() if path.is_dir()):
        if part == f"{stage}_model":
            continue
        target = models / ("clap" if part == "clap_processor" else part)
        shutil.copytree(pipeline / part, target, dirs_exist_ok=True)


def fit_attribute_table(models: Path, recipe: Recipe) -> None:
    """Find the vectors whose sums lie nearest to what the CLAP hears of clips, and save them as `train_clap` does."""
    path = models / "clap" / "attribute_table.safetensors"
    if path.exists():
        return
    clap = ClapModel.from_pretrained(models / "clap", dtype=torch.float32).eval()
    processor, heard, values = ClapProcessor.from_pretrained(models / "clap"), [], []
    for index in tqdm(range(NUM_TABLE_CLIPS), desc="clips", unit="clip"):
        audio, record = make_clip(index, "train", recipe.seed, recipe.clip_length_in_s, recipe.sampling_rate)
        heard.append(embed_clips(clap, processor, torch.from_numpy(audio)[None] / 32767)[0])
        values.append([known.index(record["truth"][name]) for name, known in ATTRIBUTE_VALUES.items()])
    embeddings, given = torch.stack(heard), torch.tensor(values)
    torch.manual_seed(recipe.seed)
    table = AttributeTable(embeddings.shape[1])
    optimizer = torch.optim.Adam(table.parameters(), 0.03)
    for _ in range(600):
        loss = 1 - (table(given) * embeddings).sum(dim=-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"table of attributes: cosine {1 - loss.item():.3f} to what the CLAP hears of {NUM_TABLE_CLIPS} clips")
    save_file({name: vector.contiguous() for name, vector in table.state_dict().items()}, path)


def blend(trained: Path, start: Path, keep: float) -> None:
    """Put the mean of a stage's weights and those that it began with in place of them, once (Wortsman et al. 2022, "Robust
    fine-tuning of zero-shot models"): small batches cost what large ones had taught."""
    done = trained / "blended"
    if not keep or done.exists():
        return
    before = load_file(start / "model.safetensors")
    after = load_file(trained / "model.safetensors")
    mean = {name: torch.lerp(after[name].float(), before[name].float(), keep) for name in after}
    save_file(mean, trained / "model.safetensors.part", metadata={"format": "pt"})
    (trained / "model.safetensors.part").replace(trained / "model.safetensors")
    done.touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="everything is kept here; the same again resumes")
    parser.add_argument(
        "--start", type=Path, default=mini_checkpoint(), help="a pipeline (default: the one in the box)"
    )
    parser.add_argument("--steps", type=int, default=1500, help="(default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="train by the clock instead, on whatever there is")
    parser.add_argument("--batch-size", type=int, default=12, help="whole windows (default: %(default)s)")
    parser.add_argument("--short-windows", type=int, help="in every other batch (default: the recipe's)")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="(default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, help="processes that compose, where there is a GPU (default: the recipe's)"
    )
    parser.add_argument(
        "--keep", type=float, default=0.35, help="share of the weights before in what is saved (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if not 0 <= arguments.keep < 1:
        parser.error(f"--keep must be from 0 to below 1, got {arguments.keep}")
    if arguments.minutes is not None and not arguments.minutes > 0:
        parser.error(f"--minutes must be above 0, got {arguments.minutes}")
    models = arguments.work_dir / "models"
    steps = arguments.steps if arguments.minutes is None else 1_000_000
    recipe = replace(
        Recipe(),
        semantic_stage=Training(steps, arguments.batch_size, arguments.learning_rate),
        num_short_windows=arguments.short_windows or Recipe().num_short_windows,
        num_score_workers=arguments.workers or Recipe().num_score_workers,
    )
    lay_out(arguments.start, models, STAGE)
    fit_attribute_table(models, recipe)
    with nullcontext() if arguments.minutes is None else time_limit(60 * arguments.minutes):
        train_stage(STAGE, arguments.work_dir, arguments.work_dir, models, recipe, start=arguments.start)
    blend(models / f"{STAGE}_model", arguments.start / f"{STAGE}_model", arguments.keep)
    assemble_pipeline(models, arguments.work_dir / "pipeline", recipe)


if __name__ == "__main__":
    main()
