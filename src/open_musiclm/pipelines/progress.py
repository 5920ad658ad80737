"""A call under way: its bar, its callback, and whether it is to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

#: `callback(pipe, step, num_steps, {"stage": name})`, as diffusers calls its own: step counts from 0 over all stages
StepCallback = Callable[[Any, int, int, dict[str, Any]], Any]


class GenerationInterruptedError(Exception):
    """Raised inside a call that is to stop; the call itself returns."""


class Progress:
    """One bar over the steps of all stages of a call, with the name of the stage that runs.

    Args:
        pipe: whose `progress_bar` is shown, and whose `interrupt` is asked for after each step.
        num_steps: of each stage that will run, by name, in order.
        callback: called after each step.
    """

    def __init__(self, pipe: Any, num_steps: Mapping[str, int], callback: StepCallback | None = None):
        self.pipe = pipe
        self.callback = callback
        self.num_steps = sum(num_steps.values())
        self.step = 0
        self.bar = pipe.progress_bar(total=self.num_steps)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()

    def stage(self, name: str) -> Callable[[int], None]:
        """What a stage calls after each of its steps."""
        self.say(name.removesuffix("_model"))

        def on_token(_: int) -> None:
            self.bar.update(1)
            self.step += 1
            if self.callback is not None:
                self.callback(self.pipe, self.step - 1, self.num_steps, {"stage": name})
            if self.pipe.interrupt:
                raise GenerationInterruptedError

        return on_token

    def say(self, what: str) -> None:
        """Name what is under way, at the bar's head."""
        self.bar.set_description(f"{what:8}")
