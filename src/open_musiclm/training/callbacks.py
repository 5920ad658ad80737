"""Callbacks: one notices a loss that does not move, one makes the logs of a resumed run those of an undisturbed one."""

from __future__ import annotations

import math
import warnings
from typing import Any

from transformers import TrainerCallback

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
