"""The prefill of windows of one shape, recorded as a CUDA graph: hundreds of small launches as one.

    ids, copied into buffers ─→ embed ─→ layers ─→ keys, values, convolution inputs, hidden keys of a step's state
                                                └─→ logits of the next step

It is held against the prefill that is not recorded before it is used: on the same ids, over buffers filled with NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from .memory import bytes_of_prefill
from .static_step import StaticState
from .step_check import largest_error

#: prefills kept with a recorded step: windows that begin from nothing, and those that go on from the one before
KEPT_PREFILLS = 3
#: share of a device's memory that one of them may take: it holds its inner states as long as it is kept. With more rows
#: the launches are no longer what a prefill takes its time for
MOST_SHARE = 1 / 32
#: buffers that a prefill writes
WRITTEN = ("keys", "values", "conv_inputs", "hidden_keys", "first_row")

Prefill = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]


class PrefillRecording:
    """A prefill over ids of its own: a CUDA graph on a GPU, called as it is elsewhere (for tests).

    Args:
        prefill: ids by argument name → logits (rows, columns, vocabulary); writes the state. It must neither ask for a
            tensor's value nor draw random numbers.
        ids: of the window at hand, whose shapes are recorded.
        state: what `prefill` writes.
        num_rows: rows of keys and values that it writes.
        num_bytes: that it takes, for who counts them.

    Raises:
        ValueError: the recording computes something else. Recording itself raises what CUDA does.
    """

    def __init__(
        self, prefill: Prefill, ids: Mapping[str, torch.Tensor], state: StaticState, num_rows: int, num_bytes: int
    ):
        self.num_bytes = num_bytes
        self.ids = {name: each.clone() for name, each in ids.items()}
        own = self.ids
        expected = _results(prefill(own), state, num_rows)
        self.replay = record(lambda: prefill(own), state.ids.device)
        for buffer in _written(state, num_rows).values():
            buffer.fill_(torch.nan if buffer.is_floating_point() else -1)
        found = _results(self.replay(), state, num_rows)
        tolerance = 1e-3 if state.keys.dtype == torch.float32 else 5e-2
        for name, value in expected.items():
            if not largest_error(found[name], value) < tolerance:  # a NaN is none
                raise ValueError(f"its {name.replace('_', ' ')} are others")

    def __call__(self, ids: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits, which the next call overwrites."""
        for name, buffer in self.ids.items():
            buffer.copy_(ids[name])
        return self.replay()


def record(function: Callable[[], torch.Tensor], device: torch.device) -> Callable[[], torch.Tensor]:
    """A function of no arguments as a CUDA graph, which gives the same tensor each time; on a CPU the function."""
    if device.type != "cuda":
        return function
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # so that the libraries have their workspaces
        function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other models' threads may go on
        made = function()

    def replay() -> torch.Tensor:
        graph.replay()
        return made

    return replay


def bytes_of_recording(config, batch_size: int, num_rows: int, dtype: torch.dtype) -> int:
    """Memory of a recorded prefill: all samples at once, each with an additive mask of its own."""
    masks = 3 * (batch_size - 1) * config.num_attention_heads * num_rows * num_rows * dtype.itemsize
    return bytes_of_prefill(config, num_rows, batch_size, batch_size * num_rows, dtype) + masks


def _written(state: StaticState, num_rows: int) -> dict[str, torch.Tensor]:
    """Views of what a prefill of `num_rows` rows writes, by name."""
    buffers = {name: getattr(state, name) for name in WRITTEN}
    return buffers | {name: buffers[name][:, :, :num_rows] for name in ("keys", "values")}


def _results(logits: torch.Tensor, state: StaticState, num_rows: int) -> dict[str, torch.Tensor]:
    """Copies of all that a prefill made, to be compared along the first dimension; of hidden keys 1 for each, else 0."""
    made = {name: buffer.clone() for name, buffer in _written(state, num_rows).items() if buffer.numel()}
    hidden = made["hidden_keys"]
    made["hidden_keys"] = torch.where(hidden.isinf(), 1.0, hidden)
    made["first_row"] = made["first_row"][:, None]
    return made | {"logits": logits.clone()}
