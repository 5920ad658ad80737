"""The optimizer as the original had it: AdamW, with weight decay on tensors of two dimensions and more only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class StageAdamW(torch.optim.AdamW):
    """AdamW that decays matrices and tables but neither gains, biases nor start vectors.

    It sorts the parameters it is given itself, whatever groups they come in (keeping any other setting of a group), so
    that a plain Trainer can be handed the class: `Trainer(…, optimizer_cls_and_kwargs=recommended_optimizer(args))`.
    """

    def __init__(self, params: Iterable[Any], weight_decay: float = 0.01, **kwargs: Any):
        groups = list(params)
        if groups and not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        decayed: list[dict[str, Any]] = []
        plain: list[dict[str, Any]] = []
        for group in groups:
            settings = {name: value for name, value in group.items() if name not in ("params", "weight_decay")}
            parameters = list(group["params"])
            for sorted_groups, decay, chosen in (
                (decayed, weight_decay, [p for p in parameters if p.ndim >= 2]),
                (plain, 0.0, [p for p in parameters if p.ndim < 2]),
            ):
                if chosen:
                    _extend(sorted_groups, {**settings, "weight_decay": decay}, chosen)
        super().__init__(decayed + plain, weight_decay=weight_decay, **kwargs)


def _extend(groups: list[dict[str, Any]], settings: dict[str, Any], parameters: list[Any]) -> None:
    """Add parameters to the group with these settings."""
    for group in groups:
        if {name: value for name, value in group.items() if name != "params"} == settings:
            group["params"] += parameters
            return
    groups.append({**settings, "params": parameters})


def recommended_optimizer(args: Any) -> tuple[type[StageAdamW], dict[str, Any]]:
    """`optimizer_cls_and_kwargs` for a Trainer, from its `TrainingArguments`."""
    settings = {"fused": True} if args.device.type == "cuda" else {}  # one kernel for all parameters
    return StageAdamW, {
        **settings,
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
        "weight_decay": args.weight_decay,
    }
