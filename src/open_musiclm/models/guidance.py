"""Guidance as a token: a conditioning stream that says with which scale a stage is to behave as if it were guided.

Guidance compares two branches, with the conditioning and without, so each step is computed for twice as many rows. A
stage that was distilled from itself (training/guidance_distillation.py; Meng et al. 2023 do it for diffusion) reads the
scale instead and computes one. The stream has one frame: id i is the scale 1 + i / 4, and hidden it means 1, no guidance.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .streams import TokenStream

GUIDANCE_SOURCE = "guidance"
#: between two scales that a stage is told apart
SCALE_STEP = 0.25
LARGEST_SCALE = 8.0


def guidance_stream(largest: float = LARGEST_SCALE) -> TokenStream:
    """The stream for scales from 1 to `largest`.

    Raises:
        ValueError: `largest` is not above 1.
    """
    if not 1 < largest < float("inf"):
        raise ValueError(f"The largest guidance scale must be above 1, got {largest}.")
    size = round((largest - 1) / SCALE_STEP) + 1
    return TokenStream("guidance", max(size, 2), source=GUIDANCE_SOURCE, pattern="parallel", optional=True)


def find_guidance_stream(streams: Iterable[TokenStream]) -> TokenStream | None:
    """A stage's stream of scales, `None` if it was never taught them."""
    return next((stream for stream in streams if stream.source == GUIDANCE_SOURCE), None)


def scale_of_id(token_id: Any) -> Any:
    """The scale that an id stands for, or the scales of a tensor of ids."""
    return 1.0 + SCALE_STEP * token_id


def id_of_scale(scale: float, stream: TokenStream) -> int | None:
    """The id nearest to a scale, `None` if the stream has none so small or so large."""
    token_id = round((scale - 1.0) / SCALE_STEP)
    return token_id if 0 <= token_id < stream.codebook_size else None
