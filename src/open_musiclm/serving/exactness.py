"""How many rows a batch must have so that a sample's bits do not depend on the others in it.

Each sample draws from its own generator, so its neighbours change nothing but rounding; but a Gumbel-argmax turns over by
a rounding about once in 1e5 tokens, and the same seed would then give other music under load. What rounds differently is
the shape of a product: kernels for one row differ from those for several, and on some machines those for few from those for
many. So the numbers are held against one another, to the last bit, before the first request:

    the logits of one sample in a batch of 2, of 3, of the most ── all the same ──→ no batch has fewer than 2 rows
                                                                ── they differ ──→ every batch has the most rows

The rows that are missing are filled up with copies, which nobody hears. A GPU reads the weights once for one row as for
many, and has a kernel for each shape: there every batch has the most rows.
"""

from __future__ import annotations

from typing import Any

import torch

#: steps that are compared
NUM_FRAMES = 12


def rows_needed(pipe: Any, most_rows: int) -> int:
    """The least number of rows of a batch, filled up where there are fewer."""
    stages = list(pipe.chain.stages.values())
    if most_rows <= 2 or any(stage.device.type != "cpu" for stage in stages):
        return most_rows
    with torch.no_grad():
        return 2 if all(_is_alike(stage, most_rows) for stage in stages) else most_rows


def _is_alike(stage: Any, most_rows: int) -> bool:
    """Whether the first sample's logits are the same bits in batches of 2, 3, and the most rows."""
    expected, *others = (_logits(stage, rows) for rows in (2, 3, most_rows))
    return bool(expected) and all(
        len(found) == len(expected) and all(map(torch.equal, found, expected)) for found in others
    )


def _logits(stage: Any, num_rows: int) -> list[torch.Tensor]:
    """Of the first sample of a batch, step by step, on made-up conditions; empty if the back-end keeps them to itself."""
    drawn = torch.Generator().manual_seed(0)
    conditions = {}
    for stream in stage.condition_streams:
        if stream.optional:
            continue
        frames = 1 if stream.frame_rate is None else max(int(stream.frame_rate * stage.config.window_in_s), 1)
        shape = (1, frames * stream.num_codebooks)
        ids = torch.randint(stream.codebook_size, shape, generator=drawn)
        ids = ids.view(1, frames, stream.num_codebooks) if stream.frame_rate and stream.num_codebooks > 1 else ids
        conditions[stream.argument] = ids.expand(num_rows, *ids.shape[1:])
    own = [torch.Generator().manual_seed(row) for row in range(num_rows)]
    run = stage.start_generation(NUM_FRAMES, generator=own, **conditions)
    sampler, seen = run.sampler, []
    draw = sampler.draw

    def record(index: int, logits: torch.Tensor) -> None:
        seen.append(logits[:: sampler.num_samples].clone())  # its row of each branch
        draw(index, logits)

    sampler.draw = record
    run.advance(NUM_FRAMES)
    return seen
