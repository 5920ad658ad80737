"""Crops of token files, as the original draws them, collated into what a stage's `forward` takes.

file    |-------------------------------------------|   whole seconds
outer           |----------------------|                CLAP tokens: those of the 10 s that start with it
inner                    |---------|                    the stage's own window: semantic, coarse, fine tokens
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from ..data.records import TokenRecord
from ..models.configuration import MusicLMStageConfig
from ..models.loss import predicted_labels
from ..models.streams import PADDING_ID, TokenStream, check_token_range
from ..pipelines.windows import Window, round_down, time_grid, to_fraction


class CropCollator:
    """Crops rows of a `TokenDataset` and stacks them. Pass it as a Trainer's `data_collator`.

    A crop is drawn from a generator of its own, seeded by `seed` and the row's `crop_key`: the same whoever loads it,
    in whichever batch. A `TokenDataset` gives another key for every entry of a file in training, and one fixed key a
    file after `split` for evaluation. A file shorter than the window is padded, which the loss does not count.

    Args:
        config: a stage's config, or the stage.
        outer_window_in_s: length of the audio that one set of CLAP tokens describes.
        seed: of the crops.
        record: of the token dataset, which says in which columns a stream's codebooks stand; without it, in the one of
            its name. An optional stream that it does not have is left out of the crops.
    """

    def __init__(
        self,
        config: MusicLMStageConfig,
        outer_window_in_s: float = 10.0,
        seed: int = 0,
        record: TokenRecord | None = None,
    ):
        config = getattr(config, "config", config)
        streams = config.token_streams
        self.streams: list[TokenStream] = [
            stream for stream in streams if record is None or not stream.optional or record.has(stream)
        ]
        #: a stream's columns in a row, and which of their codebooks
        self.columns: dict[str, list[tuple[str, slice]]] = {
            stream.name: [(stream.argument, slice(None))]
            if record is None
            else [(own.argument, part) for own, part in record.columns_of(stream)]
            for stream in self.streams
        }
        rates = [stream.frame_rate for stream in self.streams if stream.frame_rate is not None]
        self.window: Fraction = round_down(to_fraction(config.window_in_s), time_grid(rates))
        if self.window <= 0:
            raise ValueError(f"A window of {config.window_in_s} s holds no whole frame of every stream ({rates} Hz).")
        self.outer_seconds = max(math.ceil(to_fraction(outer_window_in_s)), math.ceil(self.window))
        self.seed = seed

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Rows → `{name}_token_ids` (batch, 12), (batch, frames) or (batch, frames, codebooks), and `labels`.

        The labels are flat, (batch, tokens), with EOS where the stage adds it: a Trainer counts them, so that each token of a
        step weighs the same.

        Raises:
            ValueError: the rows come without a `crop_key` (the Trainer removed it, or they are no `TokenDataset`'s); ids
                outside a stream's codebook.
        """
        crops = [self.crop(row) for row in rows]
        batch = {name: torch.from_numpy(np.stack([crop[name] for crop in crops])) for name in crops[0]}
        for stream in self.streams:
            check_token_range(batch[stream.argument], stream)
        ids = batch[self.streams[-1].argument].flatten(1)
        return {**batch, "labels": predicted_labels(ids, ids, self.streams[-1])}

    def crop(self, row: dict[str, Any]) -> dict[str, np.ndarray]:
        """One row's crop: int64 ids by argument name, padded to the whole window."""
        if "crop_key" not in row:
            raise ValueError(
                "A row has no `crop_key`. Rows must come from a TokenDataset or TokenStreamDataset, and the Trainer must "
                "leave them whole: pass `remove_unused_columns=False` in its arguments."
            )
        outer, inner = self._draw(row)
        crop = {}
        for stream in self.streams:
            if stream.optional and stream.argument not in row and self.columns[stream.name][0][0] == stream.argument:
                continue  # what rows do not have is hidden
            ids = np.concatenate([row[name][:, part] for name, part in self.columns[stream.name]], axis=1)
            if stream.frame_rate is None:
                hidden = np.full(stream.num_codebooks, PADDING_ID, dtype=np.int64)
                crop[stream.argument] = ids[min(outer, len(ids) - 1)].astype(np.int64) if len(ids) else hidden
                continue
            window = Window(Fraction(inner), inner + self.window)
            frames = window.frames(stream.frame_rate, stream.num_edge_frames)
            if stream.context == "after":
                first = window.frames(stream.frame_rate).stop
                frames = slice(first, first + stream.num_frames_after)
            cut = np.full((frames.stop - frames.start, stream.num_codebooks), PADDING_ID, dtype=np.int64)
            found = ids[frames]
            cut[: len(found)] = found
            crop[stream.argument] = cut[:, 0] if stream.num_codebooks == 1 else cut
        return crop

    def _draw(self, row: dict[str, Any]) -> tuple[int, int]:
        """Where the outer and the inner window start, in whole seconds."""
        lengths = []
        for stream in self.streams:
            if stream.frame_rate is None:
                continue
            name = self.columns[stream.name][0][0]
            if len(row.get(name, ())) or not stream.optional:  # one that says nothing may have no frames
                lengths.append(int((len(row[name]) + stream.num_edge_frames) / to_fraction(stream.frame_rate)))
        num_seconds = min(lengths)
        generator = np.random.default_rng([self.seed, *row["crop_key"]])
        outer = int(generator.integers(max(num_seconds - self.outer_seconds, 0) + 1))
        room = min(self.outer_seconds, num_seconds - outer) - math.ceil(self.window)
        return outer, outer + int(generator.integers(max(room, 0) + 1))
