"""What a training run is, recorded so that the same command goes on with it and another one is refused."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ..data.records import TokenRecord, is_part, write_whole
from ..models.stage_kinds import STAGE_KINDS
from .arguments import published_arguments

#: steps of the published checkpoints, for training from nothing
PUBLISHED_STEPS = {"semantic": 14_000, "coarse": 18_000, "fine": 24_000}
STEPS_OF_OTHERS = 18_000
FINE_TUNING_STEPS = 1000
RUN_FILE = "run.json"
PRECISIONS = ("fp32", "bf16", "fp16", "bf16-true")
#: optional streams have to be hidden at times, or the stage cannot do without them (MusicGen, section 4.1)
DROPOUT_WITH_STREAMS = 0.2
#: what runs of earlier versions did not record: there it was as it is by default
LATER = ("streams", "condition_dropout", "pattern", "distil_guidance", "auto_find_batch_size")
#: arguments of the Trainer that the plan itself must decide
OWN_ARGUMENTS = {"output_dir", "max_steps", "num_train_epochs", "resume_from_checkpoint", "remove_unused_columns"}
#: may differ when a run is taken up again: they change how long and how it is watched, not what a step does
FREE = ("steps", "evaluate_every", "save_every", "log_every", "keep_checkpoints", "best", "prompts",
        "prompt_length_in_s", "prompts_every", "output", "device", "num_workers", "license")  # fmt: skip


@dataclass(frozen=True)
class TrainingPlan:
    """A run of `open-musiclm train`.

    Args:
        stage: any stage of the pipeline that is started from, by its component's name, its short one (`"coarse"`), or the
            stream that it predicts; from nothing, a kind of `STAGE_KINDS`.
        tokens: a token dataset's folder or Hub id.
        output: folder of the result.
        base: the pipeline or stage to start from; `None` for random weights.
        revision: of a Hub id.
        preset, config: size of a fresh stage, and fields of its config to change (dropout, …).
        lora_rank: train adapters of this rank instead of the weights.
        streams: of the tokens, those that say something about a piece and that the stage is to be conditioned on beside
            its own; they are optional.
        condition_dropout: probability with which conditioning is hidden; by default the stage's own, or where `streams`
            need one and it has none, `DROPOUT_WITH_STREAMS`.
        pattern: of the predicted stream of a fresh stage, in the place of its own.
        distil_guidance: teach the stage to read its guidance scale as a token, up to this one (guidance_distillation.py).
        steps, batch_size, accumulate, learning_rate, warmup_steps, seed: as usual; `None` for what is recommended.
        auto_find_batch_size: make batches as large as the memory allows (batch_size.py); a step has `batch_size` ·
            `accumulate` clips as ever. The Trainer's argument of this name is taken for it.
        evaluation_tokens: another token dataset to evaluate on.
        hold_out: share (below 1) or number of files held out for evaluation; 0 for none.
        evaluate_every, save_every, log_every, keep_checkpoints: in steps; number of checkpoints.
        prompts, prompt_length_in_s, prompts_every: generated at evaluations, see `EvaluationCallback`.
        best: `"last"`, or the checkpoint best by `"loss"` or `"clap"`.
        precision: `"fp32"`; `"bf16"` or `"fp16"` (mixed: weights in float32, products in the other); `"bf16-true"`
            (weights, gradients and all else in bfloat16; the optimizer keeps float32 copies, see `StageAdamW`).
        check_codebooks: refuse tokens of another codebook.
        streaming: read the tokens as a stream.
        license: of the trained stage, for its model card, as the Hub names licences.
        arguments: further `TrainingArguments`, as they are (FSDP, a tracker, …).
    """

    stage: str
    tokens: str
    output: str
    base: str | None = None
    revision: str | None = None
    preset: str = "small"
    config: dict[str, Any] = field(default_factory=dict)
    lora_rank: int | None = None
    streams: tuple[str, ...] = ()
    condition_dropout: float | None = None
    pattern: str | None = None
    distil_guidance: float | None = None
    steps: int | None = None
    batch_size: int | None = None
    accumulate: int | None = None
    learning_rate: float | None = None
    warmup_steps: int | None = None
    seed: int = 0
    auto_find_batch_size: bool = False
    evaluation_tokens: str | None = None
    hold_out: float = 0.05
    evaluate_every: int | None = None
    save_every: int | None = None
    log_every: int = 10
    keep_checkpoints: int = 2
    prompts: tuple[str, ...] = ()
    prompt_length_in_s: float = 10.0
    prompts_every: int | None = None
    best: str = "last"
    precision: str = "fp32"
    gradient_checkpointing: bool = False
    device: str = "auto"
    num_workers: int = 0
    check_codebooks: bool = True
    streaming: bool = False
    license: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.base is None and self.stage not in STAGE_KINDS:
            raise ValueError(f"A fresh stage must be one of {', '.join(STAGE_KINDS)}, got {self.stage!r}.")
        for name in ("steps", "batch_size", "accumulate", "lora_rank", "evaluate_every", "save_every", "log_every",
                     "keep_checkpoints", "prompts_every"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        for name in ("learning_rate", "hold_out", "prompt_length_in_s"):
            value = getattr(self, name)
            if value is not None and (not math.isfinite(value) or value < 0):
                raise ValueError(f"`{name}` must be a positive number, got {value}.")
        if self.condition_dropout is not None and not 0 <= self.condition_dropout < 1:
            raise ValueError(f"`condition_dropout` must lie in [0, 1), got {self.condition_dropout}.")
        for name, what in (("streams", "a stream that is new to it"), ("pattern", "a pattern of its own")):
            if getattr(self, name) and self.lora_rank is not None:
                raise ValueError(f"Adapters change a stage's layers and cannot give it {what}: leave `{name}` out.")
        if self.distil_guidance is not None:
            if self.base is None:
                raise ValueError("Guidance is distilled from a stage that has it: give the pipeline or stage.")
            if self.lora_rank is not None or self.streams:
                raise ValueError("Distilling guidance goes with neither adapters nor further streams: first the one.")
        if self.pattern is not None and self.base is not None:
            raise ValueError("A stage that is started from has its pattern; `pattern` is for a fresh one.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {self.precision!r}.")
        if self.best not in ("last", "loss", "clap"):
            raise ValueError(f"`best` must be 'last', 'loss' or 'clap', got {self.best!r}.")
        if self.best != "last" and not self.evaluates:
            raise ValueError(f"The best checkpoint by {self.best} needs files to evaluate on: hold some out.")
        if self.best == "clap" and (not self.prompts or self.prompts_every not in (None, self.every)):
            raise ValueError("The best checkpoint by clap needs prompts, generated at every evaluation.")
        if self.prompts and not self.evaluates:
            raise ValueError("Prompts are generated at evaluations, which need files: hold some out.")
        if self.prompts_every is not None and self.prompts_every % self.every:
            raise ValueError(
                f"Prompts are generated at evaluations, every {self.every} steps: `prompts_every` must be a multiple of "
                f"that, got {self.prompts_every}."
            )
        known = {each.name for each in fields(TrainingArguments)} - OWN_ARGUMENTS
        unknown = sorted(set(self.arguments) - known)
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: no TrainingArguments that can be set here.")
        if self.lora_rank is not None and self.base is None:
            raise ValueError("Adapters need a stage to adapt: give the pipeline or stage they are for.")
        if self.streaming and self.evaluates and self.evaluation_tokens is None:
            raise ValueError("Files cannot be held out of a stream: give other tokens to evaluate on, or hold out 0.")

    @property
    def finds_batch_size(self) -> bool:
        return self.auto_find_batch_size or bool(self.arguments.get("auto_find_batch_size"))

    @property
    def evaluates(self) -> bool:
        return self.evaluation_tokens is not None or self.hold_out > 0

    @property
    def num_steps(self) -> int:
        if self.steps is not None:
            return self.steps
        return PUBLISHED_STEPS.get(self.stage, STEPS_OF_OTHERS) if self.base is None else FINE_TUNING_STEPS

    @property
    def num_warmup_steps(self) -> int:
        """The published warm-up, but at most a tenth of the run."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return min(int(published_arguments(self.stage)["warmup_steps"]), self.num_steps // 10)

    @property
    def every(self) -> int:
        """Steps between two evaluations, and two checkpoints, if nothing else is said."""
        return self.evaluate_every or max(self.num_steps // 10, 1)

    @property
    def folder(self) -> Path:
        """Where checkpoints and the record of the run are kept."""
        return Path(self.output) / "training"

    def start(self, record: TokenRecord, num_processes: int = 1, is_main_process: bool = True) -> None:
        """Record the run, or check that the one begun in the output is this one.

        Args:
            num_processes: that share a step; with another number a step would be another.

        Raises:
            ValueError: the output holds another run, or something else.
        """
        output, path = Path(self.output), self.folder / RUN_FILE
        mine = {**self._critical(record), "num_processes": num_processes}
        if path.is_file():
            begun = json.loads(path.read_text(encoding="utf-8"))
            changed = [
                f"{name} was {begun.get(name)!r}, is now {mine.get(name)!r}"
                for name in sorted({*mine, *(name for name in LATER if name in begun)})
                if begun.get(name) != mine.get(name)
            ]
            if changed:
                raise ValueError(
                    f"{self.output!r} holds another run: {'; '.join(changed[:3])}. Go on with the same settings, or give "
                    "another output."
                )
        elif output.exists() and any(not self._is_begun(entry) for entry in output.iterdir()):
            raise ValueError(f"{self.output!r} is not empty and holds no training run; give another output.")
        elif is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(mine, indent=2, sort_keys=True) + "\n")

    def _is_begun(self, entry: Path) -> bool:
        """Whether this is what a run leaves that was killed before it was recorded."""
        return is_part(entry) or (entry == self.folder and all(map(is_part, entry.iterdir())))

    def _critical(self, record: TokenRecord) -> dict[str, Any]:
        mine = {name: value for name, value in asdict(self).items() if name not in FREE}
        mine = {
            name: value
            for name, value in mine.items()
            if name not in LATER or (value not in (None, ()) and value is not False)
        }
        mine["warmup_steps"] = self.num_warmup_steps if self.warmup_steps is not None else "recommended"
        mine["tokens"] = {
            "files": record.files,
            "codebooks": {stream.name: stream.codebook_fingerprint for stream in record.streams},
        }
        return json.loads(json.dumps(mine, sort_keys=True))
