"""Loss and accuracy of each codebook, for a Trainer's evaluation without a subclass.

Logits are summed up where they are made, into three numbers a codebook, so an evaluation holds no logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..models.configuration import MusicLMStageConfig
from ..models.loss import IGNORED_LABEL


def stage_metrics(config: MusicLMStageConfig) -> dict[str, Callable]:
    """`compute_metrics` and `preprocess_logits_for_metrics` of a stage: `Trainer(…, **stage_metrics(stage))`.

    They give `loss_codebook_{q}` and `accuracy_codebook_{q}` (share of tokens whose likeliest id is right) of the
    codebooks that have tokens, `accuracy` over all, EOS not counted; and `loss`, the mean over all tokens with EOS, in
    place of the Trainer's own (a mean of batches' means, which is another number with another batch size).
    """
    config = getattr(config, "config", config)
    num_codebooks = config.predicted_stream.num_codebooks
    has_eos = config.predicted_stream.pattern == "flat"
    only_predicted = not any((config.loss_weights or [])[:-1])

    def sum_up(logits: Any, labels: torch.Tensor) -> torch.Tensor:
        """Logits (batch, tokens (+ 1), vocabulary) → (batch, codebooks + 1, 3): summed loss, right tokens, tokens.

        The last row is that of EOS; it is zero where there is none among the labels.
        """
        if isinstance(logits, tuple):
            logits = logits[0]
        labels = labels.flatten(1)
        num_tokens = logits.shape[1] - has_eos
        labels = F.pad(labels, (0, logits.shape[1] - labels.shape[1]), value=IGNORED_LABEL)
        counted = labels != IGNORED_LABEL
        losses = F.cross_entropy(logits.float().transpose(1, 2), labels, reduction="none", ignore_index=IGNORED_LABEL)
        right = (logits.argmax(dim=-1) == labels) & counted
        sums = torch.stack([losses, right.float(), counted.float()], dim=-1)  # (batch, tokens (+ 1), 3)
        of_codebooks = sums[:, :num_tokens].unflatten(1, (-1, num_codebooks)).sum(dim=1)
        return torch.cat([of_codebooks, sums[:, num_tokens:].sum(dim=1, keepdim=True)], dim=1)

    def compute(prediction: Any) -> dict[str, float]:
        losses, right, counted = np.asarray(prediction.predictions, dtype=np.float64).sum(axis=0).T
        metrics = {}
        if counted[:-1].sum():
            metrics["accuracy"] = float(right[:-1].sum() / counted[:-1].sum())
        if only_predicted and counted.sum():
            metrics["loss"] = float(losses.sum() / counted.sum())
        for codebook in np.flatnonzero(counted[:-1]):
            metrics[f"loss_codebook_{codebook}"] = float(losses[codebook] / counted[codebook])
            metrics[f"accuracy_codebook_{codebook}"] = float(right[codebook] / counted[codebook])
        return metrics

    return {"preprocess_logits_for_metrics": sum_up, "compute_metrics": compute}
