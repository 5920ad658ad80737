"""Let a stage read, for the frame it predicts, that frame of its condition.

Taught with true histories, a stage learns to follow its own past, which is always right then and says where in the condition
one is. Left to the history that it makes itself, it drifts; strokes come a frame or two early or late, or not at all
(`measure_strokes.py`). Three things against that:

- positions of a condition begin as those of the frames beside them (`start_aligned`);
- the bias of distance points, in one head, at the row of the condition that is as far back as the condition is long
  (`point_at_condition`): the frame that is to be predicted, in every window of the usual length;
- in training, part of the history is not what came before (`spoil_history`), so that it cannot be relied on.

What one clip in ten is told is not learnt by itself either: frames that are told what to sing weigh more (`told_to_sing`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from compose import VOWELS
from describe import LINE_RATE
from recipe import Recipe
from torch.nn import functional as F

from open_musiclm import MusicLMStageModel
from open_musiclm.models.transformer import ContinuousPositionBias

#: added to the score of the row that is pointed at, and of its neighbours: e¹⁴ outweighs all rows of a window
HEIGHT, BESIDE = 14.0, 3.0
STEEPNESS = 20.0
#: of a window's frames, how many are spoilt: each window draws one of these
SPOILT_SHARES = (0.0, 0.0, 0.15, 0.4, 0.9, 1.0)
LARGEST_SHIFT = 3  # frames


@torch.no_grad()
def start_aligned(stage: MusicLMStageModel, conditions: Sequence[str]) -> None:
    """Let the positions of conditioning streams begin as those of the frames that the stage predicts beside them.

    A row predicts the frame after its own, so frame t of a condition has the position of frame t - 1, and the first
    that of the start; a frame of a slower stream, that of the middle one of the frames beside it. From there attention
    finds the frame that it needs at once; the bias of the distance, which is smooth, takes thousands of steps to point
    at one row a hundred rows back.
    """
    predicted = stage.predicted_stream
    size, num_rows = stage.config.hidden_size, stage.config.max_position_embeddings
    frequencies = 2 * math.pi / torch.exp(torch.linspace(math.log(3), math.log(240), size))
    phases = 2 * math.pi * torch.rand(size)

    def waves(moments: torch.Tensor) -> torch.Tensor:
        return torch.cos(moments[:, None] * frequencies + phases)

    rows = torch.arange(num_rows + 1)
    positions = {name: embedding.weight for name, embedding in stage.position_embeddings.items()}
    for stream in stage.condition_streams:
        if stream.name in conditions:
            frames = predicted.frame_rate / stream.frame_rate  # of what is predicted, beside one of the condition
            positions[stream.name].copy_(waves(rows[:-1] * frames + (frames - 1) / 2))
        else:
            positions[stream.name].mul_(0.1)
    positions[predicted.name].copy_(waves(rows[1:]))
    stage.start_vectors[predicted.name].add_(waves(rows[:1])[0])


def point_at_condition(stage: MusicLMStageModel, condition: str, head: int) -> None:
    """Let the bias of one head begin as a peak at the distance between a frame's prediction and that frame of `condition`,
    which is the stream before the predicted one, one frame a row. The other heads keep theirs.

    A network of plain distances is smooth, and a training would not find the peak. Here four units of the first layer
    make it (a trapezoid of four steep steps), one of each layer behind hands it on, and a short fit mends what the
    units did before.
    """
    stream = next(stream for stream in stage.condition_streams if stream.name == condition)
    bias = stage.decoder.position_bias
    if not isinstance(bias, ContinuousPositionBias) or stream.frame_rate is None:
        raise ValueError(
            f"A continuous bias can point at a stream of frames, not {type(bias).__name__} at {condition}."
        )
    distance = round(stage.config.window_in_s * stream.frame_rate) - stream.num_edge_frames
    device, layers = stage.device, list(bias.layers)
    distances = torch.arange(4 * distance, dtype=torch.float32, device=device)
    with torch.no_grad():
        target = bias(distances).clone()
        target[head] = 0.0
        target[head, distance - 1 : distance + 2] = torch.tensor([BESIDE, HEIGHT, BESIDE], device=device)
        units, hidden = [], distances[:, None]
        for count, layer, following in zip((4, 1, 1), layers[:-1], layers[1:], strict=True):
            hidden = F.silu(layer(hidden))
            use = hidden.std(dim=0) * following.weight.abs().sum(dim=0)
            units.append(use.argsort()[:count])  # those of least effect
        steps, first, second = units
        layers[0].weight[steps, 0] = STEEPNESS
        edges = torch.tensor([-0.8, -0.2, 0.2, 0.8], device=device) + distance
        layers[0].bias[steps] = -STEEPNESS * edges
        for layer, (ins, outs) in zip(layers[1:-1], ((steps, first), (first, second)), strict=True):
            layer.weight[:, ins] = 0.0
            layer.weight[outs], layer.bias[outs] = 0.0, 0.0
        layers[1].weight[first[0], steps] = torch.tensor([1.0, -1.0, -1.0, 1.0], device=device)
        layers[2].weight[second[0], first[0]] = 1.0
        layers[3].weight[:, second] = 0.0
        layers[3].weight[head, second[0]] = HEIGHT / (0.6 * STEEPNESS)
    weights = torch.ones_like(distances)
    weights[: 2 * distance], weights[:8] = 4.0, 20.0
    num_steps, learning_rate = 4000, 3e-4
    optimizer = torch.optim.Adam(bias.parameters(), learning_rate)
    for step in range(num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - step / num_steps)
        error = ((bias(distances) - target).square() * weights).mean()
        optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(bias.parameters(), 1.0)
        optimizer.step()


def spoil_history(token_ids: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(batch, frames, codebooks) with some frames replaced: by others of the batch, or by the window's own, out of time."""
    count, num_frames, _ = token_ids.shape
    device = token_ids.device
    shares = torch.tensor(SPOILT_SHARES)[torch.randint(len(SPOILT_SHARES), (count,), generator=generator)]
    spoilt = (torch.rand(count, num_frames, generator=generator) < shares[:, None]).to(device)
    others = torch.randint(count * num_frames, (count, num_frames), generator=generator).to(device)
    shifts = torch.randint(-LARGEST_SHIFT, LARGEST_SHIFT + 1, (count, 1), generator=generator)
    moved = ((torch.arange(num_frames) - shifts) % num_frames).to(device)
    is_moved = (torch.rand(count, 1, 1, generator=generator) < 0.5).to(device)
    rows = torch.arange(count, device=device)[:, None]
    replaced = torch.where(is_moved, token_ids[rows, moved], token_ids.flatten(0, 1)[others])
    return torch.where(spoilt[..., None], replaced, token_ids)


def told_to_sing(batch: dict[str, torch.Tensor], shape: tuple[int, ...], recipe: Recipe) -> torch.Tensor | None:
    """float32 (batch, frames, groups): `recipe.sung_weight` where a sample is told which vowel is sung, else 0."""
    lyrics = batch.get("lyrics_token_ids")
    if lyrics is None or not lyrics.shape[1]:
        return None
    rows = (torch.arange(shape[1]) / recipe.frame_rate * LINE_RATE).long().clamp(max=lyrics.shape[1] - 1)
    told = lyrics[:, rows]
    return (((told >= 0) & (told < len(VOWELS))) * recipe.sung_weight).expand(shape)
