"""Train the three stages.

The semantic stage needs no sound: its tokens are what an exact ear would write down, so it trains on endless fresh scores,
each seen once. The acoustic stages train on windows of the tokens of rendered clips. MusicLM conditions on CLAP tokens of
the audio and generates from those of a text; a small CLAP leaves a gap between the two, so more than half of the windows
are conditioned on tokens of a caption. Streams are hidden at random, so that a stage can be asked with any of them.

What a text says is decided in a window's first frames; the rest follows from them and would drown it. So the loss weighs
the first frames more, by their time alone, and every other batch of the semantic stage is of short windows.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from aligning import point_at_condition, spoil_history, start_aligned, told_to_sing
from batches import Batches, FreshScores, PooledScores, ScoreBatches, ScoreMaker, WindowBatches
from describe import DESCRIPTIONS
from recipe import Recipe, Training
from safetensors.torch import load_file
from silence import harmony_weighs, hide_all_but_ends, put_in_rests
from training_loop import autocast, pick_device, train

from open_musiclm import (
    ClapQuantizer,
    MusicLMCoarseConfig,
    MusicLMCoarseModel,
    MusicLMFineConfig,
    MusicLMFineModel,
    MusicLMSemanticConfig,
    MusicLMSemanticModel,
    MusicLMStageModel,
    SemanticQuantizer,
    SpectralCodecModel,
    TokenStream,
)
from open_musiclm.tokenizers.compatibility import acoustic_stream, clap_stream, semantic_stream

STAGES = ("semantic", "coarse", "fine")
#: what becomes of the histories that a stage is taught with
SPOILING = {"semantic": put_in_rests, "coarse": spoil_history}
#: conditions of which a stage reads the frame that it predicts
ALIGNED = {"semantic": ("lyrics", "melody", "timing"), "coarse": ("semantic",), "fine": ()}


def stage_streams(name: str, models: Path, recipe: Recipe) -> list[TokenStream]:
    """What a stage reads and, last, predicts; with the fingerprints of the codebooks in `models`."""
    clap = clap_stream(ClapQuantizer.from_pretrained(models / "clap_quantizer"))
    semantic = semantic_stream(SemanticQuantizer.from_pretrained(models / "semantic_quantizer"))
    codec = SpectralCodecModel.from_pretrained(models / "codec", dtype=torch.float32)
    coarse = acoustic_stream(codec, "coarse", 0, recipe.num_coarse)
    fine = acoustic_stream(codec, "fine", recipe.num_coarse, recipe.num_fine)

    def laid(stream: TokenStream, pattern: str, **fields: object) -> TokenStream:
        return TokenStream(**{**stream.to_dict(), "pattern": pattern, **fields})

    if name == "semantic":
        described = [TokenStream(stream, optional=True, **fields) for stream, fields in DESCRIPTIONS.items()]
        return [*described, clap, laid(semantic, "delay")]
    if name == "coarse":
        following = acoustic_stream(codec, "coarse_after", 0, 1)
        after = laid(following, "parallel", optional=True, context="after", context_in_s=recipe.after_in_s)
        return [after, clap, laid(semantic, "parallel"), laid(coarse, "delay")]
    return [clap, laid(coarse, "parallel"), fine]


def make_stage(name: str, models: Path, recipe: Recipe) -> MusicLMStageModel:
    """An untrained stage."""
    model_class, config_class, window_in_s, stride_in_s, positions = {
        # with learned positions, frames of one stream find those of another
        "semantic": (MusicLMSemanticModel, MusicLMSemanticConfig, 10.0, 5.0, 256),
        "coarse": (MusicLMCoarseModel, MusicLMCoarseConfig, 4.0, 2.0, 256),
        "fine": (MusicLMFineModel, MusicLMFineConfig, 2.0, 2.0, None),
    }[name]
    config = config_class(
        streams=[stream.to_dict() for stream in stage_streams(name, models, recipe)],
        hidden_size=recipe.stage_hidden_size[STAGES.index(name)],
        num_hidden_layers=recipe.stage_num_layers[STAGES.index(name)],
        num_attention_heads=4,
        head_dim=64,
        intermediate_size=2 * recipe.stage_hidden_size[STAGES.index(name)],
        max_position_embeddings=positions,
        window_in_s=window_in_s,
        window_stride_in_s=stride_in_s,
        hidden_dropout=0.0,
        forgetful_mask_prob=0.0,
        gradient_shrink=1.0,
        condition_dropout=recipe.condition_dropout,
    )
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        stage = model_class(config)
        start_from_embeddings(stage, ClapQuantizer.from_pretrained(models / "clap_quantizer"))
        if ALIGNED[name]:
            start_aligned(stage, ALIGNED[name])
    stage.set_attn_implementation("eager")  # half the time of sdpa's on a CPU, at these sizes
    return stage


@torch.no_grad()
def start_from_embeddings(stage: MusicLMStageModel, quantizer: ClapQuantizer) -> None:
    """Let each CLAP token's row begin as a random projection of the codebook entry that it stands for.

    The rows of one embedding then add up to its projection, and texts that mean nearly the same are near from the first
    step on. From independent random rows the stages here have learnt nothing of their condition in a thousand steps.
    """
    rows = stage.embeddings["clap"].weight
    entries = quantizer.codebooks.flatten(0, 1)
    projection = 4 * torch.randn(entries.shape[1], rows.shape[1])
    rows[: len(entries)] = entries @ projection


def early_loss(
    logits: torch.Tensor,
    token_ids: torch.Tensor,
    first: float,
    early: float,
    decay: float,
    more: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cross-entropy of (batch, tokens …, vocabulary) to (batch, frames, codebooks), the first frames weighted.

    Frame t weighs 1 + early · exp(-t / decay), the very first one `first` more, and `more` (batch, frames, codebooks) is
    added; the weights know nothing of the tokens.
    """
    labels = token_ids.flatten(1)
    frames = torch.arange(labels.shape[1], device=labels.device) // token_ids.shape[2]
    weights = 1 + first * (frames == 0) + early * torch.exp(-frames / decay)
    weights = weights.expand(labels.shape)
    if more is not None:
        weights = weights + more.flatten(1)
    losses = F.cross_entropy(logits[:, : labels.shape[1]].flatten(0, 1), labels.flatten(), reduction="none")
    return (losses.view(labels.shape) * weights).sum() / weights.sum()


def train_stage(name: str, tokens: Path, work: Path, models: Path, recipe: Recipe, start: Path | None = None) -> None:
    """Train a stage and save it as `models / NAME_model`; with `start`, a pipeline's folder, on from its weights."""
    output = models / f"{name}_model"
    if (output / "model.safetensors").exists():
        return
    device = pick_device()
    stage = make_stage(name, models, recipe)
    if start is not None:
        stage.load_state_dict(load_file(start / f"{name}_model" / "model.safetensors"))
    stage.to(device)
    training: Training = getattr(recipe, f"{name}_stage")
    scores: FreshScores | PooledScores | None = None
    if name == "semantic":
        first, make = recipe.num_train_clips + recipe.num_token_clips, ScoreMaker(models, recipe, "train")
        if device.type == "cuda":
            scores = PooledScores(make, first, recipe.num_score_workers, device)
        else:
            scores = FreshScores(make, first, max(training.batch_size, recipe.num_short_windows))
        batches: Batches = ScoreBatches(scores, recipe, training.batch_size, described=True, mixed=True)
        heldout: Batches = ScoreBatches(FreshScores(ScoreMaker(models, recipe, "heldout"), 1000, 16), recipe, 16)
    else:
        batches = WindowBatches(tokens, "train", stage, recipe, training.batch_size, device)
        heldout = WindowBatches(tokens, "heldout", stage, recipe, 16, device)
    if device.type == "cuda":
        stage.set_attn_implementation("sdpa")
    predicted = stage.predicted_stream.argument
    checkpoint = work / f"{name}-stage.pt"
    if name == "coarse":
        if start is None and not checkpoint.exists():
            point_at_condition(stage, "semantic", head=stage.config.num_attention_heads - 1)
        stage.decoder.position_bias.requires_grad_(False)  # steep units would not stand still

    def compute_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        batch = {key: ids.to(device) for key, ids in batches(step).items()}
        with torch.random.fork_rng(), autocast(device):
            torch.manual_seed(int(torch.randint(1 << 62, (), generator=generator)))
            history, more = batch[predicted], None
            if name in SPOILING:
                history = SPOILING[name](history, generator)
            read = batch | {predicted: history}
            if name == "semantic":
                read = hide_all_but_ends(read, stage)
                more = harmony_weighs(history, recipe)
                sung = told_to_sing(read, history.shape, recipe)
                more = more if sung is None else more + sung
            logits = stage(**read, hide_conditions=name != "semantic").logits
        weights = recipe.early_weights[STAGES.index(name)]
        return {"loss": early_loss(logits.float(), batch[predicted], *weights, more)}

    train(
        f"{name} stage",
        stage,
        compute_loss,
        last_step=training.num_steps,
        num_schedule_steps=training.num_steps,
        learning_rate=training.learning_rate,
        checkpoint_path=checkpoint,
        seed=recipe.seed + 10 + STAGES.index(name),
        betas=(0.9, 0.98),
    )
    if isinstance(scores, PooledScores):
        print(f"{name} stage: {scores.size} scores were composed")
        scores.close()
    report_conditions(name, stage, heldout)
    stage.set_attn_implementation("sdpa")
    part = output.with_name(output.name + ".part")
    stage.float().cpu().save_pretrained(part)
    part.rename(output)


@torch.no_grad()
def report_conditions(name: str, stage: MusicLMStageModel, batches: Batches, num_batches: int = 6) -> None:
    """Print held-out losses of all tokens and of the first five frames, and what it costs to give each sample another
    one's condition."""
    losses: dict[str, list[tuple[float, float]]] = {}
    predicted = stage.predicted_stream
    num_early = 5 * predicted.num_codebooks
    for number in range(num_batches):
        batch = {key: ids.to(stage.device) for key, ids in batches(number).items()}
        labels = batch[predicted.argument]
        swapped = {
            s.name: {s.argument: batch[s.argument].roll(1, dims=0)}
            for s in stage.condition_streams
            if s.argument in batch
        }
        for key, change in {"own": {}, **swapped}.items():
            logits = stage(**batch | change).logits.float()[:, : labels.flatten(1).shape[1]]
            each = F.cross_entropy(logits.transpose(1, 2), labels.flatten(1), reduction="none")
            losses.setdefault(key, []).append((each.mean().item(), each[:, :num_early].mean().item()))
    means = {key: np.mean(values, axis=0) for key, values in losses.items()}
    whole, early = means.pop("own")
    chance = math.log(predicted.codebook_size)
    print(
        f"{name} stage: held-out loss {whole:.3f} nats a token, {early:.3f} in the first 0.2 s (guessing: {chance:.2f})"
    )
    for key, (other, other_early) in means.items():
        print(
            f"  another clip's {key} tokens cost {other - whole:.3f} nats a token, {other_early - early:.3f} at first"
        )


def train_stages(tokens: Path, work: Path, models: Path, recipe: Recipe) -> None:
    for name in STAGES:
        train_stage(name, tokens, work, models, recipe)
