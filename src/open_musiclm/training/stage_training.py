"""One training run, from the plan to the saved stage. Everything it puts together is public and can be put together by
hand: tokens, `CropCollator`, `recommended_training_arguments`, `recommended_optimizer`, `stage_metrics`, callbacks.
"""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from ..data.networks import load_networks
from ..data.records import TokenRecord
from ..data.token_dataset import TokenDataset, TokenStreamDataset
from ..outputs import place_to_write, sole_writer
from .added_streams import add_streams, attributes_of
from .arguments import recommended_training_arguments
from .base_stage import fresh_stage, load_base, seeded, stage_component
from .batch_size import find_batch_size, keep_batch_size, kept_batch_size
from .callbacks import (
    FiniteNumbersCallback,
    LogAtCheckpointsCallback,
    SealCheckpointsCallback,
    StuckLossCallback,
    TrainingProgressCallback,
)
from .checkpoints import checkpoint_step, last_complete_checkpoint
from .checks import check_tokens
from .crops import CropCollator
from .finish import finish_run, finished_summary
from .guidance_distillation import GuidanceDistillation, make_student
from .lora import add_lora
from .metrics import stage_metrics
from .optimizer import recommended_optimizer
from .plan import DROPOUT_WITH_STREAMS, TrainingPlan
from .speed import attend_without_masks, compile_layers

#: crops in one epoch of the Trainer: far more than a run uses, so that no crop comes twice
CROPS_PER_EPOCH = 1_000_000


def train_stage(plan: TrainingPlan) -> dict[str, Any]:
    """Train, fine-tune or adapt a stage; an interrupted run goes on from its last complete checkpoint.

    Returns:
        A summary: the steps, the last losses, where the result is.

    Raises:
        ValueError: tokens, stage and pipeline do not belong together, the output holds another run or another process
            writes to it, or the numbers of the run are no longer finite.
        OSError: there is no place left to write to.
    """
    train_tokens, evaluation_tokens, record = load_tokens(plan)
    networks = load_networks_of_run(plan, record)
    check_parts(plan, record, evaluation_tokens, networks.stage, networks.pipeline_folder)
    args = training_arguments(plan, networks.stage)
    check_arguments(plan, args)
    with ExitStack() as held:
        if args.process_index == 0:
            held.enter_context(sole_writer(plan.output))
        held.enter_context(place_to_write(plan.output, "the same command then goes on from the last checkpoint"))
        with args.main_process_first(local=False):
            plan.start(record, args.world_size, is_main_process=args.process_index == 0)
        done = finished_summary(plan)
        if done is not None:
            return done
        if not plan.finds_batch_size:
            return run(plan, args, networks, train_tokens, evaluation_tokens, record)
        loaded = [networks]
        del networks  # of an attempt that failed nothing may be left

        def attempt(batch_size: int, accumulate: int) -> dict[str, Any]:
            keep_batch_size(plan.folder, batch_size, accumulate)
            own = loaded.pop() if loaded else load_networks_of_run(plan, record)
            sizes = training_arguments(
                plan,
                own.stage,
                per_device_train_batch_size=batch_size,
                per_device_eval_batch_size=batch_size,
                gradient_accumulation_steps=accumulate,
            )
            return run(plan, sizes, own, train_tokens, evaluation_tokens, record)

        num_clips = args.per_device_train_batch_size * args.gradient_accumulation_steps
        return find_batch_size(attempt, num_clips, kept_batch_size(plan.folder, num_clips), say_smaller)


def say_smaller(batch_size: int, accumulate: int) -> None:
    print(f"out of memory: now {batch_size} clips at a time, {accumulate} times a step", flush=True)


class Networks(NamedTuple):
    """What a run begins with."""

    stage: Any
    teacher: Any  #: of a distillation, else `None`
    pipeline_folder: Path | None  #: of the pipeline that the stage comes from


def load_networks_of_run(plan: TrainingPlan, record: TokenRecord) -> Networks:
    """The networks in their first state: the same every time."""
    stage, pipeline_folder = load_stage(plan, record)
    teacher = None
    if plan.distil_guidance is not None:
        with seeded(plan.seed):
            teacher, stage = make_student(stage, plan.distil_guidance)
    if plan.precision == "bf16-true":
        for network in (stage, teacher):
            if network is not None:
                torch.nn.Module.to(network, torch.bfloat16)
    return Networks(stage, teacher, pipeline_folder)


def run(
    plan: TrainingPlan,
    args: TrainingArguments,
    networks: Networks,
    train_tokens: Any,
    evaluation_tokens: TokenDataset | None,
    record: TokenRecord,
) -> dict[str, Any]:
    """Train from the last checkpoint that can be used, or from the beginning, and save the result."""
    stage, teacher, pipeline_folder = networks
    if plan.lora_rank is not None:
        with seeded(plan.seed):
            stage = add_lora(stage, plan.lora_rank)
    speed_up(plan, args, stage)
    prompts = prompt_callback(plan, pipeline_folder, args) if plan.prompts else None
    # from here on random numbers are drawn from the plan's seed: nothing else may draw between this and the first step
    trainer = make_trainer(plan, args, stage, train_tokens, evaluation_tokens, record, teacher)
    if prompts is not None:
        trainer.add_callback(prompts)
    passed_over: list[str] = []
    checkpoint = last_complete_checkpoint(plan.folder, args.world_size, passed_over=passed_over)
    trained = checkpoint is not None and (checkpoint_step(checkpoint) or 0) >= plan.num_steps
    if trained and trainer.is_fsdp_enabled:  # sharded weights are only loaded on the way into training
        checkpoint, trained = last_complete_checkpoint(plan.folder, args.world_size, before=plan.num_steps), False
    if args.process_index == 0:
        for line in passed_over:
            print(line)
        if checkpoint is not None or passed_over:
            print(f"going on from {'the beginning' if checkpoint is None else checkpoint.name}")
    if checkpoint is not None and trained:
        take_up_trained(trainer, checkpoint)
    else:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return finish_run(plan, trainer, record, pipeline_folder)


def speed_up(plan: TrainingPlan, args: TrainingArguments, stage: Any) -> None:
    """On a GPU attention without masks; `torch_compile` of the plan's arguments compiles the layers, not the whole."""
    if args.device.type == "cuda":
        products = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        attend_without_masks(stage.get_base_model() if plan.lora_rank is not None else stage, args.device, products)
    if plan.arguments.get("torch_compile"):
        names = ("torch_compile_backend", "torch_compile_mode")
        settings = {name.removeprefix("torch_compile_"): plan.arguments.get(name) for name in names}
        compile_layers(stage, **{name: value for name, value in settings.items() if value is not None})


def take_up_trained(trainer: Trainer, checkpoint: Path) -> None:
    """Stand where a run stood that died between its last step and its result; `train` would do one step more."""
    trainer._load_from_checkpoint(str(checkpoint))
    trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if trainer.args.load_best_model_at_end and trainer.state.best_model_checkpoint is not None:
        trainer._load_best_model()


def load_tokens(plan: TrainingPlan) -> tuple[Any, TokenDataset | None, TokenRecord]:
    """Tokens to train on, tokens to evaluate on, and what they are."""
    evaluation: TokenDataset | None = None
    if plan.evaluation_tokens is not None:
        evaluation = TokenDataset.load(plan.evaluation_tokens, crops_per_file=1)
    if plan.streaming:
        stream = TokenStreamDataset.load(plan.tokens, seed=plan.seed)
        return stream, evaluation, stream.record
    tokens = TokenDataset.load(plan.tokens)
    if evaluation is None and plan.hold_out > 0:
        tokens, evaluation = tokens.split(plan.hold_out, plan.seed)
    tokens = tokens.with_crops_per_file(max(-(-CROPS_PER_EPOCH // tokens.num_files), 1))
    return tokens, evaluation, tokens.record


def load_stage(plan: TrainingPlan, record: TokenRecord) -> tuple[Any, Path | None]:
    """The stage in its first state, and the pipeline that it comes from."""
    settings = dict(plan.config)
    if plan.condition_dropout is not None:
        settings["condition_dropout"] = plan.condition_dropout
    if plan.distil_guidance is not None:  # the teacher's distributions are to be met, not guessed from a part
        settings = {"hidden_dropout": 0.0, "attention_dropout": 0.0, "forgetful_mask_prob": 0.0, **settings}
    attributes = attributes_of(record, plan.streams)
    if plan.base is None:
        if attributes:
            settings.setdefault("condition_dropout", DROPOUT_WITH_STREAMS)
        return fresh_stage(plan.stage, record, plan.preset, plan.seed, attributes, plan.pattern, **settings), None
    stage, folder = load_base(plan.stage, plan.base, plan.revision, **settings)
    needed = attributes and not stage.config.condition_dropout and "condition_dropout" not in settings
    with seeded(plan.seed):
        stage = add_streams(stage, attributes, DROPOUT_WITH_STREAMS if needed else None)
    return stage, folder


def check_parts(
    plan: TrainingPlan,
    record: TokenRecord,
    evaluation_tokens: TokenDataset | None,
    stage: Any,
    pipeline_folder: Path | None,
) -> None:
    """Tokens, stage and pipeline must agree, before the first step."""
    if plan.prompts and pipeline_folder is None:
        raise ValueError(
            "Generating prompts needs a whole pipeline: start from one, not from a stage or from nothing."
        )
    if not plan.check_codebooks:
        warnings.warn("The codebooks of tokens and stage are not compared.", stacklevel=2)
        return
    components: dict[str, Any] = {}
    if pipeline_folder is not None:
        components, _ = load_networks(pipeline_folder, only=("clap_quantizer", "semantic_quantizer", "codec"))
    names = {"tokens_name": f"the token dataset {plan.tokens!r}", "stage_name": f"the stage of {plan.base!r}"}
    unknown = check_tokens(record, stage, components, **names)
    if evaluation_tokens is not None and plan.evaluation_tokens is not None:
        names["tokens_name"] = f"the token dataset {plan.evaluation_tokens!r}"
        check_tokens(evaluation_tokens.record, stage, components, **names)
    if unknown:
        warnings.warn(
            f"The codebooks of {', '.join(unknown)} cannot be compared: the stage does not say which ones it was trained "
            "on. Make sure that the tokens were made with its own.",
            stacklevel=2,
        )


def training_arguments(plan: TrainingPlan, stage: Any, **sizes: int) -> TrainingArguments:
    """The recommended arguments with what the plan changes; `sizes` go before all."""
    chosen: dict[str, Any] = {
        "per_device_train_batch_size": plan.batch_size,
        "per_device_eval_batch_size": plan.batch_size,
        "gradient_accumulation_steps": plan.accumulate,
        "learning_rate": plan.learning_rate,
    }
    chosen = {name: value for name, value in chosen.items() if value is not None}
    chosen.update(
        max_steps=plan.num_steps,
        warmup_steps=plan.num_warmup_steps,
        seed=plan.seed,
        data_seed=plan.seed,
        logging_steps=plan.log_every,
        save_strategy="steps",
        save_steps=plan.save_every or plan.every,
        save_total_limit=plan.keep_checkpoints,
        eval_strategy="steps" if plan.evaluates else "no",
        eval_steps=plan.every,
        bf16=plan.precision == "bf16",
        fp16=plan.precision == "fp16",
        use_cpu=plan.device == "cpu",
        dataloader_num_workers=plan.num_workers,
    )
    if plan.gradient_checkpointing:
        # transformers 5.23 gave the setting another name
        name = "activation" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient"
        chosen.update({f"{name}_checkpointing": True, f"{name}_checkpointing_kwargs": {"use_reentrant": False}})
    if plan.best != "last":
        chosen.update(
            load_best_model_at_end=True,
            metric_for_best_model={"loss": "eval_loss", "clap": "eval_clap_score"}[plan.best],
            greater_is_better=plan.best == "clap",
        )
    # the whole model would be compiled, layer by layer of the same code: see `speed_up`; for the batch, batch_size.py
    ours = ("torch_compile", "auto_find_batch_size")
    given = {name: value for name, value in plan.arguments.items() if not name.startswith(ours)}
    return recommended_training_arguments(stage, plan.folder, **{**chosen, **given, **sizes})


def check_arguments(plan: TrainingPlan, args: TrainingArguments) -> None:
    """Refuse what does not go together."""
    if plan.precision == "bf16-true" and args.fsdp:
        raise ValueError("FSDP keeps float32 weights and casts them itself: ask for `bf16` in place of `bf16-true`.")
    if plan.finds_batch_size and args.world_size > 1:
        raise ValueError(
            f"The batch that fits is looked for by one process, and here are {args.world_size}, which would wait for the "
            "one that ran out of memory. Look for it with one, and give that `--batch-size` to all."
        )


def make_trainer(
    plan: TrainingPlan,
    args: TrainingArguments,
    stage: Any,
    train_tokens: Any,
    evaluation_tokens: TokenDataset | None,
    record: TokenRecord,
    teacher: Any = None,
) -> Trainer:
    """A plain Trainer, or with a teacher one that distils its guidance."""
    config = stage.get_base_model().config if plan.lora_rank is not None else stage.config
    outer = record.settings.get("clap_window_in_s", 10.0)
    watched: dict[str, Any] = stage_metrics(config) if evaluation_tokens is not None and teacher is None else {}
    if teacher is not None:
        watched["teacher"] = teacher
    trainer = (Trainer if teacher is None else GuidanceDistillation)(
        stage,
        args,
        train_dataset=train_tokens,
        eval_dataset=evaluation_tokens,
        data_collator=CropCollator(config, outer, plan.seed, record),
        optimizer_cls_and_kwargs=recommended_optimizer(args),
        callbacks=[
            FiniteNumbersCallback(plan.stage),
            StuckLossCallback(config.predicted_stream.codebook_size),
            LogAtCheckpointsCallback(),
            SealCheckpointsCallback(),
        ],
        **watched,
    )
    for callback in (ProgressCallback, PrinterCallback):  # ours says more, in fewer characters
        trainer.remove_callback(callback)
    trainer.add_callback(TrainingProgressCallback(plan.stage))
    return trainer


def prompt_callback(plan: TrainingPlan, pipeline_folder: Path | None, args: TrainingArguments) -> Any:
    """The callback that generates the plan's prompts."""
    from ..evaluation.callback import EvaluationCallback
    from ..pipelines.musiclm import MusicLMPipeline

    if args.fsdp:
        raise ValueError("Prompts cannot be generated from a sharded stage; leave them out with FSDP.")
    assert pipeline_folder is not None  # prompts need a pipeline: see `check_parts`
    pipeline = MusicLMPipeline.from_pretrained(str(pipeline_folder)).to(args.device)
    pipeline.set_progress_bar_config(disable=True)
    return EvaluationCallback(
        pipeline,
        stage_component(pipeline_folder, plan.stage),
        plan.prompts,
        Path(plan.output) / "samples",
        plan.prompt_length_in_s,
        plan.seed,
        every=(plan.prompts_every or plan.every) // plan.every,
    )
