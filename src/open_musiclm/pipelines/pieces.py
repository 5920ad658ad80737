"""From windows to a piece: one stage over a whole duration, made as far as it is asked for.

A stage whose windows overlap (semantic, coarse) goes through them in order, each primed with what the one before
already made. A stage whose windows stand side by side (fine) makes several at once, as one batch. Both pull their
conditioning streams when a window begins, so the stages of a pipeline can run one after another or interleaved, and
memory does not grow with the length of the piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import islice
from typing import Any

import torch

from ..decoding.memory import free_bytes, largest_batch
from ..decoding.packed import ROWS_A_PREFILL
from ..decoding.sampling import spawn_generators
from ..given import shown
from ..models.generation import TokenRun
from ..models.patterns import num_steps_to_make
from ..models.stages import MusicLMStageModel
from ..models.streams import PADDING_ID
from .arguments import stream_tokens
from .windows import Window, plan_windows, to_fraction

#: rows (windows · samples) of side-by-side windows generated together, at most; results do not depend on it
ROWS_A_BATCH = {"cpu": 16, "cuda": 512}


def windows_a_batch(stage: MusicLMStageModel, batch_size: int) -> int:
    """How many windows of a stage whose windows stand side by side are made together."""
    most = ROWS_A_BATCH.get(stage.device.type, 16)
    if stage.device.type == "cuda":
        most = min(most, rows_that_fit(stage, free_bytes(stage.device) or 0))
    return max(most // batch_size, 1)


def rows_that_fit(stage: MusicLMStageModel, free: int) -> int:
    """Windows that half of `free` bytes hold (a new batch size is also checked), a power of two or 0."""
    rows = sum(
        ((1 if each.frame_rate is None else int(stage.config.window_in_s * each.frame_rate)) * each.num_codebooks + 2)
        for each in stage.streams
    )
    fits = largest_batch(stage.config, rows, ROWS_A_PREFILL["cuda"], stage.dtype, free // 2)
    return 1 << (fits.bit_length() - 1) if fits else 0


class Piece:
    """One stage's tokens from time 0 on.

    Args:
        stage: what makes them.
        windows: in order; may be endless.
        conditions: the conditioning streams of a window by argument name, `(batch, …)` each.
        generators: one for each sample.
        on_token: called after each step.
        settings: for `stage.generate`.
        side_by_side: windows made together, where the stage's windows do not overlap.
        negative: the conditioning streams of a window's negative branch (guidance), as `conditions`.
        beginning: the piece's first tokens, (batch or 1, frames[, codebooks]); windows go on from there.
        checked: all ids are known to lie in their codebooks, so no window waits to see it.
    """

    def __init__(
        self,
        stage: MusicLMStageModel,
        windows: Iterable[Window],
        conditions: Callable[[Window], dict[str, torch.Tensor]],
        generators: Sequence[torch.Generator],
        on_token: Callable[[int], None] | None = None,
        settings: dict | None = None,
        side_by_side: int = 1,
        negative: Callable[[Window], dict[str, torch.Tensor]] | None = None,
        beginning: torch.Tensor | None = None,
        checked: bool = False,
    ):
        if settings and "checked" in settings:
            raise ValueError("`generate` does not know the setting 'checked'.")
        self.stage = stage
        self.checked = checked and not any(name.endswith("_token_ids") for name in settings or {})
        self.stream = stage.predicted_stream
        self.windows = iter(windows)
        self.conditions = conditions
        self.generators = list(generators)
        self.on_token = on_token
        self.settings = settings or {}
        self.overlapping = stage.config.window_stride_in_s < stage.config.window_in_s
        self.side_by_side = 1 if self.overlapping else side_by_side
        self.negative = negative
        #: of windows that are done: (batch, frames[, codebooks])
        self.tokens: torch.Tensor | None = None
        if beginning is not None and beginning.shape[1]:
            rows = len(self.generators) if len(beginning) == 1 else len(beginning)
            self.tokens = beginning.to(stage.device).expand(rows, *beginning.shape[1:])
        self.num_given = 0 if self.tokens is None else self.tokens.shape[1]
        self.run: TokenRun | None = None  # of the windows under way
        self.under_way: list[slice] = []  # their frames

    @property
    def num_frames(self) -> int:
        """Frames there are."""
        done = 0 if self.tokens is None else self.tokens.shape[1]
        if self.run is None:
            return done
        return max(done, self.under_way[0].start + self.run.frames.shape[1])

    def advance(self, num_frames: int) -> torch.Tensor:
        """All tokens so far, at least `num_frames` frames of them: (batch, frames) or (batch, frames, codebooks)."""
        while self.num_frames < num_frames:
            if self.run is None:
                self._begin()
            first = self.under_way[0]
            # windows beside one another grow together; only the first one's frames count before all are done
            self.run.advance(min(num_frames, first.stop) - first.start)
            if self.run.is_done:
                self._finish()
        if self.run is None:
            return self.tokens
        made = self.run.frames[: len(self.generators)]
        return self._joined(self.tokens, made, self.under_way[0])

    def _begin(self) -> None:
        done = 0 if self.tokens is None else self.tokens.shape[1]
        windows = (window for window in self.windows if self._frames(window).stop > done)
        group = list(islice(windows, 1))
        # a last window that was moved back is made whole where windows stand side by side: its batch does not matter then
        partly_known = self._frames(group[0]).start < (done if self.overlapping else self.num_given)
        if not partly_known:  # a window that is begun goes by itself: its neighbours have no beginning
            group += islice(windows, self.side_by_side - 1)
        self.under_way = [self._frames(window) for window in group]
        first = self.under_way[0]
        generators = self.generators
        known = {}
        if partly_known and self.tokens is not None:
            known[self.stream.argument] = self.tokens[:, first.start :]
        if not self.overlapping:
            generators = [spawn_generators([own], 1)[0] for _ in group for own in self.generators]
        settings = dict(self.settings)
        if self.negative is not None:
            settings["negative_streams"] = _stacked([self.negative(window) for window in group])
        self.run = self.stage.start_generation(
            first.stop - first.start,
            generator=generators,
            on_token=self.on_token,
            checked=self.checked,
            **_stacked([self.conditions(window) for window in group]),
            **known,
            **settings,
        )

    def _frames(self, window: Window) -> slice:
        return window.frames(self.stream.frame_rate, self.stream.num_edge_frames)

    def _finish(self) -> None:
        for made, frames in zip(self.run.frames.split(len(self.generators)), self.under_way, strict=True):
            self.tokens = self._joined(self.tokens, made, frames)
        self.run = None

    @staticmethod
    def _joined(tokens: torch.Tensor | None, made: torch.Tensor, frames: slice) -> torch.Tensor:
        """What is there and a window's frames; of the frames in both (a last window reaches back) the older stay."""
        if tokens is None:
            return made
        return torch.cat([tokens, made[:, tokens.shape[1] - frames.start :]], dim=1)


def _stacked(conditions: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The conditions of windows side by side as those of one batch."""
    return {name: torch.cat([each[name] for each in conditions]) for name in conditions[0]}


def stage_windows(
    stage: MusicLMStageModel, duration: Fraction | None, grid: Fraction, first: Fraction | None = None
) -> Iterator[Window]:
    """The stage's windows over a duration in seconds, or without end.

    Args:
        first: length of a first window, where it is shorter than the stage's own. A stage that waits for others begins
            sooner with it; one whose windows overlap then goes on with its usual windows from time 0.
    """
    window, stride = to_fraction(stage.config.window_in_s), to_fraction(stage.config.window_stride_in_s)
    begin = Fraction(0)
    if first is not None and first < window and (duration is None or first < duration):
        yield Window(Fraction(0), first)
        if stride == window:
            begin = first
    for each in _usual_windows(window, stride, None if duration is None else duration - begin, grid):
        yield Window(begin + each.start, begin + each.stop)


def _usual_windows(window: Fraction, stride: Fraction, duration: Fraction | None, grid: Fraction) -> Iterator[Window]:
    if duration is not None:
        yield from plan_windows(duration, window, stride, grid)
        return
    first, second, *_ = plan_windows(window // grid * grid + 4 * (stride // grid * grid), window, stride, grid)
    start = first.start
    while True:
        yield Window(start, start + first.stop)
        start += second.start - first.start


def cut_conditions(
    stage: MusicLMStageModel, conditions: dict[str, torch.Tensor], window: Window
) -> dict[str, torch.Tensor]:
    """The conditioning streams of one window, as far as they are given.

    A stream without a frame rate describes every window; one of the time after a window is padded where that time is not
    known.
    """
    cut = {}
    for stream in stage.condition_streams:
        if stream.argument not in conditions:
            continue
        token_ids = conditions[stream.argument]
        if stream.context == "after":
            first = window.frames(stream.frame_rate).stop
            token_ids = token_ids[:, first : first + stream.num_frames_after]
            shape = (len(token_ids), stream.num_frames_after - token_ids.shape[1], *token_ids.shape[2:])
            token_ids = torch.cat([token_ids, token_ids.new_full(shape, PADDING_ID)], dim=1)
        elif stream.frame_rate is not None:
            token_ids = token_ids[:, window.frames(stream.frame_rate, stream.num_edge_frames)]
        cut[stream.argument] = token_ids
    return cut


def negative_of_piece(
    stage: MusicLMStageModel, own: Mapping[str, torch.Tensor] | None, given: Any, batch_size: int
) -> dict[str, torch.Tensor] | None:
    """The negative branch's streams over a whole piece, a row a sample; `None` if nobody says anything about it.

    Args:
        own: what a negative prompt makes.
        given: by the user, by argument name, of one row or `batch_size`; it goes before.

    Raises:
        ValueError: no table, a stream that the stage is not conditioned on, or tokens that do not suit it.
    """
    if given is None:
        return None if own is None else dict(own)
    streams = {stream.argument: stream for stream in stage.condition_streams}
    if not isinstance(given, Mapping):
        raise ValueError(f"`negative_streams` must be a table of tokens by argument name, got {shown(given)}.")
    rows = {}
    for name, tokens in given.items():
        if name not in streams:
            raise ValueError(
                f"`negative_streams`: {type(stage).__name__} is not conditioned on {shown(name)}; it takes "
                f"{', '.join(streams) or 'none'}."
            )
        if tokens is None:
            continue
        token_ids = stream_tokens(streams[name], tokens)
        if len(token_ids) not in (1, batch_size):
            raise ValueError(f"`negative_streams`: `{name}` has {len(token_ids)} rows; it takes 1 or {batch_size}.")
        rows[name] = token_ids.expand(batch_size, *token_ids.shape[1:])
    return {**(own or {}), **rows}


def hidden_conditions(stage: MusicLMStageModel, batch_size: int, duration: Fraction) -> dict[str, torch.Tensor]:
    """A conditioning stream of padding, where none is given: it says how many samples there are, and nothing else."""
    for stream in stage.condition_streams[:1]:
        num_frames = int(duration * to_fraction(stream.frame_rate)) if stream.frame_rate is not None else 1
        shape = (batch_size, max(num_frames, 1) * stream.num_codebooks)
        if stream.frame_rate is not None and stream.num_codebooks > 1:
            shape = (batch_size, max(num_frames, 1), stream.num_codebooks)
        return {stream.argument: torch.full(shape, PADDING_ID, dtype=torch.long)}
    return {}


def generate_piece(
    stage: MusicLMStageModel,
    conditions: dict[str, torch.Tensor] | Callable[[Fraction], dict[str, torch.Tensor]],
    duration: Fraction,
    grid: Fraction,
    generators: Sequence[torch.Generator],
    on_token: Callable[[int], None] | None = None,
    negative: dict[str, torch.Tensor] | None = None,
    beginning: torch.Tensor | None = None,
    checked: bool = False,
    **settings,
) -> torch.Tensor:
    """The stage's tokens for `duration` seconds.

    Args:
        conditions: the conditioning streams by argument name; those with a frame rate from time 0 on, at least as far
            as the duration. Or a function of the time from which on a window is new, which gives them.
        duration: in seconds, a multiple of `grid`.
        generators: one for each sample.
        on_token: called after each step.
        negative: the streams of the negative branch, likewise; those that are left out are hidden there. So are
            `negative_streams` among the settings, of one row or a row a sample: each window has its own part of them.
        beginning: tokens to go on from, (batch or 1, frames[, codebooks]).
        checked: see [`Piece`].
        settings: for `stage.generate`.

    Returns:
        (batch, frames) or (batch, frames, codebooks) of the predicted stream.
    """
    rate = to_fraction(stage.predicted_stream.frame_rate)
    negative = negative_of_piece(stage, negative, settings.pop("negative_streams", None), len(generators))

    def of_window(window: Window) -> dict[str, torch.Tensor]:
        if not callable(conditions):
            return cut_conditions(stage, conditions, window)
        return cut_conditions(stage, conditions(max(Fraction(piece.num_frames) / rate, window.start)), window)

    def negative_of_window(window: Window) -> dict[str, torch.Tensor]:
        return cut_conditions(stage, negative or {}, window)

    piece = Piece(
        stage,
        stage_windows(stage, duration, grid),
        of_window,
        generators,
        on_token,
        settings,
        windows_a_batch(stage, len(generators)),
        None if negative is None else negative_of_window,
        beginning,
        checked,
    )
    return piece.advance(last_frame(stage, duration, grid))


def last_frame(stage: MusicLMStageModel, duration: Fraction, grid: Fraction) -> int:
    """Frames of the predicted stream in a piece."""
    *_, last = stage_windows(stage, duration, grid)
    return last.frames(stage.predicted_stream.frame_rate, stage.predicted_stream.num_edge_frames).stop


def count_steps(
    stage: MusicLMStageModel, duration: Fraction, grid: Fraction, batch_size: int, num_known: int = 0
) -> int:
    """How many times `generate_piece` calls `on_token` (for a progress bar), the first `num_known` frames being given."""
    stream = stage.predicted_stream
    frames = [w.frames(stream.frame_rate, stream.num_edge_frames) for w in stage_windows(stage, duration, grid)]
    frames = [window for window in frames if window.stop > num_known]
    steps, made = 0, num_known
    if stage.config.window_stride_in_s == stage.config.window_in_s:
        begun = [window for window in frames if window.start < num_known]
        steps = sum(num_steps_to_make(stream, num_known - w.start, w.stop - w.start) for w in begun)
        whole = frames[len(begun) :]
        batches = -(-len(whole) // windows_a_batch(stage, batch_size))
        return steps + (batches * num_steps_to_make(stream, 0, whole[0].stop - whole[0].start) if whole else 0)
    for window in frames:
        steps += num_steps_to_make(stream, max(made - window.start, 0), window.stop - window.start)
        made = window.stop
    return steps
