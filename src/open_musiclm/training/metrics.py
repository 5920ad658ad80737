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

    They give `loss_codebook_{q}` and `accuracy_codebook_{q}` (share of tokens whose likeliest id is right), and
    `accuracy` over all; EOS is not counted.
    """
    config = getattr(config, "config", config)
    num_codebooks = config.predicted_stream.num_codebooks

    def sum_up(logits: Any, labels: torch.Tensor) -> torch.Tensor:
        """Logits (batch, tokens (+ 1), vocabulary) → (batch, codebooks, 3): summed loss, right tokens, tokens."""
        if isinstance(logits, tuple):
            logits = logits[0]
        labels = labels.flatten(1)
        logits = logits[:, : labels.shape[1]].float()
        counted = labels != IGNORED_LABEL
        losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED_LABEL)
        right = (logits.argmax(dim=-1) == labels) & counted
        sums = torch.stack([losses, right.float(), counted.float()], dim=-1)  # (batch, tokens, 3)
        return sums.unflatten(1, (-1, num_codebooks)).sum(dim=1)

    def compute(prediction: Any) -> dict[str, float]:
        losses, right, counted = np.asarray(prediction.predictions, dtype=np.float64).sum(axis=0).T
        per_codebook = zip(losses / counted, right / counted, strict=True)
        metrics = {"accuracy": float(right.sum() / counted.sum())}
        for codebook, (loss, accuracy) in enumerate(per_codebook):
            metrics[f"loss_codebook_{codebook}"] = float(loss)
            metrics[f"accuracy_codebook_{codebook}"] = float(accuracy)
        return metrics

    return {"preprocess_logits_for_metrics": sum_up, "compute_metrics": compute}
