"""Hours of audio made into tokens an hour, and tokens trained a second.

    python benchmarks/train_and_tokenize.py --model PIPELINE [--music DIR] [--device cuda] [--hidden-size 1024 --layers 24]
        [--original CHECKOUT_OF_zhvng_open-musiclm]

Training is measured on the coarse stage's published crop (12 + 199 + 900 tokens), forward, backward and AdamW, in float32
and in bfloat16 autocast. With `--original`, the original's own transformer and loss are run beside it on the same tokens
(its training loop around them is `accelerate`'s, as the Trainer's is).
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", help="a pipeline, for tokenizing (default: the one in the box)")
parser.add_argument("--music", type=Path, help="audio to tokenize (default: synthesized clips)")
parser.add_argument("--minutes", type=float, default=10.0, help="of synthesized audio")
parser.add_argument("--device", default="cpu")
parser.add_argument("--hidden-size", type=int, default=256)
parser.add_argument("--layers", type=int, default=4)
parser.add_argument("--heads", type=int, default=4)
parser.add_argument("--batch-size", type=int, default=2)
parser.add_argument("--steps", type=int, default=5)
parser.add_argument("--original", type=Path, help="a checkout of the original, to run beside")


def tokenizing(args: argparse.Namespace) -> None:
    from open_musiclm import mini_checkpoint
    from open_musiclm.audio import write_audio
    from open_musiclm.data import MusicTokenizer, TokenizingPlan, find_audio, run_tokenizing

    with tempfile.TemporaryDirectory() as folder:
        music = args.music
        if music is None:
            music = Path(folder) / "music"
            music.mkdir()
            random = np.random.default_rng(0)
            for index in range(round(2 * args.minutes)):  # what is computed does not depend on what it sounds like
                write_audio(music / f"{index:04d}.wav", 0.1 * random.standard_normal(30 * 24_000), 24_000)
        tokenizer = MusicTokenizer.from_pretrained(args.model or mini_checkpoint(), device=args.device)
        plan = TokenizingPlan.make(find_audio(music), Path(folder) / "tokens", tokenizer.streams, tokenizer.describe())
        started = time.perf_counter()
        report = run_tokenizing(plan, tokenizer)
        elapsed = time.perf_counter() - started
    print(f"tokenizing: {report['hours'] * 3600 / elapsed:.1f} hours of audio an hour ({args.device})")


def coarse_batch(batch_size: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    shapes = {"clap_token_ids": (12,), "semantic_token_ids": (199,), "coarse_token_ids": (300, 3)}
    return {name: torch.randint(1024, (batch_size, *shape), generator=random) for name, shape in shapes.items()}


def tokens_a_second(step, args: argparse.Namespace, num_tokens: int) -> float:
    def wait() -> None:
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()

    step()
    wait()
    started = time.perf_counter()
    for _ in range(args.steps):
        step()
    wait()
    return args.steps * num_tokens / (time.perf_counter() - started)


def training(args: argparse.Namespace, precision: str) -> None:
    from open_musiclm import MusicLMCoarseConfig, MusicLMCoarseModel
    from open_musiclm.training import StageAdamW

    config = MusicLMCoarseConfig(
        hidden_size=args.hidden_size, num_hidden_layers=args.layers, num_attention_heads=args.heads
    )
    stage = MusicLMCoarseModel(config).to(args.device).train()
    optimizer = StageAdamW(stage.parameters(), lr=3e-4)
    batch = {name: ids.to(args.device) for name, ids in coarse_batch(args.batch_size).items()}

    def step() -> None:
        with torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=precision == "bf16"):
            loss = stage(**batch, labels=batch["coarse_token_ids"]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(stage.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()

    speed = tokens_a_second(step, args, args.batch_size * (12 + 199 + 900))
    print(f"training, this package, {precision}: {speed:.0f} tokens a second ({args.device})")


def training_original(args: argparse.Namespace) -> None:
    numbers = (args.hidden_size, args.layers, args.heads, args.batch_size, args.steps)
    command = [sys.executable, str(Path(__file__).with_name("original_training.py")), args.original, args.device]
    result = subprocess.run([*map(str, command), *map(str, numbers)], capture_output=True, text=True)
    if result.returncode:
        print(f"the original cannot be run here: {result.stderr.strip().splitlines()[-1]}")
        return
    print(f"training, the original, fp32: {float(result.stdout):.0f} tokens a second ({args.device})")


def main() -> None:
    args = parser.parse_args()
    tokenizing(args)
    for precision in ("fp32", "bf16"):
        training(args, precision)
    if args.original is not None:
        training_original(args)


if __name__ == "__main__":
    main()
