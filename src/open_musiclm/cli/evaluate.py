"""`open-musiclm evaluate`: systems, prompts and a reference in; figures, pictures and sound out."""

from __future__ import annotations

import argparse
import math

from ..given import as_length, shown
from .generate import check_seed
from .loading import pick_device, quiet_libraries

EPILOG = """systems (--model [NAME=]WHAT, as often as wanted):
  a pipeline of this package, or of diffusers (AudioLDM2, Stable Audio): folder or Hub id
  a text-to-audio model of transformers (MusicGen): folder or Hub id
  a folder of audio, whose files are named by prompt id
  mini (the pipeline in the box) or noise

prompts: a .txt file (one a line), .csv or .jsonl (columns prompt or caption; id, reference, tempo, key if known), or
musiccaps. A reference clip belongs to the prompt whose `reference` or id is its name.

examples:
  open-musiclm evaluate --model mini --prompts prompts.txt --reference music/ --output report
  open-musiclm evaluate --model base=me/musiclm --model tuned=./finetune --model facebook/musicgen-small \\
      --prompts musiccaps --reference musiccaps-audio/ --classifier MIT/ast-finetuned-audioset-10-10-0.4593 --output report
  open-musiclm evaluate --model a=audio-a/ --model b=audio-b/ --prompts prompts.csv --output report --listening-test
  open-musiclm evaluate --listening-results results/*.json --output report
  open-musiclm evaluate --memorization tokens/ --model ./finetune --output report

A run that was interrupted goes on where it stopped: the audio and the embeddings in the output folder are kept.
"""


#: lines of one kind on the screen; all of them are in report.json
MOST_LINES = 20
#: resamples of an interval: more narrow nothing, and would not end
MOST_RESAMPLES = 1_000_000


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        help="measure systems on the same prompts",
        description="Generate with every system on the same prompts, measure, compare, and write a report.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", action="append", default=[], metavar="[NAME=]WHAT", help="a system; may be repeated"
    )
    parser.add_argument("--prompts", metavar="FILE|musiccaps", help="what to ask of every system")
    parser.add_argument("--reference", metavar="DIR", help="folder of real music, for FAD, KAD and all that is paired")
    parser.add_argument("--output", "-o", required=True, metavar="DIR", help="report.html, report.json and all audio")
    parser.add_argument(
        "--duration", "-d", type=float, default=10.0, help="seconds of each clip (default: %(default)s)"
    )
    parser.add_argument("--num-prompts", type=int, help="use only the first so many prompts")
    parser.add_argument("--seed", type=int, default=0, help="of generation and resampling (default: %(default)s)")
    parser.add_argument(
        "--preset",
        default="default",
        choices=("default", "audiocraft", "fadtk", "google"),
        help="whose constants: windows, rates, levels (default: %(default)s)",
    )
    parser.add_argument(
        "--clap", metavar="PATH_OR_HUB_ID", help="for the CLAP score (default: the first system's own)"
    )
    parser.add_argument(
        "--embedder",
        metavar="KIND:NAME",
        help="for FAD and KAD: clap:NAME, ast:NAME, hubert:NAME#LAYER (default: --clap)",
    )
    parser.add_argument("--classifier", metavar="PATH_OR_HUB_ID", help="an AST, for the KL divergence")
    parser.add_argument("--batch-size", type=int, default=1, help="prompts at once, for systems that allow it")
    parser.add_argument("--device", default="auto", help="cpu, cuda, … (default: a GPU if there is one)")
    parser.add_argument(
        "--num-resamples", type=int, default=2000, help="for the intervals of means (default: %(default)s)"
    )
    parser.add_argument(
        "--num-set-resamples", type=int, default=300, help="for the intervals of FAD and KAD (default: %(default)s)"
    )
    parser.add_argument(
        "--num-examples", type=int, default=6, help="prompts to show with sound (default: %(default)s)"
    )
    parser.add_argument("--no-noise", action="store_true", help="leave out white noise as a control")
    listening = parser.add_argument_group("listening test")
    listening.add_argument("--listening-test", action="store_true", help="also write a page with blinded pairs")
    listening.add_argument("--num-pairs", type=int, default=20, help="pairs on the page (default: %(default)s)")
    listening.add_argument(
        "--listening-results", nargs="+", metavar="FILE", help="result files -> wins with intervals"
    )
    memorization = parser.add_argument_group("memorization")
    memorization.add_argument(
        "--memorization", metavar="TOKENS", help="token dataset: does the semantic stage repeat it?"
    )
    memorization.add_argument("--num-memorization-examples", type=int, default=256, help="(default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    as_length("--duration", args.duration)
    for name in ("num_prompts", "batch_size", "num_resamples", "num_set_resamples", "num_pairs"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}.")
    for name in ("num_resamples", "num_set_resamples"):
        if getattr(args, name) > MOST_RESAMPLES:
            raise ValueError(
                f"--{name.replace('_', '-')} must be at most {MOST_RESAMPLES}, got {shown(getattr(args, name))}."
            )
    check_seed(args.seed)
    for name, least in (("num_examples", 0), ("num_memorization_examples", 2)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(args, name)}.")
    if args.listening_results:
        return _listening_results(args)
    quiet_libraries()
    from ..outputs import sole_writer

    if args.memorization:
        with sole_writer(args.output):
            return _memorization(args)
    if not args.model:
        raise ValueError("no system was given; write --model WHAT.")
    if not args.prompts:
        raise ValueError("no prompts were given; write --prompts FILE, or --prompts musiccaps.")
    if args.listening_test and len(args.model) < 2:
        raise ValueError("a listening test needs two systems; give another --model.")
    with sole_writer(args.output):
        return _evaluate(args)


def _evaluate(args: argparse.Namespace) -> int:
    from ..evaluation.evaluate import EvaluationSettings, evaluate_systems
    from ..evaluation.report import write_report

    settings = EvaluationSettings(
        models=tuple(args.model),
        prompts=args.prompts,
        reference=args.reference,
        output=args.output,
        length_in_s=args.duration,
        num_prompts=args.num_prompts,
        seed=args.seed,
        preset=args.preset,
        clap=args.clap,
        embedder=args.embedder,
        classifier=args.classifier,
        batch_size=args.batch_size,
        device=pick_device(args.device),
        num_resamples=args.num_resamples,
        num_set_resamples=args.num_set_resamples,
        noise=not args.no_noise,
    )
    evaluation = evaluate_systems(settings)
    page, record = write_report(evaluation, args.num_examples)
    for result in evaluation.results:
        interval = f" ({result.interval.low:.4g} to {result.interval.high:.4g})" if result.interval else ""
        marks = " *" if result.warnings else ""
        value = f"{result.value:10.4g}" if math.isfinite(result.value) else f"{'–':>10}"
        print(f"{result.metric:18} {result.system:36} {value}{interval}{marks}")
    warnings = dict.fromkeys(warning for result in evaluation.results for warning in result.warnings)
    for warning in warnings:
        print(f"* {warning}")
    for found, told in (("skipped", evaluation.skipped), ("without a partner:", evaluation.unmatched)):
        for each in told[:MOST_LINES]:
            print(f"{found} {each.what}: {each.why}")
        if len(told) > MOST_LINES:
            print(f"… and {len(told) - MOST_LINES} more, in {record}")
    for caution in evaluation.cautions:
        print(caution)
    for verdict in evaluation.verdicts:
        print(verdict)
    print(f"{page}\n{record}")
    if args.listening_test:
        from ..evaluation.listening.write import write_listening_test

        print(write_listening_test(evaluation, args.num_pairs))
    return 0


def _listening_results(args: argparse.Namespace) -> int:
    from ..evaluation.listening.results import count_wins, read_results, write_wins

    wins = count_wins(
        *read_results(args.listening_results, args.output), seed=args.seed, num_resamples=args.num_resamples
    )
    for line in wins.lines():
        print(line)
    print(write_wins(wins, args.output))
    return 0


def _memorization(args: argparse.Namespace) -> int:
    from ..evaluation.memorization.run import run_memorization

    if len(args.model) != 1:
        raise ValueError(
            f"--memorization tests one pipeline of this package; {len(args.model)} were given with --model."
        )
    for line in run_memorization(
        args.model[0],
        args.memorization,
        args.output,
        pick_device(args.device),
        args.num_memorization_examples,
        args.seed,
    ):
        print(line)
    return 0
