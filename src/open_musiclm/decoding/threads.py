"""How many threads a CPU should decode with: what a few steps cost, rather than how many cores there are.

A step of a stage is short, and its threads wait for one another some hundred times in it. Beside another process on the
same cores, or in a container with fewer cores than the machine, each wait is as long as the slowest thread's turn: two
threads then take many times as long as one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import torch

#: steps a number of threads is measured by, and for how long at most
NUM_STEPS = 12
LONGEST_IN_S = 0.5
#: a larger number must be faster by this to be taken
ADVANTAGE = 1.1


def candidates(most: int) -> list[int]:
    """1, 2, 4, … and the most."""
    powers = [2**power for power in range(most.bit_length()) if 2**power < most]
    return [*powers, most]


def fastest_num_threads(step: Callable[[], object], most: int, clock: Callable[[], float] = time.perf_counter) -> int:
    """The number of threads, up to `most`, with which a step is fastest; PyTorch's own is left as it was."""
    before = torch.get_num_threads()
    best, best_time = 1, float("inf")
    try:
        for number in candidates(most):
            torch.set_num_threads(number)
            step()  # makes the threads
            seconds = _mean_time(step, clock)
            if seconds * ADVANTAGE < best_time:
                best, best_time = number, seconds
            elif seconds > 2 * best_time:  # more of them will not mend it
                break
    finally:
        torch.set_num_threads(before)
    return best


def _mean_time(step: Callable[[], object], clock: Callable[[], float]) -> float:
    started, done = clock(), 0
    while done < NUM_STEPS and clock() - started < LONGEST_IN_S:
        step()
        done += 1
    return (clock() - started) / done


def decoding_steps(stage) -> Iterator[None]:
    """A stage's steps, one token each, on made-up conditions, without end."""
    ids = {s.argument: torch.zeros(1, s.num_codebooks, dtype=torch.long) for s in stage.condition_streams}
    num_frames = 4 * NUM_STEPS
    while True:
        run = stage.start_generation(num_frames, generator=torch.Generator().manual_seed(0), **ids)
        for frame in range(1, num_frames + 1):
            run.advance(frame)
            yield


def set_num_threads(stages, chosen: int | None = None) -> int:
    """Set PyTorch's threads for decoding with stages on a CPU, and return their number.

    Args:
        stages: that will run; the largest is measured.
        chosen: this number. By default what is fastest now, or `OMP_NUM_THREADS` where that is set.
    """
    if chosen is None and "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > 1:
        steps = decoding_steps(max(stages, key=lambda stage: stage.num_parameters()))
        next(steps)  # packs the weights
        chosen = fastest_num_threads(lambda: next(steps), torch.get_num_threads())
    if chosen is not None:
        torch.set_num_threads(chosen)
    return torch.get_num_threads()
