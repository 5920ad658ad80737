"""Whether a step does on this device, at this batch size, what `TorchStep` does: asked before it is used.

Several steps are made from random keys, values and convolution inputs, with the ids that are fed given, and compared:
logits, and everything that was stored. Then the same again from the same beginning: kernels sum in a fixed order, so
another result to the last bit means that something was read while it was written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from .known import KnownSteps
from .sampling import StandardSampling
from .static_step import StaticState, TorchStep

#: more steps than a convolution usually has taps, so that what one step stores is read and overwritten by others
CHECKED_STEPS = 4
#: runs from the same beginning
CHECKED_RUNS = 8
#: buffers whose rows are written once
KEPT = ("keys", "values")


class Step(Protocol):
    """From the newest ids in the state's buffers to the next ones."""

    @property
    def state(self) -> StaticState: ...

    def begin(self) -> None: ...

    def __call__(self) -> None: ...


def how_it_ends(plain: TorchStep) -> tuple:
    """Whether a step draws, and with what: a step that ends at the logits is another one than one that draws."""
    sampling: StandardSampling | None = plain.sampling
    return (None,) if sampling is None else (plain.do_sample, sampling.top_k is not None)


def fastest_right_step(
    plain: TorchStep,
    ways: Mapping[str, Callable[[], Step]],
    milliseconds: Callable[[Step], float],
    known: KnownSteps,
) -> tuple[str, Step, dict[str, str]]:
    """The fastest of several steps over the same state that do what `plain` does.

    A way is checked once for a batch size and what a step ends with. Which one is fastest is measured for every shape of a
    window, so whatever is chosen, the first way was slower at this very shape.

    Args:
        plain: what they are held against.
        ways: makes each of them; the first is `plain` as it would be used, which is not checked.
        milliseconds: what one step takes.
        known: what was found out before, and now.

    Returns:
        Its name, the step, and of each one that is found wrong now, or cannot be made, the fault.
    """
    state, first = plain.state, next(iter(ways))
    ends = how_it_ends(plain)
    window = (state.batch_size, state.num_rows, state.num_tokens, *ends)
    faults = known.faults.setdefault((state.batch_size, *ends), {})
    fastest = known.fastest.get(window)
    right: dict[str, Step] = {}
    found: dict[str, str] = {}
    for name in ways if fastest is None else [fastest]:
        if faults.get(name) is not None:
            continue
        try:
            step = ways[name]()
            if name != first and name not in faults:
                faults[name] = find_fault(plain, step)
        except Exception as error:  # no Triton, no compiler, an old driver, no memory: slower, but the same tokens
            if name == first:
                raise
            faults[name] = f"{type(error).__name__}: {error}"
        fault = faults.get(name)
        if fault is None:
            right[name] = step
        else:
            found[name] = fault
    if not right:  # the fastest cannot be made any more
        del known.fastest[window]
        name, step, more = fastest_right_step(plain, ways, milliseconds, known)
        return name, step, found | more
    times = {name: milliseconds(step) if len(right) > 1 else 0.0 for name, step in right.items()}
    fastest = min(times, key=lambda name: times[name])
    known.fastest[window] = fastest
    return fastest, right[fastest], found


def find_fault(plain: TorchStep, step, runs: int = CHECKED_RUNS) -> str | None:
    """What `step` does otherwise than `plain`, which works on the same state; `None` if nothing.

    The state's buffers are overwritten.
    """
    state, packed = plain.state, plain.packed
    device = state.ids.device
    generator = torch.Generator(device).manual_seed(0)
    steps = min(CHECKED_STEPS, state.num_tokens - 1)
    index = (state.num_tokens - 1 - steps) // 2
    first_row = state.num_rows - state.num_tokens
    state.reset()
    for buffer in (state.keys, state.values, state.conv_inputs):
        buffer.normal_(generator=generator)
    state.noise.uniform_(1e-6, 1 - 1e-6, generator=generator).log_().neg_().log_().neg_()
    state.first_row.fill_(first_row)
    beginning = {name: value.clone() for name, value in state.buffers().items()}
    fed = torch.randint(packed.codebook_size, (steps, *state.ids.shape), generator=generator, device=device)

    def run(each) -> dict[str, torch.Tensor]:
        state.restore(beginning)
        logits = []
        for number in range(steps):
            state.index.fill_(index + number)
            state.ids.copy_(fed[number])
            each.begin()
            each()
            logits.append(state.logits.clone())
        rows = slice(first_row + index, first_row + index + steps)
        stored = {"keys": state.keys[:, :, rows], "values": state.values[:, :, rows]}
        if packed.num_taps:
            stored["convolution inputs"] = state.conv_inputs
        kept = [
            torch.equal(getattr(state, name)[:, :, : rows.start], beginning[name][:, :, : rows.start]) for name in KEPT
        ]
        return {
            "logits": torch.stack(logits),
            **{name: value.clone() for name, value in stored.items()},
            "rows before": torch.tensor([kept]),  # nobody may write them
        }

    expected = run(plain)
    found = run(step)
    tolerance = 1e-3 if packed.dtype == torch.float32 else 5e-2
    for name, value in expected.items():
        error = largest_error(found[name], value)
        if not error < tolerance:  # a NaN is none
            return f"its {name} are off by {error:.1e}"
    sampling: StandardSampling | None = plain.sampling
    if sampling is not None:
        drawn = sampling(found["logits"][-1], state.noise if plain.do_sample else None)
        if not torch.equal(drawn, state.ids[:, 0]):
            return "it draws other tokens from the same logits"
    for _ in range(runs - 1):
        again = run(step)
        for name, value in found.items():
            if not torch.equal(again[name], value):
                return f"its {name} change from run to run"
    return None


def largest_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """‖found - expected‖ / ‖expected‖ of the worst layer, or step."""
    difference = (found.float() - expected.float()).flatten(1).norm(dim=1)
    return float((difference / expected.float().flatten(1).norm(dim=1).clamp_min(1e-12)).max())
