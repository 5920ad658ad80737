# requires: open-musiclm[train]
"""Fine-tune one stage on a folder of music with a plain Trainer.

    python examples/finetune_stage.py                          # ten clips that it makes, the model in the box
    python examples/finetune_stage.py --music my_music/ --stage coarse --model me/my-musiclm --steps 1000

What comes out is a whole pipeline, and one piece from before and one from after.
"""

import argparse
from pathlib import Path

import torch
from ten_clips import make_clips
from transformers import Trainer

from open_musiclm import MusicLMPipeline, mini_checkpoint
from open_musiclm.audio import write_audio
from open_musiclm.data import MusicTokenizer, TokenDataset, TokenizingPlan, find_audio, run_tokenizing
from open_musiclm.training import (
    CropCollator,
    check_tokens,
    recommended_optimizer,
    recommended_training_arguments,
    stage_metrics,
)

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--music", type=Path, help="a folder of audio (default: ten synthesized clips)")
parser.add_argument("--model", help="a pipeline (default: the one in the box)")
parser.add_argument("--stage", choices=("semantic", "coarse", "fine"), default="semantic")
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--output", type=Path, default=Path("finetuned"))
parser.add_argument("--prompt", default="a fast high melody in a major key")
parser.add_argument("--duration", type=float, default=4.0)
args = parser.parse_args()


def play(pipeline: MusicLMPipeline, name: str) -> None:
    audio = pipeline(args.prompt, audio_length_in_s=args.duration, generator=torch.Generator().manual_seed(0)).audios[
        0
    ]
    write_audio(args.output / name, audio, pipeline.sampling_rate, {"prompt": args.prompt})


def main() -> None:
    model = args.model or mini_checkpoint()
    music = args.music
    if music is None:
        music = args.output / "clips"
        make_clips(music)

    # 1. audio → tokens, once
    tokenizer = MusicTokenizer.from_pretrained(model)
    plan = TokenizingPlan.make(find_audio(music), args.output / "tokens", tokenizer.streams, tokenizer.describe())
    report = run_tokenizing(plan, tokenizer)
    print(f"{report['num_tokenized']} of {report['num_files']} files, {report['hours'] * 60:.1f} minutes")
    tokens, held_out = TokenDataset.load(args.output / "tokens").split(held_out=1)

    # 2. the stage, in the pipeline that it comes from
    pipeline = MusicLMPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    play(pipeline, "before.wav")
    stage = getattr(pipeline, f"{args.stage}_model")
    check_tokens(tokens.record, stage, pipeline.components)

    # 3. training
    training = recommended_training_arguments(
        stage, args.output / "training", max_steps=args.steps, warmup_steps=0, learning_rate=1e-4,
        per_device_train_batch_size=4, gradient_accumulation_steps=1, eval_strategy="steps", eval_steps=10,
        logging_steps=5, save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(
        stage, training, train_dataset=tokens, eval_dataset=held_out, data_collator=CropCollator(stage),
        optimizer_cls_and_kwargs=recommended_optimizer(training), **stage_metrics(stage),
    )  # fmt: skip
    trainer.train()

    # 4. the pipeline with the stage as it is now
    stage.eval()
    pipeline.to(training.device)
    play(pipeline, "after.wav")
    pipeline.save_pretrained(args.output / "pipeline")
    print(f"the pipeline is in {args.output / 'pipeline'}; listen to {args.output}/before.wav and after.wav")


if __name__ == "__main__":
    main()
