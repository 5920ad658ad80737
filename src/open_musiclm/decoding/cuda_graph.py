"""Decoding on a GPU: one recorded step, sampling included, replayed for every token without a host synchronisation.

    prefill (eager, once a window) ─→ buffers that never move ─→ replay, replay, replay … ─→ token ids

The recording is kept with the model and serves every window of the same shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import ClassVar

import torch

from .interface import Request, Stage
from .packed import FastDecoder, LayerState
from .packed_weights import PackedStage
from .sampling import StandardSampling, StepSampler
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
    """`FastDecoder` whose steps, with the standard sampling, are replays of a recording."""

    name: ClassVar[str] = "graph"

    def __init__(self, stage: Stage, request: Request):
        super().__init__(stage, request)
        self.recording: tuple[tuple, StepRecording] | None = None
        self.written = 0  # steps that the recording's buffers know

    @classmethod
    def supports(cls, stage: Stage, request: Request) -> str | None:
        if not can_record_steps(stage.device):
            return f"records CUDA graphs, without autocast; this stage is on {stage.device}"
        if stage.predicted_stream.pattern != "flat":
            return f"records steps of one token, and the pattern {stage.predicted_stream.pattern!r} has several"
        if request.guidance_scale is not None:
            return "has no guidance yet"
        if request.sampling is None:
            return "samples by temperature and top_k alone, and this call has other processors"
        return super().supports(stage, request)

    def _allocate(self, batch_size: int, num_rows: int, key_mask: torch.Tensor) -> None:
        shape = (batch_size, num_rows, self.request.num_steps)
        self.recording = _take_recording(self.packed, shape, self.request.sampling, self.request.do_sample)
        state = self.recording[1].state
        state.conv_inputs.zero_()
        self.states = [
            LayerState.over(state.keys[number], state.values[number], state.conv_inputs[number])
            for number in range(len(self.packed.layers))
        ]
        state.hidden_keys.zero_()
        state.hidden_keys[:, : key_mask.shape[1]].masked_fill_(~key_mask, -torch.inf)
        state.first_row.fill_(self.first_row)

    def release(self) -> None:
        self.recording = None
        super().close()

    def close(self) -> None:
        """Give the recording back for the next window."""
        if self.recording is not None:
            _give_back(self.packed, self.recording)
            self.recording = None
        super().close()

    def __del__(self):
        with suppress(Exception):
            self.close()

    def advance(self, sampler: StepSampler, made: int, stop: int) -> Iterator[int]:
        recording = self.recording[1]
        state, token_ids = recording.state, sampler.steps[..., 0]
        if self.written != made and made < stop:  # the window's beginning and first token were made elsewhere
            recording.begin(token_ids[:, made - 1], made - 1)
        first = made
        while made < stop:
            if sampler.noise is not None:
                state.noise.copy_(next(sampler.noise))
            recording.replay()
            made += 1
            if made == stop:
                token_ids[:, first:stop] = state.token_ids[:, first:stop]
                self.written = stop
            yield made
