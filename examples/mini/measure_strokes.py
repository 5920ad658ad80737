"""Whether strokes and notes come when the semantic tokens say so:

    python examples/mini/measure_strokes.py [--model FOLDER] [--num-clips 20]

For the scores of held-out clips, written exactly, the coarse stage makes codes; their rises of level are held against the
frames in which the score begins a note or a stroke. The clips themselves, through the codec, are the ceiling. A second
line gives the stage each clip's own codes as its history, two frames late: a stage that tells the time by its past
follows them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from captions import write_captions
from compose import frame_truth
from recipe import Recipe
from render import make_score, render
from torch.nn import functional as F
from train_semantic_encoder import frame_labels, joint_labels

from open_musiclm import MusicLMPipeline, mini_checkpoint
from open_musiclm.tokenizers.codec import as_codec

MOVED = 2  # frames


def rises(codec, codes: torch.Tensor) -> torch.Tensor:
    """Codes (clips, frames, codebooks) → bool (clips, frames): the level of log magnitudes rises, more than around it."""
    latents = codec.quantizer.decode(codes.permute(2, 0, 1))
    levels = torch.log(torch.exp(codec.decoder(latents).clamp(max=7.5)) + 1).mean(dim=1)
    levels = levels.unflatten(1, (-1, codec.config.spectra_per_frame)).mean(dim=2)
    rise = F.pad((levels[:, 1:] - levels[:, :-1]).clamp(min=0), (1, 0))
    found = (rise >= F.pad(rise, (1, 0))[:, :-1]) & (rise > F.pad(rise, (0, 1))[:, 1:])
    found &= rise > rise.quantile(0.98, dim=1, keepdim=True) / 4
    found[:, 0] = False
    return found


def shares(found: torch.Tensor, begun: torch.Tensor) -> str:
    """Of what is begun, how much is found on its frame and within one frame; of what is found, how much is begun."""
    both = []
    for reach in (0, 1):
        near = [F.max_pool1d(x[:, None].float(), 2 * reach + 1, 1, reach)[:, 0] > 0 for x in (begun, found)]
        both.append(((begun & near[1]).sum() / begun.sum(), (found & near[0]).sum() / found.sum()))
    return ", ".join(
        f"{name}: {recall:.0%} of those written are heard, {precision:.0%} of those heard are written"
        for name, (recall, precision) in zip(("on their frame", "within a frame"), both, strict=True)
    )


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a pipeline's folder (default: the one in the box)")
    parser.add_argument("--num-clips", type=int, default=20)
    arguments = parser.parse_args()
    recipe = Recipe()
    pipe = MusicLMPipeline.from_pretrained(arguments.model or mini_checkpoint())
    stage, codec = pipe.coarse_model, pipe.codec
    num_frames = round(stage.config.window_in_s * recipe.frame_rate)
    audios, labels, texts = [], [], []
    for index in range(1000, 1000 + arguments.num_clips):
        score, _ = make_score(index, "heldout", recipe.seed, recipe.clip_length_in_s)
        audios.append(render(score, recipe.clip_length_in_s, recipe.sampling_rate))
        frames = frame_truth(score, recipe.clip_length_in_s)
        labels.append(frame_labels({"truth": score.truth.as_dict(), "frames": frames}))
        texts.append(write_captions(score.truth, np.random.default_rng(index), 1)[0]["text"])
    written = torch.from_numpy(np.stack(labels))
    # of the factors: strokes, whether chord or bass begin, whether the tune does
    begun = ((written[..., 1] > 0) | (written[..., 3] > 0) | (written[..., 5] > 0))[:, :num_frames]
    begun[:, 0] = False
    tokens = torch.stack(joint_labels(written), dim=-1)[:, : num_frames - 1]
    num_codebooks = stage.predicted_stream.num_codebooks
    codes = as_codec(codec).encode(torch.from_numpy(np.stack(audios))[:, None])[:, :num_frames, :num_codebooks]
    given = {"clap_token_ids": pipe.encode_prompt(texts), "semantic_token_ids": tokens}
    print("the clips, through the codec:", shares(rises(codec, codes), begun))
    generators = [torch.Generator().manual_seed(seed) for seed in range(arguments.num_clips)]
    made = stage.generate(num_frames=num_frames, generator=generators, **given)
    print("what the stage makes:", shares(rises(codec, made), begun))
    logits = stage(coarse_token_ids=codes.roll(MOVED, dims=1), **given).logits[:, : num_frames * num_codebooks]
    heard = rises(codec, logits.argmax(dim=-1).unflatten(1, (num_frames, num_codebooks)))
    print(f"with the clips' codes {MOVED} frames late as its history:", shares(heard, begun))


if __name__ == "__main__":
    main()
