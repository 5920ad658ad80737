"""A step recorded as a CUDA graph, and which of the steps that there are is recorded.

PyTorch's ── recorded ───────────────────────────────────→ timed ─┐
kernels, kernels that overlap ── recorded ── right here? ─→ timed ─┴→ the fastest at this shape
"""

from __future__ import annotations

import functools
import warnings

import torch

from .packed_weights import PackedStage
from .sampling import StandardSampling
from .static_step import StaticState, TorchStep
from .step_check import Step, fastest_right_step

#: steps before a recording, so that kernels are compiled and the libraries have their workspaces
WARM_UP_STEPS = 3
#: replays that a step's time is taken from
TIMED_STEPS = 20


class RecordedStep:
    """A step as a CUDA graph; recording changes the step's buffers, and a window must set them up afterwards."""

    def __init__(self, step: Step):
        self.begin = step.begin
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):
                step.state.index.zero_()
                step.begin()
                step()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        self.step = step  # its buffers are the graph's
        with torch.cuda.graph(self.graph):
            step()

    @property
    def state(self) -> StaticState:
        return self.step.state

    def __call__(self) -> None:
        self.graph.replay()


def choose_step(packed: PackedStage, state: StaticState, sampling: StandardSampling | None, do_sample: bool) -> Step:
    """The fastest step that is right here: kernels that overlap, kernels, or PyTorch's; recorded where it can be."""
    plain = TorchStep(packed, state, sampling, do_sample)
    if not state.ids.is_cuda or state.num_tokens < 2:  # of one token there is no step
        return plain
    ways = {
        name: functools.partial(_make, name, packed, state, sampling, do_sample, plain)
        for name in ("torch", "overlapping kernels", "kernels")
        if name != "overlapping kernels" or torch.cuda.get_device_capability(state.ids.device) >= (9, 0)
    }
    _, step, faults = fastest_right_step(plain, ways, _milliseconds, packed.known_steps)
    if len(faults) == len(ways) - 1:
        warnings.warn(
            f"Decoding of {state.batch_size} samples goes without Triton kernels here: {faults['kernels']}. The step in "
            "PyTorch is recorded instead; it makes the same tokens.",
            stacklevel=2,
        )
    state.reset()
    return step


def _make(
    way: str,
    packed: PackedStage,
    state: StaticState,
    sampling: StandardSampling | None,
    do_sample: bool,
    plain: TorchStep,
) -> RecordedStep:
    step: Step = plain
    if way != "torch":
        from .triton_step import TritonStep

        step = TritonStep(packed, state, sampling, do_sample, overlap=way == "overlapping kernels")
    recorded = RecordedStep(step)
    state.reset()
    return recorded


def _milliseconds(step: Step) -> float:
    """Of a step in the middle of a window, the best of three runs."""
    state, best = step.state, float("inf")
    for _ in range(3):
        steps = min(TIMED_STEPS, state.num_tokens - 1)
        state.index.fill_((state.num_tokens - 1 - steps) // 2)
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(steps):
            step()
        stop.record()
        stop.synchronize()
        best = min(best, start.elapsed_time(stop) / steps)
    return best
