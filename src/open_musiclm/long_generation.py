"""From windows to a piece: one stage over a whole duration.

A stage whose windows overlap (semantic, coarse) goes through them in order, each primed with what the one before
already made. A stage whose windows stand side by side (fine) makes them all at once, as one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import torch

from .sampling import spawn_generators
from .stages import MusicLMStageModel
from .windows import Window, plan_windows, to_fraction

#: windows of independent stages generated together; results do not depend on it
MAX_WINDOWS_A_BATCH = 64


def generate_piece(
    stage: MusicLMStageModel,
    conditions: dict[str, torch.Tensor],
    duration: Fraction,
    grid: Fraction,
    generators: Sequence[torch.Generator],
    on_token: Callable[[int], None] | None = None,
    **settings,
) -> torch.Tensor:
    """The stage's tokens for `duration` seconds.

    Args:
        conditions: the conditioning streams by argument name; those with a frame rate from time 0 on, at least as far
            as the duration.
        duration: in seconds, a multiple of `grid`.
        generators: one for each sample.
        on_token: called after each step.
        settings: for `stage.generate`.

    Returns:
        (batch, frames) or (batch, frames, codebooks) of the predicted stream.
    """
    windows = plan_windows(
        duration, to_fraction(stage.config.window_in_s), to_fraction(stage.config.window_stride_in_s), grid
    )
    make = _side_by_side if stage.config.window_stride_in_s == stage.config.window_in_s else _one_after_another
    return make(stage, conditions, windows, generators, on_token, settings)


def count_steps(stage: MusicLMStageModel, duration: Fraction, grid: Fraction, batch_size: int) -> int:
    """How many times `generate_piece` calls `on_token` (for a progress bar)."""
    stream = stage.predicted_stream
    window, stride = to_fraction(stage.config.window_in_s), to_fraction(stage.config.window_stride_in_s)
    windows = plan_windows(duration, window, stride, grid)
    if stride == window:
        batches = -(-len(windows) // max(MAX_WINDOWS_A_BATCH // batch_size, 1))
        frames = windows[0].frames(stream.frame_rate, stream.num_edge_frames)
        return batches * (frames.stop - frames.start) * stream.num_codebooks
    return windows[-1].frames(stream.frame_rate, stream.num_edge_frames).stop * stream.num_codebooks


def cut_conditions(stage: MusicLMStageModel, conditions: dict[str, torch.Tensor], window: Window) -> dict:
    """The conditioning streams of one window; a stream without a frame rate describes every window."""
    cut = {}
    for stream in stage.condition_streams:
        token_ids = conditions[stream.argument]
        if stream.frame_rate is not None:
            token_ids = token_ids[:, window.frames(stream.frame_rate, stream.num_edge_frames)]
        cut[stream.argument] = token_ids
    return cut


def _one_after_another(stage, conditions, windows, generators, on_token, settings) -> torch.Tensor:
    stream = stage.predicted_stream
    piece = None
    for window in windows:
        frames = window.frames(stream.frame_rate, stream.num_edge_frames)
        known = None if piece is None else piece[:, frames.start :]
        made = stage.generate(
            frames.stop - frames.start,
            generator=generators,
            on_token=on_token,
            **cut_conditions(stage, conditions, window),
            **({} if known is None else {stream.argument: known}),
            **settings,
        )
        piece = made if known is None else torch.cat([piece, made[:, known.shape[1] :]], dim=1)
    return piece


def _side_by_side(stage, conditions, windows, generators, on_token, settings) -> torch.Tensor:
    stream = stage.predicted_stream
    batch_size, num_windows = len(generators), len(windows)
    own = spawn_generators(generators, num_windows)  # [sample 0 window 0, sample 0 window 1, …]
    cuts = [cut_conditions(stage, conditions, window) for window in windows]
    made: list[torch.Tensor] = []  # window by window: (batch, frames, …)
    windows_a_batch = max(MAX_WINDOWS_A_BATCH // batch_size, 1)
    first_frames = windows[0].frames(stream.frame_rate, stream.num_edge_frames)
    num_frames = first_frames.stop - first_frames.start
    for first in range(0, num_windows, windows_a_batch):
        group = range(first, min(first + windows_a_batch, num_windows))
        tokens = stage.generate(
            num_frames,
            generator=[own[sample * num_windows + window] for window in group for sample in range(batch_size)],
            on_token=on_token,
            **{name: torch.cat([cuts[window][name] for window in group]) for name in cuts[0]},
            **settings,
        )
        made += tokens.split(batch_size)
    piece = made[0]
    for window, tokens in zip(windows[1:], made[1:], strict=True):
        start = window.frames(stream.frame_rate, stream.num_edge_frames).start
        piece = torch.cat([piece, tokens[:, piece.shape[1] - start :]], dim=1)  # the last window may reach back
    return piece
