"""Callbacks: losses that do not move, numbers that stop being finite, and logs and checkpoints that resuming relies on."""

from __future__ import annotations

import math
import os
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from .checkpoints import last_complete_checkpoint, seal_checkpoint

CAUSES = (
    "Likely causes: the tokens were made with another codebook than the stage's (another RVQ, k-means or codec; the "
    "fingerprints say so if the check was not switched off), the conditioning and the predicted stream come from "
    "different files, or the learning rate is far too low or too high."
)


class LogAtCheckpointsCallback(TrainerCallback):
    """Logs whenever a checkpoint is saved.

    A logged loss is the mean since the log before, and that mean is not in a checkpoint: without this, the first loss that
    a resumed run logs covers fewer steps than an undisturbed run's.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any):
        if control.should_save:
            control.should_log = True


class SealCheckpointsCallback(TrainerCallback):
    """Records the size and the checksum of each file of a checkpoint: damage is noticed before going on from it."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any):
        if state.is_world_process_zero:
            seal_checkpoint(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class FiniteNumbersCallback(TrainerCallback):
    """Stops a run whose numbers are no longer finite, before they reach the weights and the checkpoints.

    Gradients are looked at before every step. With fp16 some overflow is as it should be, and the scaler leaves out such a
    step: there the logged losses are looked at alone.

    Args:
        stage: what is trained, for the message.

    Raises:
        ValueError: at that step; it says which checkpoint is the last good one.
    """

    def __init__(self, stage: str):
        self.stage = stage

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any):
        if args.fp16:
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # of a sharded tensor, this process's part
        gradients = [gradient.to_local() if hasattr(gradient, "to_local") else gradient for gradient in gradients]
        if gradients and not torch.stack(torch._foreach_norm(gradients)).sum().isfinite():
            self._stop(args, state.global_step + 1, "gradients are")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any):
        entry = state.log_history[-1] if state.log_history else {}
        for name, value in (logs or {}).items():
            if isinstance(value, float) and not math.isfinite(value):
                entry[name] = None  # JSON knows no such number
                if name.endswith("loss"):
                    self._stop(args, state.global_step, f"{'loss' if name == 'loss' else name} is")

    def _stop(self, args: Any, step: int, what: str) -> None:
        kept = last_complete_checkpoint(args.output_dir, args.world_size)
        remedy = "nothing is saved yet" if kept is None else f"{kept.name} is the last good state"
        raise ValueError(
            f"Training stopped at step {step}: the {self.stage} stage's {what} no longer finite. {remedy[0].upper()}"
            f"{remedy[1:]}. A lower learning rate, a longer warm-up, or another precision (bf16, fp32) may help."
        )


class TrainingProgressCallback(TrainerCallback):
    """Steps, loss and the time that is left: a bar on a screen, a line a log elsewhere.

    Args:
        stage: what is trained.
        on_screen: show a bar; by default if stderr is a terminal.
    """

    def __init__(self, stage: str, on_screen: bool | None = None):
        self.stage = stage
        self.on_screen = os.isatty(2) if on_screen is None else on_screen
        self.bar: Any = None
        self.begun, self.started = 0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any):
        self.begun, self.started = state.global_step, time.perf_counter()
        if self.on_screen and state.is_world_process_zero:
            from tqdm import tqdm

            total, done = state.max_steps, state.global_step
            self.bar = tqdm(desc=self.stage, total=total, initial=done, unit=" steps", dynamic_ncols=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any):
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any):
        if not state.is_world_process_zero or not logs:
            return
        figures = {
            name: logs[name] for name in ("loss", "eval_loss", "eval_accuracy", "eval_clap_score") if name in logs
        }
        said = ", ".join(
            f"{name.replace('eval_', 'held-out ').replace('_', ' ')} {value:.4g}" for name, value in figures.items()
        )
        if not said:
            return
        if self.bar is not None and "loss" in logs:
            self.bar.set_postfix_str(said)
        elif self.bar is not None:
            self.bar.write(f"step {state.global_step}: {said}")
        else:
            print(
                f"{self.stage}, step {state.global_step} of {state.max_steps}: {said}{self._left(state)}", flush=True
            )

    def _left(self, state: Any) -> str:
        done = state.global_step - self.begun
        if not done or state.global_step == state.max_steps:
            return ""
        each = (time.perf_counter() - self.started) / done
        return f", {each:.3g} s a step, {each * (state.max_steps - state.global_step) / 60:.0f} min left"

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any):
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class StuckLossCallback(TrainerCallback):
    """Warns, once, of a training loss that stays near ln(codebook size), which is what guessing gives.

    Args:
        codebook_size: of the predicted stream.
        tolerance: how near, as a share of ln(codebook size).
        num_steps: for how many steps after the warm-up it must stay there.
    """

    def __init__(self, codebook_size: int, tolerance: float = 0.02, num_steps: int = 100):
        self.guessing = math.log(codebook_size)
        self.tolerance = tolerance
        self.num_steps = num_steps
        self.stuck_since: int | None = None
        self.warned = False

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any):
        loss = (logs or {}).get("loss")
        if loss is None or self.warned or state.global_step <= args.get_warmup_steps(state.max_steps):
            return
        if abs(loss - self.guessing) > self.tolerance * self.guessing:
            self.stuck_since = None
            return
        if self.stuck_since is None:
            self.stuck_since = state.global_step
        if state.global_step - self.stuck_since >= self.num_steps and state.is_world_process_zero:
            self.warned = True
            warnings.warn(
                f"The loss has stayed within {self.tolerance:.0%} of {self.guessing:.3f}, which is what guessing gives, "
                f"from step {self.stuck_since} to {state.global_step}. {CAUSES}",
                stacklevel=2,
            )
