"""Does the sound follow the prompt? Over held-out prompts, how often an output is nearest to its own:

    python examples/mini/evaluate_prompts.py [--model FOLDER] [--num-prompts 40] [--seed 0] [--save-audio DIR]

For each output, the CLAP similarity to its own prompt is compared with its mean similarity to all the other prompts.
The CLAP is the pipeline's own. Prompts are built from sentence templates that training never saw, one for each of the
held-out pieces (another seed sequence than the training pieces).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from captions import write_captions
from compose import draw_truth
from render import SPLITS
from tqdm import tqdm

from open_musiclm import MusicLMPipeline, mini_checkpoint
from open_musiclm.tokenizers.networks import clap_audio_embeddings, clap_text_embeddings


def heldout_prompts(num_prompts: int, seed: int) -> list[str]:
    """Different prompts that say at least two things."""
    prompts: list[str] = []
    index = 0
    while len(prompts) < num_prompts:
        rng = np.random.default_rng([seed, SPLITS.index("heldout"), 100_000 + index])
        caption = write_captions(draw_truth(rng), rng, num_captions=1, heldout=True)[0]
        if len(caption["requires"]) >= 2 and caption["text"] not in prompts:
            prompts.append(caption["text"])
        index += 1
    return prompts


def generate(
    pipeline: MusicLMPipeline, prompts: list[str], length_in_s: float, seed: int, batch_size: int
) -> np.ndarray:
    """float32 (prompts, samples): each prompt with a generator of its own."""
    outputs = []
    pipeline.set_progress_bar_config(disable=True)
    for start in tqdm(range(0, len(prompts), batch_size), desc="generate", unit="batch"):
        some = prompts[start : start + batch_size]
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(some))]
        outputs.append(pipeline(some, audio_length_in_s=length_in_s, generator=generators).audios[:, 0])
    return np.concatenate(outputs)


def share_of_own_prompt_wins(similarities: np.ndarray) -> float:
    """(outputs, prompts) → the share of outputs nearer to their own prompt than on average to the others."""
    own = np.diagonal(similarities)
    others = (similarities.sum(axis=1) - own) / (similarities.shape[1] - 1)
    return float(np.mean(own > others))


def sound_figures(audio: np.ndarray) -> dict[str, float]:
    """How loud, how silent, how clipped: of (outputs, samples)."""
    levels = 10 * np.log10(np.mean(audio**2, axis=1) + 1e-12)
    return {
        "level in dBFS, lowest": float(levels.min()),
        "level in dBFS, median": float(np.median(levels)),
        "level in dBFS, highest": float(levels.max()),
        "share of outputs below -50 dBFS": float(np.mean(levels < -50)),
        "share of samples at or over full scale": float(np.mean(np.abs(audio) >= 0.999)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a pipeline folder (default: the one in the box)")
    parser.add_argument("--num-prompts", type=int, default=40)
    parser.add_argument("--length-in-s", type=float, default=10.0)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-audio", type=Path, help="write the outputs here as WAV")
    arguments = parser.parse_args()
    pipeline = MusicLMPipeline.from_pretrained(arguments.model or mini_checkpoint())
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    prompts = heldout_prompts(arguments.num_prompts, arguments.seed)
    audio = generate(pipeline, prompts, arguments.length_in_s, arguments.seed, arguments.batch_size)
    texts = clap_text_embeddings(pipeline.clap, pipeline.clap_processor, prompts)
    window = round(pipeline.clap_quantizer.config.window_in_s * pipeline.sampling_rate)
    sounds = clap_audio_embeddings(pipeline.clap, pipeline.clap_processor, torch.from_numpy(audio[:, :window]))
    similarities = (sounds @ texts.T).float().cpu().numpy()
    for prompt, row, own in zip(prompts, similarities, np.diagonal(similarities), strict=True):
        print(f"{own:+.2f} own, {np.mean(row):+.2f} all  {prompt}")
    share = share_of_own_prompt_wins(similarities)
    ranks = (similarities > np.diagonal(similarities)[:, None]).sum(axis=1)
    figures = sound_figures(audio)
    print(json.dumps(figures, indent=2))
    print(f"own prompt among the nearest tenth of the prompts: {np.mean(ranks < len(prompts) / 10):.0%}")
    print(f"similarity to its own prompt beats the mean over the others: {share:.1%} of {len(prompts)} (target: 70%)")
    if arguments.save_audio:
        from open_musiclm.audio import write_audio

        arguments.save_audio.mkdir(parents=True, exist_ok=True)
        for i, (prompt, samples) in enumerate(zip(prompts, audio, strict=True)):
            path = arguments.save_audio / f"{i:02d}.wav"
            write_audio(path, samples[None], pipeline.sampling_rate, {"prompt": prompt})


if __name__ == "__main__":
    main()
