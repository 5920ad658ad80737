"""Crops of a long file: what an encoder reads at a time, and which of its frames are kept. Pure arithmetic.

A file is encoded in crops of one length that overlap, so memory does not grow with its length. Where two crops
overlap, each frame is taken from the crop in which it lies farther from the edge:

    crop 0   |-----------------|
    crop 1               |-----------------|
    kept     |--------------|--------------|

All crops of a file are equally long (the last one is moved back to end with the file), so they can be computed in one
batch with the crops of other files, and nothing is padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from ..pipelines.windows import plan_windows


@dataclass(frozen=True)
class Crop:
    """Frames `start` … `stop - 1` are read; of what comes out, the file's frames `first` … `last - 1` are kept."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def kept(self) -> slice:
        """The kept frames, counted from the crop's own start."""
        return slice(self.first - self.start, self.last - self.start)


def overlapping_crops(num_frames: int, crop: int, overlap: int, num_edge_frames: int = 0) -> list[Crop]:
    """Crops that cover a file, in frames.

    Args:
        num_frames: whole frames of the file.
        crop: frames of a crop; a shorter file is one crop.
        overlap: frames that two neighbours share at least; no fewer than the encoder loses.
        num_edge_frames: frames that the encoder loses at a crop's end (`crop` in, `crop - num_edge_frames` out).

    Returns:
        Crops whose kept frames join to 0 … `num_frames - num_edge_frames - 1`.
    """
    if not num_edge_frames <= overlap < crop:
        raise ValueError(f"The overlap must lie in [{num_edge_frames}, {crop}), got {overlap} frames.")
    if num_frames <= num_edge_frames:
        raise ValueError(f"{num_frames} frames are too few: the encoder loses {num_edge_frames} of them.")
    windows = plan_windows(Fraction(num_frames), Fraction(crop), Fraction(crop - overlap), Fraction(1))
    spans = [(int(window.start), int(window.stop)) for window in windows]
    # half way between where the later crop starts and where the earlier one's output ends
    cuts = [(later[0] + earlier[1] - num_edge_frames) // 2 for earlier, later in pairwise(spans)]
    firsts, lasts = [0, *cuts], [*cuts, num_frames - num_edge_frames]
    return [Crop(*span, first, last) for span, first, last in zip(spans, firsts, lasts, strict=True)]
