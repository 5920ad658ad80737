"""A rest is not an end.

Silence follows silence wherever the corpus has it, so a stage that once falls silent would stay so. Only a piece that ends,
which is told wherever anything is, does: any other goes on after the rests that are put into its history here.
"""

from __future__ import annotations

import torch
from describe import NUM_TIMES
from recipe import Recipe
from train_semantic_encoder import FACTORS

from open_musiclm import MusicLMStageModel
from open_musiclm.models.masks import drop_conditions

REST_SHARE = 0.25  # of the windows in which no piece ends
SHORTEST_REST_IN_FRAMES = 4
FIRST_SHARE = 0.5  # of the rests that a window begins with, as those of a long piece do that go on from silence


def is_silent(token_ids: torch.Tensor) -> torch.Tensor:
    """bool (batch, frames): neither a stroke nor a chord nor a tune, of semantic tokens (batch, frames, groups)."""
    return (silenced(token_ids) == token_ids).all(dim=-1)


def silenced(token_ids: torch.Tensor) -> torch.Tensor:
    """The same frames with nothing in them but the name of the instrument."""
    silent = torch.zeros_like(token_ids)
    num_strokes = FACTORS["rhythm"]["stroke"]
    silent[..., 0] = token_ids[..., 0] // num_strokes * num_strokes
    return silent


def put_in_rests(token_ids: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(batch, frames, groups) with a stretch of some windows silent; those that end are left as they are."""
    count, num_frames, _ = token_ids.shape
    chosen = torch.rand(count, generator=generator) < REST_SHARE
    lengths = torch.randint(min(SHORTEST_REST_IN_FRAMES, num_frames), num_frames + 1, (count,), generator=generator)
    starts = torch.randint(num_frames, (count,), generator=generator)
    starts[torch.rand(count, generator=generator) < FIRST_SHARE] = 0
    frames = torch.arange(num_frames)
    rests = chosen[:, None] & (frames >= starts[:, None]) & (frames < (starts + lengths)[:, None])
    rests = rests.to(token_ids.device) & ~is_silent(token_ids).any(dim=1, keepdim=True)
    return torch.where(rests[..., None], silenced(token_ids), token_ids)


def harmony_weighs(token_ids: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """float32 (batch, frames, groups): `recipe.harmony_weight` for the harmony of semantic tokens, else 0.

    One frame of a window is where a piece ends, and nothing but its timing says which. Chords stand still else, so of
    their loss whether the music goes on is much. Weighted in every sample, whether it ends or not, the chance of an end
    stays what it is.
    """
    weights = torch.zeros(token_ids.shape, device=token_ids.device)
    weights[..., list(FACTORS).index("harmony")] = recipe.harmony_weight
    return weights


def near_end(batch: dict[str, torch.Tensor]) -> torch.Tensor | None:
    """bool (batch,): whether a sample is told that its piece is nearly over or is."""
    timing = batch.get("timing_token_ids")
    return None if timing is None else (timing[..., 2] >= NUM_TIMES * 7 // 8).any(dim=1)


def hide_all_but_ends(batch: dict[str, torch.Tensor], stage: MusicLMStageModel) -> dict[str, torch.Tensor]:
    """Hide conditions at random as a stage in training does by itself, but never the timing of a piece that is nearly over:
    one that ends untold would teach that any piece may.

    Where nothing is told at all, any piece may: that is the branch that guidance leads away from, and it must not be surer
    that music goes on than the one that is told so.
    """
    streams = {stream.name: stream.argument for stream in stage.condition_streams if stream.argument in batch}
    optional = [name for name in stage.optional_names if name in streams]
    shown = {name: batch[argument].flatten(1) for name, argument in streams.items()}
    hidden = drop_conditions(shown, optional, stage.config.condition_dropout)
    told = torch.stack([(ids >= 0).any(dim=1) for name, ids in hidden.items() if name not in optional]).any(dim=0)
    hidden = {argument: hidden[name].view_as(batch[argument]) for name, argument in streams.items()}
    ends = near_end(batch)
    if ends is not None:
        kept = (ends & told)[:, None, None]
        hidden["timing_token_ids"] = torch.where(kept, batch["timing_token_ids"], hidden["timing_token_ids"])
    return batch | hidden
