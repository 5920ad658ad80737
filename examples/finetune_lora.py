# requires: open-musiclm[train]
"""Train two adapters (LoRA) of one stage, stack them, and merge them into a pipeline.

    python examples/finetune_lora.py                           # clips that it makes, the model in the box

The same with the command: `open-musiclm train --stage semantic --tokens tokens/ --from PIPELINE --lora 8 --output OUT`.
"""

import argparse
from pathlib import Path

from ten_clips import make_clips
from transformers import Trainer

from open_musiclm import MusicLMPipeline, mini_checkpoint
from open_musiclm.data import MusicTokenizer, TokenDataset, TokenizingPlan, find_audio, run_tokenizing
from open_musiclm.training import (
    CropCollator,
    add_lora,
    load_lora,
    merge_lora,
    recommended_optimizer,
    recommended_training_arguments,
    save_lora,
)

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", help="a pipeline (default: the one in the box)")
parser.add_argument("--stage", choices=("semantic", "coarse", "fine"), default="semantic")
parser.add_argument("--rank", type=int, default=8)
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--output", type=Path, default=Path("adapters"))
args = parser.parse_args()


def main() -> None:
    model = args.model or mini_checkpoint()
    make_clips(args.output / "clips")
    tokenizer = MusicTokenizer.from_pretrained(model)
    slow_and_fast = {
        tempo: [file for file in find_audio(args.output / "clips") if tempo in file.caption]
        for tempo in ("slow", "fast")
    }

    # 1. an adapter for each kind of music
    for kind, files in slow_and_fast.items():
        plan = TokenizingPlan.make(files, args.output / f"tokens-{kind}", tokenizer.streams, tokenizer.describe())
        run_tokenizing(plan, tokenizer)
        tokens = TokenDataset.load(args.output / f"tokens-{kind}")
        adapted = add_lora(getattr(MusicLMPipeline.from_pretrained(model), f"{args.stage}_model"), args.rank)
        adapted.print_trainable_parameters()
        training = recommended_training_arguments(
            args.stage, args.output / "training", max_steps=args.steps, warmup_steps=0, learning_rate=1e-3,
            per_device_train_batch_size=4, gradient_accumulation_steps=1, logging_steps=5, save_strategy="no",
        )  # fmt: skip
        Trainer(
            adapted, training, train_dataset=tokens, data_collator=CropCollator(adapted.get_base_model()),
            optimizer_cls_and_kwargs=recommended_optimizer(training),
        ).train()  # fmt: skip
        save_lora(adapted, args.output / kind)  # `push_lora(adapted, "me/my-adapter")` shares it

    # 2. both, two parts of one and one of the other, merged into the weights
    pipeline = MusicLMPipeline.from_pretrained(model)
    stage = getattr(pipeline, f"{args.stage}_model")
    stacked = load_lora(stage, args.output / "slow", args.output / "fast", weights=[2 / 3, 1 / 3])
    pipeline.register_modules(**{f"{args.stage}_model": merge_lora(stacked)})
    pipeline.save_pretrained(args.output / "pipeline")
    print(f"the pipeline with both adapters is in {args.output / 'pipeline'}")


if __name__ == "__main__":
    main()
