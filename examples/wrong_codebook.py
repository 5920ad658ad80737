# requires: open-musiclm[train,eval]
"""What the codebook check saves from: the same fine-tuning on tokens of the stage's codebook and of another one.

    python examples/wrong_codebook.py                          # draws docs/images/wrong_codebook.png

Both runs start from the same stage and see the same crops of the same clips. The tokens of one are the pipeline's; the
other's come from codebooks that hold the same entries in another order. That is all that "another codebook" means to a
stage: tokens as frequent and as regular as before, each standing for something else. For that run the check is switched
off, as nothing in the original would have stopped it.

How near to ln(codebook size) the loss stays depends on how evenly the entries are used, for that much can be learnt of any
tokens. The fine codebooks are used almost evenly even by synthesized clips; `--stage coarse` falls below.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from ten_clips import make_clips

from open_musiclm import mini_checkpoint
from open_musiclm.data import MusicTokenizer, TokenizingPlan, TokenRecord, find_audio, run_tokenizing
from open_musiclm.tokenizers.codec import as_codec
from open_musiclm.training import TrainingPlan, train_stage

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--music", type=Path, help="a folder of audio (default: synthesized clips)")
parser.add_argument("--model", help="a pipeline (default: the one in the box)")
parser.add_argument("--stage", choices=("semantic", "coarse", "fine"), default="fine")
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--learning-rate", type=float, default=3e-5)
parser.add_argument("--work", type=Path, default=Path("wrong-codebook"), help="made anew")
parser.add_argument("--output", type=Path, default=Path("docs/images/wrong_codebook.png"))


@torch.no_grad()
def with_other_codebooks(tokenizer: MusicTokenizer) -> MusicTokenizer:
    """The same networks, the entries of every codebook in another order."""
    generator = torch.Generator().manual_seed(0)
    networks = tokenizer.networks
    codebooks = [
        *networks["clap_quantizer"].codebooks,
        networks["semantic_quantizer"].codebook,
        *as_codec(networks["codec"]).codebooks(),
    ]
    for codebook in codebooks:
        codebook.copy_(codebook[torch.randperm(len(codebook), generator=generator)])
    return MusicTokenizer(networks, tokenizer.streams, tokenizer.settings)


def fine_tune(args: argparse.Namespace, name: str, model: str, check: bool) -> list[tuple[int, float]]:
    """(step, loss) pairs of one run."""
    plan = TrainingPlan(
        stage=args.stage,
        tokens=str(args.work / f"tokens-{name}"),
        output=str(args.work / f"run-{name}"),
        base=model,
        steps=args.steps,
        batch_size=4,
        accumulate=1,
        learning_rate=args.learning_rate,
        warmup_steps=0,
        hold_out=0,
        log_every=2,
        check_codebooks=check,
    )
    return [(entry["step"], entry["loss"]) for entry in train_stage(plan)["history"] if "loss" in entry]


def draw(curves: dict[str, list[tuple[int, float]]], codebook_size: int, stage: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for name, color in (("right", "tab:green"), ("wrong", "tab:red")):
        axes.plot(*zip(*curves[name], strict=True), color=color, label=f"tokens of the {name} codebook")
    guessing = math.log(codebook_size)
    axes.axhline(guessing, color="gray", linestyle="--", label=f"guessing: ln {codebook_size} = {guessing:.2f}")
    axes.set(xlabel="step", ylabel="loss", title=f"Fine-tuning the {stage} stage", ylim=(0, None))
    axes.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})


def main() -> None:
    args = parser.parse_args()
    model = args.model or mini_checkpoint()
    music = args.music or args.work / "clips"
    if args.music is None:
        make_clips(music, num_clips=24)
    curves = {}
    for name in ("right", "wrong"):
        tokenizer = MusicTokenizer.from_pretrained(model)
        if name == "wrong":
            tokenizer = with_other_codebooks(tokenizer)
        tokens = args.work / f"tokens-{name}"
        run_tokenizing(
            TokenizingPlan.make(find_audio(music), tokens, tokenizer.streams, tokenizer.describe()), tokenizer
        )
        if name == "wrong":
            try:
                fine_tune(args, name, model, check=True)
            except ValueError as refusal:
                print(f"refused: {refusal}")
        curves[name] = fine_tune(args, name, model, check=name == "right")
    codebook_size = TokenRecord.load(tokens).stream(args.stage).codebook_size
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.with_suffix(".json").write_text(json.dumps({"codebook_size": codebook_size, **curves}) + "\n")
    draw(curves, codebook_size, args.stage, args.output)
    for name, curve in curves.items():
        last = sum(loss for _, loss in curve[-5:]) / 5
        print(f"{name} codebook: loss {curve[0][1]:.3f} → {last:.3f} (guessing: {math.log(codebook_size):.3f})")


if __name__ == "__main__":
    main()
