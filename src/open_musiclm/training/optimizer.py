"""The optimizer as the original had it: AdamW, with weight decay on tensors of two dimensions and more only.

weights in bfloat16 ── forward, backward ──→ gradients in bfloat16 ──┐
   ↑                                                                 ├─ AdamW, all of it in float32
   └──────────────── rounded ────────────── float32 copies ←─────────┘
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch

#: parameters that a step of a usual learning rate would leave as they are: it is smaller than half of their last digit
ROUNDED = (torch.bfloat16, torch.float16)
#: in a rounded parameter's state, the float32 copy that is stepped
MASTER = "master_weight"


class StageAdamW(torch.optim.AdamW):
    """AdamW that decays matrices and tables but neither gains, biases nor start vectors.

    It sorts the parameters it is given itself, whatever groups they come in (keeping any other setting of a group), so
    that a plain Trainer can be handed the class: `Trainer(…, optimizer_cls_and_kwargs=recommended_optimizer(args))`.

    Of parameters in bfloat16 (or float16) it keeps and steps float32 copies, and both moments in float32, and the
    parameters are the copies rounded (Micikevicius et al. 2018, section 3.1): bfloat16 has steps of 1/256 to 1/128 of a
    weight, so nearly every update of Adam would be lost. The copies are part of `state_dict`.
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

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of AdamW, in float32; returns what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with self._float32_copies():
            super().step()
        return loss

    @contextmanager
    def _float32_copies(self) -> Iterator[None]:
        """Within, copies with their gradients and states stand for rounded parameters; they are rounded at the end."""
        given = [group["params"] for group in self.param_groups]
        copies: dict[torch.Tensor, torch.Tensor] = {}
        try:
            for parameter in chain.from_iterable(given):
                if parameter.dtype not in ROUNDED or parameter.grad is None:
                    continue
                state = self.state.pop(parameter, {})
                copy = state.pop(MASTER) if MASTER in state else parameter.detach().float()
                copies[parameter], self.state[copy] = copy, state
                copy.grad = parameter.grad.float()
            for group, parameters in zip(self.param_groups, given, strict=True):
                group["params"] = [copies.get(parameter, parameter) for parameter in parameters]
            yield
            if copies:
                torch._foreach_copy_(list(copies), list(copies.values()))
        finally:
            for group, parameters in zip(self.param_groups, given, strict=True):
                group["params"] = parameters
            for parameter, copy in copies.items():
                copy.grad = None
                self.state[parameter] = {**self.state.pop(copy), MASTER: copy}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` gave; PyTorch gives states the dtype of their parameter, here they stay in float32."""
        super().load_state_dict(state_dict)
        saved = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        own = chain.from_iterable(group["params"] for group in self.param_groups)
        for index, parameter in zip(saved, own, strict=True):
            if parameter.dtype not in ROUNDED:
                continue
            for name, value in state_dict["state"].get(index, {}).items():
                if name != "step" and torch.is_tensor(value):
                    self.state[parameter][name] = value.detach().to(parameter.device, torch.float32, copy=True)


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
