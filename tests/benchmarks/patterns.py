"""How the codebooks of a frame lie in the sequence: flat, delay, parallel, and a single stage, on one small corpus.

python -m tests.benchmarks.patterns --folder work/ --steps 200

Each acoustic stage is trained from nothing on the same crops for as many steps, and heard on the captions of clips that
nothing was trained on, from the same semantic tokens. Those, the fine stage and everything else are of the model in the box.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel

from open_musiclm import MusicLMPipeline, mini_checkpoint
from open_musiclm.audio import read_audio
from open_musiclm.data import TokenDataset
from open_musiclm.evaluation.metrics.frechet import frechet_distance
from open_musiclm.models.patterns import num_steps
from open_musiclm.tokenizers.clap import clap_audio_embeddings, clap_text_embeddings
from open_musiclm.training import CropCollator, TrainingPlan, train_stage

from .machine import describe, table
from .small_corpus import RATE, make_tokens

#: smaller than the box's stages, so that four of them are trained in minutes
SIZE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_dropout": 0.0,
    "forgetful_mask_prob": 0.0,
    "condition_dropout": 0.1,
    "window_in_s": 2.0,
    "window_stride_in_s": 1.0,
}
#: name → kind of stage, pattern of what it predicts
VARIANTS = {
    "flat": ("coarse", "flat"),
    "delay": ("coarse", "delay"),
    "parallel": ("coarse", "parallel"),
    "single stage": ("acoustic", "delay"),
}
SAMPLING = {"temperature": 0.8, "top_k": 100}
LENGTH_IN_S = 4.0
BATCH = 8


def trained_stage(name: str, folder: Path, tokens: Path, held_out: Path, steps: int, learning_rate: float) -> dict:
    """Train one variant, once; its summary."""
    kind, pattern = VARIANTS[name]
    plan = TrainingPlan(
        stage=kind,
        tokens=str(tokens),
        evaluation_tokens=str(held_out),
        output=str(folder / f"{name.replace(' ', '-')}-{steps}"),
        pattern=pattern,
        config=SIZE,
        steps=steps,
        batch_size=BATCH,
        accumulate=1,
        learning_rate=learning_rate,
        warmup_steps=steps // 20,
        evaluate_every=steps,
        log_every=max(steps // 10, 1),
        device="cpu",
        arguments={"lr_scheduler_type": "cosine"},
    )
    return {**train_stage(plan), "folder": Path(plan.output) / "stage"}


def make_pipeline(name: str, stage) -> MusicLMPipeline:
    """The box with this stage in its coarse one's place, or alone."""
    stage.config.window_stride_in_s = stage.config.window_in_s  # the frames of all the box's streams meet every 2 s
    box = MusicLMPipeline.from_pretrained(mini_checkpoint())
    parts = {part: component for part, component in box.components.items() if component is not None}
    if VARIANTS[name][0] == "coarse":
        return MusicLMPipeline(**{**parts, "coarse_model": stage})
    kept = {part: component for part, component in parts.items() if not part.endswith("_model")}
    return MusicLMPipeline(**kept, acoustic_model=stage)


def structure(box: MusicLMPipeline, captions: list[str]) -> dict[str, torch.Tensor]:
    """The CLAP tokens of the captions, and the semantic tokens that the box makes of them, the same for every variant."""
    clap = box.encode_prompt(captions)
    generators = [torch.Generator().manual_seed(index) for index in range(len(captions))]
    return {"clap": clap, "semantic": box.generate_tokens("semantic", {"clap": clap}, LENGTH_IN_S, generators)}


def hear(pipe: MusicLMPipeline, stage_name: str, tokens: dict[str, torch.Tensor]) -> np.ndarray:
    """A clip a caption (clips, samples), each from its own seed."""
    pipe.set_progress_bar_config(disable=True)
    made = []
    for first in range(0, len(tokens["clap"]), BATCH):
        asked = {f"{n}_token_ids": ids[first : first + BATCH] for n, ids in tokens.items() if n in pipe.chain.streams}
        generators = [torch.Generator().manual_seed(first + index) for index in range(len(asked["clap_token_ids"]))]
        settings = {f"{stage_name}_settings": SAMPLING}
        made.append(pipe(audio_length_in_s=LENGTH_IN_S, generator=generators, **asked, **settings).audios[:, 0])
    return np.concatenate(made)


def embed(pipe: MusicLMPipeline, audio: np.ndarray) -> np.ndarray:
    """CLAP embeddings of unit length (clips, dim)."""
    from open_musiclm.audio import resample

    rate = pipe.clap_processor.feature_extractor.sampling_rate
    clips = np.stack([resample(clip, RATE, rate) for clip in audio.astype(np.float32)])
    return torch.nn.functional.normalize(clap_audio_embeddings(pipe.clap, pipe.clap_processor, clips), dim=-1).numpy()


def cpu_seconds(function: Callable[[], object], repeats: int = 3) -> float:
    """The least of several calls, in seconds of a processor: what else the machine does is not in it."""
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        function()
        taken.append(time.process_time() - started)
    return min(taken)


def a_batch(stage, tokens: Path) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What one step reads, and its labels."""
    dataset = TokenDataset.load(tokens, crops_per_file=1)
    batch = CropCollator(stage, record=dataset.record)([dataset[index] for index in range(BATCH)])
    predicted = batch[stage.predicted_stream.argument]
    return {name: ids for name, ids in batch.items() if name != "labels"}, predicted.flatten(1)


def learn(stage, ids: dict[str, torch.Tensor], labels: torch.Tensor) -> None:
    """What a training step computes."""
    stage.train()(**ids, labels=labels).loss.backward()


def loss_of(evaluation: dict, num_codebooks: int) -> float:
    """Mean loss of the first codebooks, EOS not counted."""
    return float(np.mean([evaluation[f"eval_loss_codebook_{codebook}"] for codebook in range(num_codebooks)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="clips, tokens and trainings are kept here")
    parser.add_argument("--clips", type=int, nargs=2, default=[200, 32], metavar=("TRAIN", "HELDOUT"))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--captions", type=int, default=16, help="of held-out clips, to be heard")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    args = parser.parse_args()
    tokens, _ = make_tokens(args.folder, "train", args.clips[0])
    held_out, captions = make_tokens(args.folder, "heldout", args.clips[1])
    box = MusicLMPipeline.from_pretrained(mini_checkpoint())
    box.set_progress_bar_config(disable=True)
    captions = captions[: args.captions]
    tokens_of_captions = structure(box, captions)
    names = sorted((args.folder / "heldout").glob("*.flac"))[: args.captions]
    real = embed(box, np.stack([read_audio(path)[0][0, : round(LENGTH_IN_S * RATE)] for path in names]))
    texts = torch.nn.functional.normalize(clap_text_embeddings(box.clap, box.clap_processor, captions), dim=-1).numpy()

    def judged(audio: np.ndarray) -> tuple[float, float]:
        heard = embed(box, audio)
        return float((heard * texts).sum(axis=1).mean()), float(frechet_distance(heard, real))

    rows = []
    for name, (kind, _) in VARIANTS.items():
        summary = trained_stage(name, args.folder, tokens, held_out, args.steps, args.learning_rate)
        stage = AutoModel.from_pretrained(summary["folder"])
        pipe = make_pipeline(name, stage)
        score, distance = judged(hear(pipe, kind, tokens_of_captions))
        stream = stage.predicted_stream
        frames = round(stage.config.window_in_s * stream.frame_rate)
        generate = partial(stage.generate, frames, clap_token_ids=tokens_of_captions["clap"][:1], **SAMPLING)
        window = cpu_seconds(generate)
        step = cpu_seconds(partial(learn, stage, *a_batch(stage, held_out)))
        losses = summary["evaluation"]
        rows.append([
            name, str(num_steps(stream, frames)), f"{loss_of(losses, 3):.3f}", f"{score:.3f}", f"{distance:.3f}",
            f"{window / stage.config.window_in_s:.3f}", f"{step:.2f}",
        ])  # fmt: skip
        print(json.dumps(dict(zip(HEADER, rows[-1], strict=True))), flush=True)
    score, distance = judged(hear(box, "coarse", tokens_of_captions))
    rows.append(["the box's own stages", "", "", f"{score:.3f}", f"{distance:.3f}", "", ""])
    half = len(real) // 2
    recordings = [
        f"{float((real * texts).sum(axis=1).mean()):.3f}",
        f"{float(frechet_distance(real[:half], real[half:])):.3f} (halves)",
    ]
    rows.append(["the recordings", "", "", *recordings, "", ""])
    print(describe(torch.device("cpu")))
    print(
        f"{args.clips[0]} clips of 10 s, {args.steps} steps of {BATCH}; {len(captions)} captions, {LENGTH_IN_S:g} s each"
    )
    print("\n".join(table(HEADER, rows)))


HEADER = [
    "acoustic stage", "steps a window", "held-out loss, codebooks 1 to 3", "CLAP score", "FAD (CLAP)",
    "CPU s a second of audio", "CPU s a training step",
]  # fmt: skip


if __name__ == "__main__":
    main()
