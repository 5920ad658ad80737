"""Train the three stages.

The semantic stage needs no sound: its tokens are what an exact ear would write down, so it trains on endless fresh scores,
each seen once. The acoustic stages train on windows of the tokens of rendered clips. MusicLM conditions on CLAP tokens of
the audio and generates from those of a text; a small CLAP leaves a gap between the two, so more than half of the windows
are conditioned on tokens of a caption. Streams are hidden at random, so that a stage can be asked with any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from captions import write_captions
from compose import compose, draw_truth, frame_truth
from corpus import ATTRIBUTE_VALUES
from describe import DESCRIPTIONS, describe
from features import embed_texts
from fit_codebooks import blur
from recipe import Recipe, Training
from render import SPLITS
from tokenize_corpus import load_tokens
from train_clap import load_attribute_table
from train_semantic_encoder import frame_labels, joint_labels
from training_loop import autocast, pick_device, train
from transformers import ClapModel, ClapProcessor

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
from open_musiclm.models.streams import PADDING_ID
from open_musiclm.tokenizers.compatibility import acoustic_stream, clap_stream, semantic_stream

CAPTION_SHARE = 0.6
DESCRIBED_SHARE = 0.55  # of the windows of the semantic stage that are told anything beside CLAP tokens
STAGES = ("semantic", "coarse", "fine")
Batches = Callable[[int], dict[str, torch.Tensor]]


class ScoreBatches:
    """Batches of fresh scores for the semantic stage: batch i is the same in every run.

    Args:
        first_index: clips of the split from this index on are used.
        described: tell the streams of `DESCRIPTIONS` to some of the samples; otherwise they are left out.
    """

    def __init__(self, models: Path, recipe: Recipe, batch_size: int, split: str, first_index: int, described: bool):
        self.recipe, self.batch_size, self.split, self.first_index = recipe, batch_size, split, first_index
        self.described = described
        self.clap = ClapModel.from_pretrained(models / "clap", dtype=torch.float32).eval()
        self.processor = ClapProcessor.from_pretrained(models / "clap")
        self.clap_quantizer = ClapQuantizer.from_pretrained(models / "clap_quantizer")
        self.table = load_attribute_table(models)

    @torch.no_grad()
    def __call__(self, number: int) -> dict[str, torch.Tensor]:
        truths, texts, tokens, said = [], [], [], []
        for index in range(self.batch_size):
            index += self.first_index + number * self.batch_size
            rng = np.random.default_rng([self.recipe.seed, SPLITS.index(self.split), index])
            score = compose(draw_truth(rng, self.recipe.clip_length_in_s), rng)
            frames = frame_truth(score, self.recipe.clip_length_in_s)
            truths.append(score.truth)
            texts.append(write_captions(score.truth, rng, 1)[0]["text"])
            labels = frame_labels({"truth": score.truth.as_dict(), "frames": frames})
            tokens.append(torch.stack(joint_labels(torch.from_numpy(labels)), dim=-1)[:-1])
            said.append(describe(score.truth, frames))
        rng = np.random.default_rng([self.recipe.seed, 7, self.first_index + number])
        generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
        values = [[v.index(getattr(t, name)) for name, v in ATTRIBUTE_VALUES.items()] for t in truths]
        points = blur(self.table(torch.tensor(values)), self.recipe.clap_noise, generator)
        by_text = torch.from_numpy(rng.random(len(texts)) < CAPTION_SHARE)
        embeddings = torch.where(by_text[:, None], embed_texts(self.clap, self.processor, texts), points)
        batch = {"clap_token_ids": self.clap_quantizer.encode(embeddings), "semantic_token_ids": torch.stack(tokens)}
        if self.described:
            batch |= self._descriptions(said, rng)
        return batch

    def _descriptions(self, said: list[dict[str, np.ndarray]], rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Each stream told to some samples; the long ones (melody, lyrics) are left out of most batches as a whole."""
        told, batch = rng.random(len(said)) < DESCRIBED_SHARE, {}
        for name, fields in DESCRIPTIONS.items():
            ids = torch.from_numpy(np.stack([some[name] for some in said]))
            if fields.get("frame_rate", 0) > 1 and rng.random() < 0.6:
                ids = ids[:, :0]
            else:
                hidden = ~(told & (rng.random(len(said)) < (0.8 if name == "lyrics" else 0.5)))
                ids = ids.masked_fill(torch.from_numpy(hidden)[:, None, None], PADDING_ID)
            batch[f"{name}_token_ids"] = ids
        return batch


class WindowBatches:
    """Batches of random windows of tokens for an acoustic stage: batch i is the same in every run."""

    def __init__(self, folder: Path, split: str, stage: MusicLMStageModel, recipe: Recipe, batch_size: int):
        self.tokens, self.stage, self.recipe, self.batch_size = load_tokens(folder, split), stage, recipe, batch_size

    def __call__(self, number: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.recipe.seed, 8, number])
        stage, tokens = self.stage, self.tokens
        window = round(stage.config.window_in_s * self.recipe.frame_rate)
        longest = max(
            (round(s.context_in_s * self.recipe.frame_rate) for s in stage.streams if s.context_in_s), default=0
        )
        num_frames = tokens["codec"].shape[1]
        items = []
        for clip in rng.integers(len(tokens["codec"]), size=self.batch_size):
            first = int(rng.integers(num_frames - window - longest + 1))
            by_text = rng.random() < CAPTION_SHARE
            caption = int(rng.integers(tokens["clap_text"].shape[1]))
            heard = "semantic" if rng.random() < 0.5 else "score"  # as it is heard, or as the stage before writes it
            item = {}
            for stream in stage.streams:
                if stream.source == "clap":
                    ids = tokens["clap_text"][clip, caption] if by_text else tokens["clap_audio"][clip]
                elif stream.source == "semantic":
                    ids = tokens[heard][clip, first : first + window - stream.num_edge_frames]
                else:
                    start = first + (window if stream.context == "after" else 0)
                    size = round(stream.context_in_s * self.recipe.frame_rate) if stream.context_in_s else window
                    books = slice(stream.first_codebook, stream.first_codebook + stream.num_codebooks)
                    ids = tokens["codec"][clip, start : start + size, books]
                    if stream.context == "after" and rng.random() < 0.6:
                        ids = torch.full_like(ids, PADDING_ID)
                item[stream.argument] = ids.long()
            items.append(item)
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}


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
        after = {"name": "coarse_after", "optional": True, "context": "after", "context_in_s": recipe.after_in_s}
        return [clap, laid(coarse, "parallel", **after), laid(semantic, "parallel"), laid(coarse, "delay")]
    return [clap, laid(coarse, "parallel"), laid(fine, "delay")]


def make_stage(name: str, models: Path, recipe: Recipe) -> MusicLMStageModel:
    """An untrained stage."""
    model_class, config_class, window_in_s, stride_in_s, positions = {
        # streams of several rates are told apart by learned positions
        "semantic": (MusicLMSemanticModel, MusicLMSemanticConfig, 10.0, 5.0, 256),
        "coarse": (MusicLMCoarseModel, MusicLMCoarseConfig, 4.0, 2.0, None),
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
    stage.set_attn_implementation("eager")  # half the time of sdpa's on a CPU, at these sizes
    return stage


def train_stage(name: str, tokens: Path, work: Path, models: Path, recipe: Recipe) -> None:
    output = models / f"{name}_model"
    if (output / "model.safetensors").exists():
        return
    device = pick_device()
    stage = make_stage(name, models, recipe).to(device)
    training: Training = getattr(recipe, f"{name}_stage")
    if name == "semantic":
        first = recipe.num_train_clips + recipe.num_token_clips
        batches: Batches = ScoreBatches(models, recipe, training.batch_size, "train", first, described=True)
        heldout: Batches = ScoreBatches(models, recipe, 16, "heldout", 1000, described=False)
    else:
        batches = WindowBatches(tokens, "train", stage, recipe, training.batch_size)
        heldout = WindowBatches(tokens, "heldout", stage, recipe, 16)
    predicted = stage.predicted_stream.argument

    def compute_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        batch = {key: ids.to(device) for key, ids in batches(step).items()}
        with torch.random.fork_rng(), autocast(device):
            torch.manual_seed(int(torch.randint(1 << 62, (), generator=generator)))
            return {"loss": stage(**batch, labels=batch[predicted]).loss}

    train(
        f"{name} stage",
        stage,
        compute_loss,
        last_step=training.num_steps,
        num_schedule_steps=training.num_steps,
        learning_rate=training.learning_rate,
        checkpoint_path=work / f"{name}-stage.pt",
        seed=recipe.seed + 10 + STAGES.index(name),
        betas=(0.9, 0.98),
    )
    report_conditions(name, stage, heldout)
    stage.set_attn_implementation("sdpa")
    part = output.with_name(output.name + ".part")
    stage.float().cpu().save_pretrained(part)
    part.rename(output)


@torch.no_grad()
def report_conditions(name: str, stage: MusicLMStageModel, batches: Batches, num_batches: int = 6) -> None:
    """Print the held-out loss, and what it costs to give each sample another one's condition."""
    batch_losses: dict[str, list[float]] = {"own": []}
    for number in range(num_batches):
        batch = {key: ids.to(stage.device) for key, ids in batches(number).items()}
        labels = batch[stage.predicted_stream.argument]
        batch_losses["own"].append(stage(**batch, labels=labels).loss.item())
        for stream in stage.condition_streams:
            if stream.argument in batch:
                swapped = batch | {stream.argument: batch[stream.argument].roll(1, dims=0)}
                batch_losses.setdefault(stream.name, []).append(stage(**swapped, labels=labels).loss.item())
    means = {key: float(np.mean(values)) for key, values in batch_losses.items()}
    chance = math.log(stage.predicted_stream.codebook_size)
    print(f"{name} stage: held-out loss {means['own']:.3f} nats a token (a uniform guess has {chance:.2f})")
    for key in means.keys() - {"own"}:
        print(f"  another clip's {key} tokens cost {means[key] - means['own']:.3f} nats")


def train_stages(tokens: Path, work: Path, models: Path, recipe: Recipe) -> None:
    for name in STAGES:
        train_stage(name, tokens, work, models, recipe)
