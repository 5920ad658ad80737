"""What a finished run leaves: a stage, or the whole pipeline with the stage in its place, and the adapters if any."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer

from ..data.records import TokenRecord, write_whole
from ..hub.model_card import card_of_components, is_hub_id, model_card, parts_of_folder
from ..hub.pipelines import LIBRARY, loader_index, write_code_files
from ..hub.publishing import CARD_FILE
from .base_stage import check_links, load_base, stage_component
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
            if plan.precision == "bf16-true":  # as it was trained; merged in float32 and rounded once
                model.to(torch.bfloat16)
        record_origin(plan, record, model.config)
        save = lambda folder: model.save_pretrained(folder, state_dict=weights)  # noqa: E731
        if pipeline_folder is None:
            place(save, output / "stage")
            card_of_components({"": model}, "stage").save(output / "stage" / CARD_FILE)
        else:
            copy_pipeline(pipeline_folder, output, stage_component(pipeline_folder, plan.stage), save)
        write_whole(
            output / SUMMARY_FILE, json.dumps(summarize(plan, trainer, record, pipeline_folder), indent=2) + "\n"
        )
    trainer.accelerator.wait_for_everyone()
    return json.loads((output / SUMMARY_FILE).read_text(encoding="utf-8"))


def record_origin(plan: TrainingPlan, record: TokenRecord, config: Any) -> None:
    """Write into the stage's config what its card is to say: the data, what it started from, the licence."""
    num_files = record.files.get("num_files")
    data = plan.tokens if on_hub(plan.tokens) else f"{Path(plan.tokens).resolve().name}, {num_files} files"
    config.training_data = [*dict.fromkeys([*(getattr(config, "training_data", None) or []), data])]
    if plan.base is not None:
        config.fine_tuned_from = plan.base if on_hub(plan.base) else Path(plan.base).resolve().name
    if plan.license is not None:
        config.license = plan.license


def on_hub(name: str) -> bool:
    return is_hub_id(name) and not Path(name).exists()


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
    """A copy of a pipeline with another stage in it, to be published as it is: loader files and a card of its own.

    Of the source only its components' files and its licence are taken, no code. `model_index.json`, which makes it a
    pipeline, is written last.

    Raises:
        ValueError: a link in the source points out of it.
    """
    index = json.loads((source / "model_index.json").read_text(encoding="utf-8"))
    slots = {name: value for name, value in index.items() if isinstance(value, list) and None not in value}
    components = [name for name in slots if not name.startswith("_") and (source / name).is_dir()]
    for name in components:
        check_links(source, source / name)
        if name != component and not (output / name).exists():
            copy = lambda folder, name=name: shutil.copytree(  # noqa: E731
                source / name, folder, ignore=shutil.ignore_patterns("*.py", "*.pyc", "__pycache__")
            )
            place(copy, output / name)
    for path in source.glob("LICENSE*"):
        check_links(source, path)
        shutil.copyfile(path, output / path.name)
    place(save, output / component)
    write_code_files(output, [name for name in components if slots[name][0] == LIBRARY])
    write_whole(output / CARD_FILE, str(model_card(parts_of_folder(output), output.resolve().name)))
    write_whole(output / "model_index.json", loader_index(index))
