"""`open-musiclm train`: a token dataset in, a trained stage (or the pipeline with it) out."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from .loading import model_path, quiet_libraries
from .settings import parse_settings

EPILOG = """examples:
  open-musiclm train --stage semantic --tokens tokens/ --from mini --output tuned/ --steps 200
  open-musiclm train --stage coarse --tokens tokens/ --from me/my-musiclm --output tuned/
  open-musiclm train --stage semantic --tokens tokens/ --from tuned/ --output tuned-2/ --lora 16 --steps 500
  open-musiclm train --stage semantic --tokens tokens/ --from mini --output tuned/ --streams tempo,genre
  open-musiclm train --stage semantic --tokens tokens/ --from tuned/ --output quick/ --distil-guidance
  open-musiclm train --stage semantic --tokens tokens/ --preset large --output scratch/ --precision bf16
  torchrun --nproc_per_node 8 -m open_musiclm train --stage fine --tokens tokens/ --output fine/ --set fsdp=true

Killed and started again with the same command, it goes on and ends as if nothing had happened. From a pipeline the
output is that pipeline with the stage in its place; else the stage is in OUTPUT/stage. Adapters are in OUTPUT/adapter.
"""


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train, fine-tune or adapt a stage",
        description="Train a stage on tokens: from nothing, from a pipeline or stage, or with adapters.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--stage",
        required=True,
        metavar="NAME",
        help="which to train: a stage of the pipeline, or semantic, coarse, fine or acoustic from nothing",
    )
    parser.add_argument("--tokens", required=True, metavar="TOKENS", help="folder or Hub id of a token dataset")
    parser.add_argument("--output", "-o", required=True, metavar="OUT", help="folder of the result")
    start = parser.add_argument_group("what to start from")
    start.add_argument(
        "--from",
        dest="base",
        metavar="PIPELINE_OR_STAGE",
        help="folder or Hub id; `mini` is the pipeline in the box (default: random weights)",
    )
    start.add_argument("--revision", help="branch, tag or commit of a Hub id")
    start.add_argument(
        "--preset",
        help="size of a fresh stage: small, large, paper, or for the acoustic one single_stage (default: small)",
    )
    start.add_argument(
        "--lora",
        nargs="?",
        type=int,
        const=16,
        metavar="RANK",
        help="train adapters instead of the weights (default rank: 16)",
    )
    start.add_argument(
        "--streams",
        metavar="NAMES",
        help="condition the stage on these streams of the tokens too: melody,tempo,genre (see `tokenize --streams`)",
    )
    start.add_argument(
        "--condition-dropout",
        type=float,
        metavar="P",
        help="hide conditioning with this probability, as guidance and streams that may be left out need it (default: "
        "the stage's own; with --streams 0.2 if that is 0)",
    )
    start.add_argument(
        "--pattern", choices=("flat", "delay", "parallel"), help="how a fresh stage lays the codebooks it predicts"
    )
    start.add_argument(
        "--distil-guidance",
        nargs="?",
        type=float,
        const=8.0,
        metavar="LARGEST",
        help="teach a stage that has guidance to read the scale as a token, which halves its cost (default: up to "
        "%(const)s)",
    )
    start.add_argument(
        "--config", action="append", default=[], metavar="NAME=VALUE", help="of the stage's config: hidden_dropout=0"
    )
    steps = parser.add_argument_group("steps")
    steps.add_argument("--steps", type=int, help="(default: 1000 from a stage, as published from nothing)")
    steps.add_argument("--batch-size", type=int, help="of a device (default: as published, 4 or 2)")
    steps.add_argument("--accumulate", type=int, help="batches a step (default: 8)")
    steps.add_argument(
        "--auto-find-batch-size",
        action="store_true",
        help="make batches as large as the memory allows; a step has batch size · accumulate clips as ever",
    )
    steps.add_argument("--learning-rate", type=float, help="(default: 3e-4)")
    steps.add_argument("--warmup-steps", type=int, help="(default: as published, at most a tenth of the steps)")
    steps.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    steps.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16", "bf16-true"),
        default="fp32",
        help="bf16 and fp16: mixed, weights in float32; bf16-true: the weights too, and the result is saved in bfloat16 "
        "(default: %(default)s)",
    )
    steps.add_argument("--gradient-checkpointing", action="store_true", help="less memory, slower")
    steps.add_argument("--device", default="auto", choices=("auto", "cpu"), help="(default: a GPU if there is one)")
    steps.add_argument("--num-workers", type=int, default=0, help="processes that load data (default: %(default)s)")
    steps.add_argument("--streaming", action="store_true", help="read the tokens as a stream")
    steps.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="any other of TrainingArguments: fsdp=true"
    )
    steps.add_argument("--no-codebook-check", action="store_true", help="train on tokens of any codebook")
    watch = parser.add_argument_group("watching")
    watch.add_argument(
        "--hold-out",
        type=float,
        default=0.05,
        help="share or number of files to evaluate on, 0 for none (default: %(default)s)",
    )
    watch.add_argument("--evaluation-tokens", metavar="TOKENS", help="evaluate on these in place of held-out files")
    watch.add_argument("--evaluate-every", type=int, metavar="STEPS", help="(default: a tenth of the steps)")
    watch.add_argument("--save-every", type=int, metavar="STEPS", help="(default: at each evaluation)")
    watch.add_argument("--log-every", type=int, default=10, metavar="STEPS", help="(default: %(default)s)")
    watch.add_argument("--keep-checkpoints", type=int, default=2, help="(default: %(default)s)")
    watch.add_argument("--prompts", metavar="FILE", help="a prompt a line, generated at evaluations")
    watch.add_argument("--prompt-length", type=float, default=10.0, metavar="S", help="(default: %(default)s)")
    watch.add_argument(
        "--prompts-every", type=int, metavar="STEPS", help="a multiple of --evaluate-every (default: at each)"
    )
    parser.add_argument("--license", metavar="NAME", help="for the model card, as the Hub names it: apache-2.0")
    watch.add_argument("--best", choices=("last", "loss", "clap"), default="last", help="which checkpoint to keep")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..extras import require

    require("datasets", "pyarrow", *(["peft"] if args.lora is not None else []))
    if not int(os.environ.get("RANK", "0")):
        print(f"training the {args.stage} stage: {args.output}", flush=True)

    from ..training.plan import TrainingPlan

    if args.base is None and args.revision is not None:
        raise ValueError("--revision is of the Hub id given with --from.")
    if args.base is not None and args.preset is not None:
        raise ValueError(
            f"--preset {args.preset} is the size of a fresh stage; with --from it has the size that it has."
        )
    base = None if args.base is None else model_path(args.base, args.revision)
    prompts: tuple[str, ...] = ()
    if args.prompts is not None:
        if not Path(args.prompts).is_file():
            raise ValueError(f"there is no file of prompts {args.prompts!r}.")
        lines = Path(args.prompts).read_text(encoding="utf-8").splitlines()
        prompts = tuple(line.strip() for line in lines if line.strip())
    plan = TrainingPlan(
        stage=args.stage,
        tokens=args.tokens,
        output=args.output,
        base=base,
        revision=args.revision,
        preset=args.preset or "small",
        config=parse_settings(args.config),
        lora_rank=args.lora,
        streams=tuple(name.strip() for name in (args.streams or "").split(",") if name.strip()),
        condition_dropout=args.condition_dropout,
        pattern=args.pattern,
        distil_guidance=args.distil_guidance,
        steps=args.steps,
        batch_size=args.batch_size,
        accumulate=args.accumulate,
        auto_find_batch_size=args.auto_find_batch_size,
        learning_rate=args.learning_rate,
        warmup_steps=args.warmup_steps,
        seed=args.seed,
        evaluation_tokens=args.evaluation_tokens,
        hold_out=args.hold_out,
        evaluate_every=args.evaluate_every,
        save_every=args.save_every,
        log_every=args.log_every,
        keep_checkpoints=args.keep_checkpoints,
        prompts=prompts,
        prompt_length_in_s=args.prompt_length,
        prompts_every=args.prompts_every,
        best=args.best,
        precision=args.precision,
        gradient_checkpointing=args.gradient_checkpointing,
        device=args.device,
        num_workers=args.num_workers,
        check_codebooks=not args.no_codebook_check,
        streaming=args.streaming,
        license=args.license,
        arguments=parse_settings(args.set),
    )
    from ..training.stage_training import train_stage

    quiet_libraries()
    summary = train_stage(plan)

    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if int(os.environ.get("RANK", "0")):  # another process says it
        return 0
    where = plan.output if summary["result"] == "pipeline" else f"{plan.output}/stage"
    loss = "" if summary["loss"] is None else f", loss {summary['loss']:.4f}"
    print(f"the {summary['stage']} stage after {summary['steps']} steps{loss}: {where}")
    return 0
