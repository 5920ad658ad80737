"""Decoding on a GPU: one recorded step, sampling included, replayed for every token without a host synchronisation.

    prefill (eager, once a window) ─→ buffers that never move ─→ replay, replay, replay … ─→ token ids

The recording is kept with the model and serves every window of the same shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress

import torch

from .packed import FastDecoder, LayerState
from .packed_weights import PackedStage
from .sampling import StandardSampling
from .static_step import StaticState, TorchStep

#: recordings kept for a model: each holds the keys and values of a batch
KEPT_RECORDINGS = 6
#: steps before a recording, so that kernels are compiled and the libraries have their workspaces
WARM_UP_STEPS = 3


def can_record_steps(device: torch.device) -> bool:
    """CUDA graphs; with autocast or under another capture a step is not what was recorded."""
    return device.type == "cuda" and torch.version.cuda is not None and not torch.is_autocast_enabled("cuda")


class StepRecording:
    """A step over buffers of its own: recorded as a CUDA graph on a GPU, called as it is elsewhere (for tests)."""

    def __init__(self, packed: PackedStage, shape: tuple[int, int, int], sampling: StandardSampling, do_sample: bool):
        self.state = StaticState(packed, *shape)
        self.graph: torch.cuda.CUDAGraph | None = None
        with self._on_device():
            self.step, self._begin = make_step(packed, self.state, sampling, do_sample)

    def _on_device(self) -> AbstractContextManager:
        device = self.state.ids.device
        return torch.cuda.device(device) if device.type == "cuda" else nullcontext()

    def begin(self, newest_ids: torch.Tensor, index: int) -> None:
        """Set where the next step starts: the newest ids (batch,) and their index in the stream."""
        self.state.ids.copy_(newest_ids)
        self.state.index.fill_(index)
        with self._on_device():
            self._begin()

    def replay(self) -> None:
        """One step."""
        with self._on_device():
            if self.graph is not None:
                self.graph.replay()
            elif self.state.ids.is_cuda:
                self._record()
            else:
                self.step()

    def _record(self) -> None:
        """Record the step; the buffers are as before afterwards, but for one step that is done."""
        state = self.state
        kept = {name: value.clone() for name, value in vars(state).items() if isinstance(value, torch.Tensor)}

        def restore() -> None:
            for name, value in kept.items():
                getattr(state, name).copy_(value)
            self._begin()

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):
                self.step()
                restore()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step()
        self.graph = graph
        self.graph.replay()


def make_step(
    packed: PackedStage, state: StaticState, sampling: StandardSampling, do_sample: bool
) -> tuple[Callable[[], None], Callable[[], None]]:
    """The step, and what has to be called before a window's first one: in Triton kernels where they run."""
    plain = TorchStep(packed, state, sampling, do_sample)
    if not state.ids.is_cuda:
        return plain, lambda: None
    try:
        from .triton_step import TritonStep

        kernels = TritonStep(packed, state, sampling, do_sample)
        if packed.kernels_agree is None:
            packed.kernels_agree = _agree(plain, kernels, state)
    except Exception as error:  # no Triton, no compiler, an old driver: slower, but the same tokens
        warnings.warn(f"Decoding without Triton kernels: {type(error).__name__}: {error}", stacklevel=2)
        packed.kernels_agree = False
    if not packed.kernels_agree:
        return plain, lambda: None
    return kernels, kernels.begin


def _agree(plain: TorchStep, kernels, state: StaticState) -> bool:
    """Whether both make the same logits on random keys and values: asked once for a model, on its own device."""
    generator = torch.Generator(state.ids.device).manual_seed(0)
    for buffer in (state.keys, state.values, state.conv_inputs):
        buffer.copy_(torch.randn(buffer.shape, generator=generator, device=buffer.device))
    state.index.fill_(max(min(state.num_tokens - 2, 5), 0))
    state.first_row.fill_(state.num_rows - state.num_tokens)
    inputs = state.conv_inputs.clone()
    expected = plain.compute_logits().float()
    state.conv_inputs.copy_(inputs)
    kernels.begin()
    kernels.write_logits()
    error = (state.logits - expected).norm() / expected.norm()
    agree = bool(error < (1e-3 if state.keys.dtype == torch.float32 else 5e-2))
    if not agree:
        warnings.warn(f"Decoding without Triton kernels: they are off by {float(error):.1e} here.", stacklevel=2)
    return agree


def _take_recording(packed: PackedStage, shape: tuple[int, int, int], sampling: StandardSampling, do_sample: bool):
    """A recording that nobody uses; it comes back by `_give_back`."""
    key = (shape, sampling, do_sample)
    for place, (its_key, _) in enumerate(packed.recordings):
        if its_key == key:
            return packed.recordings.pop(place)
    return key, StepRecording(packed, shape, sampling, do_sample)


def _give_back(packed: PackedStage, recording: tuple[tuple, StepRecording]) -> None:
    packed.recordings.append(recording)
    del packed.recordings[:-KEPT_RECORDINGS]


class GraphDecoder(FastDecoder):
    """`FastDecoder` whose steps, with the standard sampling, are replays of a recording.

    Args:
        sampling, do_sample: how tokens are drawn.
        See [`FastDecoder`] for the others.
    """

    def __init__(self, model, streams, num_steps: int, mask_condition_eos: bool, sampling, do_sample: bool):
        super().__init__(model, streams, num_steps, mask_condition_eos)
        self.sampling, self.do_sample = sampling, do_sample
        self.recording: tuple[tuple, StepRecording] | None = None
        self.written = 0  # tokens that the recording's buffers know

    def _allocate(self, batch_size: int, num_rows: int, key_mask: torch.Tensor) -> None:
        shape = (batch_size, num_rows, self.num_steps)
        self.recording = _take_recording(self.packed, shape, self.sampling, self.do_sample)
        state = self.recording[1].state
        state.conv_inputs.zero_()
        self.states = [
            LayerState.over(state.keys[number], state.values[number], state.conv_inputs[number])
            for number in range(len(self.packed.layers))
        ]
        state.hidden_keys.zero_()
        state.hidden_keys[:, : key_mask.shape[1]].masked_fill_(~key_mask, -torch.inf)
        state.first_row.fill_(self.first_row)

    def _release(self) -> None:
        super()._release()
        self.recording = None

    def close(self) -> None:
        """Give the recording back for the next window."""
        if self.recording is not None:
            _give_back(self.packed, self.recording)
            self.recording = None
            self.states = []

    def __del__(self):
        with suppress(Exception):
            self.close()

    def decode_one_step(self, steps: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("A GraphDecoder decodes and samples in one: `decode_and_sample`.")

    def decode_and_sample(
        self, token_ids: torch.Tensor, made: int, stop: int, noise: Iterator | None
    ) -> Iterator[int]:
        """Fill `token_ids` (batch, tokens) from `made` to `stop`; yields the number made after each step."""
        recording = self.recording[1]
        state = recording.state
        if self.written != made:  # the window's beginning and first token were made elsewhere
            recording.begin(token_ids[:, made - 1], made - 1)
        first = made
        while made < stop:
            if noise is not None:
                state.noise.copy_(next(noise))
            recording.replay()
            made += 1
            yield made
        token_ids[:, first:stop] = state.token_ids[:, first:stop]
        self.written = stop
