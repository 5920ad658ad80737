"""A training loop that can be stopped at any moment: state goes to a checkpoint once a minute, aside and renamed."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

CHECKPOINT_EVERY_IN_S = 60.0


def pick_device() -> torch.device:
    """The GPU where there is one, with TensorFloat32 products, which the small float32 networks here do not mind."""
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 products: on these sizes two to five times float32's speed, on a GPU and on a CPU that has them."""
    return torch.autocast(device.type, torch.bfloat16)


def save_aside(state: object, path: Path) -> None:
    """torch.save to a neighbour of `path`, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, f"{path}.part")
    os.replace(f"{path}.part", path)


def write_row(path: Path, figures: dict[str, float]) -> None:
    """Append to a learning curve, a CSV beside the checkpoint: what was printed, every five seconds."""
    is_new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        if is_new:
            file.write(",".join(figures) + "\n")
        file.write(",".join(f"{value:.6g}" for value in figures.values()) + "\n")


def learning_rate_factor(step: int, num_steps: int) -> float:
    """Linear warm-up over a twentieth of the steps, then a half cosine down to a fiftieth."""
    warmup = max(num_steps // 20, 1)
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(num_steps - warmup, 1)))


def adamw(module: torch.nn.Module, learning_rate: float, **options: object) -> torch.optim.AdamW:
    """AdamW that decays matrices only; fused on a GPU."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=torch.cuda.is_available(), **options)  # type: ignore[arg-type]


_LIMIT_IN_S: float | None = None


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Every training begun inside goes by the clock: it takes so long, and its learning rate falls with the time.

    Its number of steps is then only the most it may take. What is spent is kept in its checkpoint, so that a training
    that was stopped has what is left.
    """
    global _LIMIT_IN_S
    _LIMIT_IN_S = seconds
    try:
        yield
    finally:
        _LIMIT_IN_S = None


def train(
    name: str,
    module: torch.nn.Module,
    compute_loss: Callable[[int, torch.Generator], dict[str, torch.Tensor]],
    *,
    first_step: int = 0,
    last_step: int,
    num_schedule_steps: int,
    learning_rate: float,
    checkpoint_path: Path,
    seed: int,
    max_grad_norm: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.99),
) -> None:
    """Train `module` in place from `first_step` to `last_step`, or from the checkpoint if there is one.

    `compute_loss(step, generator)` returns named scalars of which `loss` is minimised. The generator is seeded from
    `seed` and the step, so that a resumed run draws what an unbroken one would. See `time_limit` for trainings by the
    clock.
    """
    optimizer = adamw(module, learning_rate, betas=betas)
    step, spent_before = first_step, 0.0
    if checkpoint_path.exists():
        state = torch.load(checkpoint_path, map_location="cpu", weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent_before = state["step"], state.get("spent_in_s", 0.0)
    module.train()
    began_at = saved_at = reported_at = time.monotonic()
    spent_in_s = spent_before
    progress = tqdm(total=last_step, initial=step, desc=name, unit="step", mininterval=10)
    while step < last_step and (_LIMIT_IN_S is None or spent_in_s < _LIMIT_IN_S):
        done = (step, num_schedule_steps) if _LIMIT_IN_S is None else (int(1000 * spent_in_s), int(1000 * _LIMIT_IN_S))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * learning_rate_factor(*done)
        losses = compute_loss(step, torch.Generator().manual_seed(seed * 1_000_003 + step))
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), max_grad_norm)
        optimizer.step()
        step += 1
        progress.update()
        now = time.monotonic()
        spent_in_s = spent_before + now - began_at
        is_last = step == last_step or (_LIMIT_IN_S is not None and spent_in_s >= _LIMIT_IN_S)
        if now - reported_at > 5 or is_last:
            figures = {key: value.item() for key, value in losses.items()}
            progress.set_postfix({key: f"{value:.3g}" for key, value in figures.items()}, refresh=False)
            write_row(checkpoint_path.with_suffix(".csv"), {"step": step, **figures})
            reported_at = now
        if now - saved_at > CHECKPOINT_EVERY_IN_S or is_last:
            state = {
                "module": module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "spent_in_s": spent_in_s,
            }
            save_aside(state, checkpoint_path)
            saved_at = now
    progress.close()
    module.eval()
