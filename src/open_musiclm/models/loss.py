"""The loss of a stage: cross-entropy over the streams that have a weight."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from .streams import PADDING_ID, TokenStream

#: what the loss ignores
IGNORED_LABEL = -100


def predicted_labels(labels: torch.Tensor, token_ids: torch.Tensor, stream: TokenStream) -> torch.Tensor:
    """Labels of the predicted stream's logits: (batch, tokens), and in the flat pattern EOS behind them.

    Args:
        labels: (batch, frames, codebooks) or flat; `PADDING_ID` and -100 are ignored. In the flat pattern EOS may be
            among them already, as one more column.
        token_ids: (batch, tokens) of the stream. Nothing follows the end of a sample that is padded.

    Raises:
        ValueError: other numbers of labels than of tokens.
    """
    labels = labels.flatten(1)
    has_eos = stream.pattern == "flat" and labels.shape[1] == token_ids.shape[1] + 1
    if labels.shape != token_ids.shape and not has_eos:
        raise ValueError(
            f"`labels` have {labels.shape[1]} tokens a sample and `{stream.argument}` has {token_ids.shape[1]}; they must "
            "be the same."
        )
    labels = labels.masked_fill(labels == PADDING_ID, IGNORED_LABEL)
    if stream.pattern != "flat" or has_eos:
        return labels
    eos = torch.full_like(labels[:, :1], stream.eos_id)
    if token_ids.shape[1]:
        eos = eos.masked_fill(token_ids[:, -1:] == PADDING_ID, IGNORED_LABEL)
    return torch.cat([labels, eos], dim=1)


def condition_labels(token_ids: torch.Tensor, stream: TokenStream, num_logits: int) -> torch.Tensor:
    """Labels of a conditioning stream's logits: its tokens (batch, tokens), and EOS if it was appended."""
    labels = F.pad(token_ids, (0, 1), value=stream.eos_id)[:, :num_logits]
    return labels.masked_fill(labels == PADDING_ID, IGNORED_LABEL)


def weighted_loss(
    terms: Iterable[tuple[float, torch.Tensor, torch.Tensor]], num_items: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Σ wₛ · mean lossₛ · nₛ / Σ nₛ over the streams with wₛ > 0.

    Args:
        terms: of each stream its weight, logits (batch, tokens, vocabulary) and labels (batch, tokens).
        num_items: Σ nₛ of a whole step of which this is a part.
    """
    losses, counts = [], []
    for weight, logits, labels in terms:
        if weight > 0:
            losses.append(
                weight
                * F.cross_entropy(logits.float().flatten(0, 1), labels.flatten().to(logits.device), reduction="sum")
            )
            counts.append((labels != IGNORED_LABEL).sum().to(logits.device))
    return torch.stack(losses).sum() / (torch.stack(counts).sum() if num_items is None else num_items)
