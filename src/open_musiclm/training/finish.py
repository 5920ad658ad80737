"""What a finished run leaves: a stage, or the whole pipeline with the stage in its place, and the adapters if any."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from transformers import Trainer

from ..data.records import TokenRecord, write_whole
from .base_stage import load_base, stage_component
from .lora import load_lora, merge_lora, save_lora
from .plan import TrainingPlan

SUMMARY_FILE = "training.json"


def finished_summary(plan: TrainingPlan) -> dict[str, Any] | None:
    """The summary of a run that is finished, `None` if there are steps to do."""
    path = Path(plan.output) / SUMMARY_FILE
    if not path.is_file():
        return None
    summary = json.loads(path.read_text(encoding="utf-8"))
    return summary if summary["steps"] >= plan.num_steps else None


def finish_run(
    plan: TrainingPlan, trainer: Trainer, record: TokenRecord, pipeline_folder: Path | None
) -> dict[str, Any]:
    """Save the result. The summary is written last: where it is, the result is whole."""
    output = Path(plan.output)
    # a sharded stage is gathered, for which every process is needed
    weights = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        if plan.lora_rank is not None and plan.base is not None:
            place(lambda folder: save_lora(model, folder, weights), output / "adapter")
            base, _ = load_base(plan.stage, plan.base, plan.revision, **plan.config)
            model, weights = merge_lora(load_lora(base, output / "adapter")), None
        save = lambda folder: model.save_pretrained(folder, state_dict=weights)  # noqa: E731
        if pipeline_folder is None:
            place(save, output / "stage")
        else:
            copy_pipeline(pipeline_folder, output, stage_component(pipeline_folder, plan.stage), save)
        write_whole(
            output / SUMMARY_FILE, json.dumps(summarize(plan, trainer, record, pipeline_folder), indent=2) + "\n"
        )
    trainer.accelerator.wait_for_everyone()
    return json.loads((output / SUMMARY_FILE).read_text(encoding="utf-8"))


def summarize(
    plan: TrainingPlan, trainer: Trainer, record: TokenRecord, pipeline_folder: Path | None
) -> dict[str, Any]:
    """What was trained on what, and how it ended."""
    history = trainer.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    evaluations = [entry for entry in history if "eval_loss" in entry]
    return {
        "stage": plan.stage,
        "steps": trainer.state.global_step,
        "loss": losses[-1] if losses else None,
        "evaluation": evaluations[-1] if evaluations else None,
        "best": {"by": plan.best, "step": trainer.state.best_global_step, "value": trainer.state.best_metric},
        "codebooks": {stream.name: stream.codebook_fingerprint for stream in record.streams},
        "result": "pipeline" if pipeline_folder is not None else "stage",
        "history": history,
    }


def place(save: Any, folder: Path) -> None:
    """Save into a folder aside, then put it in the place of what was there."""
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    save(aside)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(aside, folder)


def copy_pipeline(source: Path, output: Path, component: str, save: Any) -> None:
    """A copy of a pipeline with another stage in it; `model_index.json`, which makes it one, is written last."""
    index = output / "model_index.json"
    for part in sorted(source.iterdir()):
        if part.name.startswith(".") or part.name in (
            "model_index.json",
            SUMMARY_FILE,
            "training",
            "samples",
            "adapter",
        ):
            continue
        if part.is_dir() and part.name != component and not (output / part.name).exists():
            place(lambda folder, part=part: shutil.copytree(part, folder), output / part.name)
        elif part.is_file() and (part.suffix in (".py", ".txt") or part.name.startswith("LICENSE")):
            shutil.copyfile(part, output / part.name)
    place(save, output / component)
    write_whole(index, (source / "model_index.json").read_bytes())
