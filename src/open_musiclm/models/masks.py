"""What training hides at random: keys of the sequence, and conditioning streams of a sample."""

from __future__ import annotations

from collections.abc import Collection

import torch

from .streams import PADDING_ID


def forgetful_mask(batch_size: int, length: int, share: float, device: torch.device) -> torch.Tensor:
    """Forgetful causal masking (Liu et al. 2022): (batch, length) bool, a fixed share hidden, never the first."""
    num_hidden = min(int(length * share), length - 1)
    noise = torch.rand(batch_size, length, device=device)
    noise[:, 0] = -1.0
    hidden = noise.topk(num_hidden, dim=1).indices
    return torch.ones(batch_size, length, dtype=torch.bool, device=device).scatter(1, hidden, False)


def drop_conditions(
    conditions: dict[str, torch.Tensor], optional: Collection[str], probability: float
) -> dict[str, torch.Tensor]:
    """Hide conditioning streams of some samples, as guidance needs them (Ho and Salimans 2022, section 3.1).

    With `probability` a sample loses all of its conditioning, and apart from that each optional stream with
    `probability` alone, so that a stage learns to do without any of them.

    Args:
        conditions: the conditioning streams by name, (batch, tokens) each.
        optional: names of those that are also hidden one by one.

    Returns:
        The same, `PADDING_ID` where hidden.
    """
    batch_size, device = next((len(ids), ids.device) for ids in conditions.values())
    everything = torch.rand(batch_size, device=device) < probability
    dropped = {}
    for name, token_ids in conditions.items():
        hidden = everything
        if name in optional:
            hidden = hidden | (torch.rand(batch_size, device=device) < probability)
        dropped[name] = token_ids.masked_fill(hidden[:, None], PADDING_ID)
    return dropped
