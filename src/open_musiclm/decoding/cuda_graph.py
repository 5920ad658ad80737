"""Decoding on a GPU: one recorded step, sampling included, replayed for every token without a host synchronisation.

    prefill (once a window) ─→ buffers that never move ─→ replay, replay, replay … ─→ token ids

The recording is kept with the model and serves every window of the same shape. Which step is recorded is found out on
the device: the fastest at this shape of those that pass the check (recorded_step.py). Where windows of a shape come up
again, their prefill is recorded too (recorded_prefill.py).
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import ClassVar, cast

import torch
from torch import nn

from ..models.patterns import num_columns
from .interface import Request, Stage
from .packed import FastDecoder
from .packed_weights import PackedStage
from .recorded_prefill import KEPT_PREFILLS, MOST_SHARE, Prefill, PrefillRecording, bytes_of_recording
from .recorded_step import choose_step
from .sampling import StandardSampling, StepSampler
from .static_step import StaticState

#: recordings kept for a model: each holds the keys and values of a batch
KEPT_RECORDINGS = 6
#: share of the device's memory that they may hold besides the newest
KEPT_SHARE = 1 / 8


def can_record_steps(device: torch.device) -> bool:
    """CUDA graphs; with autocast or under another capture a step is not what was recorded."""
    return device.type == "cuda" and torch.version.cuda is not None and not torch.is_autocast_enabled("cuda")


@contextmanager
def as_plain_tensors() -> Iterator[None]:
    """Buffers made within may be written whether or not the call that makes them is under `torch.inference_mode`."""
    with torch.inference_mode(False), torch.no_grad():
        yield


class StepRecording:
    """A step over buffers of its own: recorded as a CUDA graph on a GPU, called as it is elsewhere (for tests)."""

    def __init__(
        self, packed: PackedStage, shape: tuple[int, int, int], sampling: StandardSampling | None, do_sample: bool
    ):
        with as_plain_tensors():
            self.state = StaticState(packed, *shape)
        with as_plain_tensors(), self._on_device():
            self.step = choose_step(packed, self.state, sampling, do_sample)
        #: prefills that write this state, by the shape of a window's ids; the last used stands last
        self.prefills: dict[tuple, PrefillRecording] = {}

    @property
    def num_bytes(self) -> int:
        own = sum(buffer.nbytes for buffer in self.state.buffers().values())
        return own + sum(prefill.num_bytes for prefill in self.prefills.values())

    def _on_device(self) -> AbstractContextManager:
        device = self.state.ids.device
        return torch.cuda.device(device) if device.type == "cuda" else nullcontext()

    def begin(self, newest_ids: torch.Tensor, index: int) -> None:
        """Set where the next step starts: the newest ids (batch, columns) and their index in the stream."""
        self.state.ids.copy_(newest_ids)
        self.state.index.fill_(index)
        with self._on_device():
            self.step.begin()

    def replay(self) -> None:
        """One step."""
        with self._on_device():
            self.step()

    def prefill(
        self, shape: tuple, prefill: Prefill, ids: dict[str, torch.Tensor], num_rows: int, num_bytes: int
    ) -> torch.Tensor:
        """Logits behind a window of `num_rows` known rows, by a recording of windows of this shape; see its arguments."""
        with self._on_device():
            recording = self.prefills.pop(shape, None)
            if recording is None:
                with as_plain_tensors():
                    recording = PrefillRecording(prefill, ids, self.state, num_rows, num_bytes)
            self.prefills[shape] = recording
            for oldest in list(self.prefills)[:-KEPT_PREFILLS]:
                del self.prefills[oldest]
            return recording(ids)


def _take_recording(
    packed: PackedStage, shape: tuple[int, int, int], sampling: StandardSampling | None, do_sample: bool
):
    """A recording that nobody uses; it comes back by `_give_back`."""
    key = (shape, sampling, do_sample)
    for place, (its_key, _) in enumerate(packed.recordings):
        if its_key == key:
            return packed.recordings.pop(place)
    return key, StepRecording(packed, shape, sampling, do_sample)


def _give_back(packed: PackedStage, recording: tuple[tuple, StepRecording]) -> None:
    packed.recordings.append(recording)
    forget_oldest(packed.recordings, memory_of(recording[1].state.ids.device) * KEPT_SHARE)


def memory_of(device: torch.device) -> float:
    """Bytes of a GPU's memory; elsewhere no limit."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else float("inf")


def forget_oldest(recordings: list[tuple[tuple, StepRecording]], most_bytes: float) -> None:
    """Keep the newest recordings: so many, and of so many bytes, but at least one."""
    del recordings[:-KEPT_RECORDINGS]
    sizes = [each.num_bytes for _, each in recordings]
    while len(sizes) > 1 and sum(sizes) > most_bytes:
        del sizes[0], recordings[0]


class GraphDecoder(FastDecoder):
    """`FastDecoder` whose steps are replays of a recording: with the standard sampling the whole step, else its logits."""

    name: ClassVar[str] = "graph"

    def __init__(self, stage: Stage, request: Request):
        super().__init__(stage, request)
        one_token = num_columns(self.stream) == 1 and request.guidance_scale is None
        #: what the recording draws with; `None` where the caller draws from the logits
        self.sampling = request.sampling if one_token else None
        self.do_sample = request.do_sample and self.sampling is not None
        self.recording: tuple[tuple, StepRecording] | None = None
        self.written = 0  # steps that the recording's buffers know

    @classmethod
    def supports(cls, stage: Stage, request: Request) -> str | None:
        if not can_record_steps(stage.device):
            return f"records CUDA graphs, without autocast; this stage is on {stage.device}"
        return super().supports(stage, request)

    def prefill(self, steps: torch.Tensor) -> torch.Tensor:
        """As it is the first time that a window has this shape, and by a recording from then on."""
        known = self.packed.known_windows
        ids = {**self.request.streams, self.stream.argument: steps}
        shape = (
            self.request.num_steps,
            self.request.mask_condition_eos,
            *((name, *each.shape) for name, each in ids.items()),
        )
        first_row = known.first_rows.get(shape)
        if first_row is None or known.fault is not None:
            logits = super().prefill(steps)
            known.remember(shape, self.first_row)
            return logits
        known.remember(shape, first_row)
        num_rows = first_row + steps.shape[1]
        num_bytes = bytes_of_recording(self.stage.config, len(steps), num_rows, self.packed.dtype)
        if num_bytes > MOST_SHARE * memory_of(steps.device):
            return super().prefill(steps)
        self._take(len(steps), first_row + self.request.num_steps)
        self.first_row = first_row
        _, recording = cast(tuple, self.recording)
        try:
            return recording.prefill(shape, self._prefill_of(recording.state), ids, num_rows, num_bytes)
        except Exception as error:  # what cannot be recorded, an old driver, no memory: slower, but the same tokens
            known.fault = f"{type(error).__name__}: {error}"
        warnings.warn(
            f"Prefills are not recorded here: {known.fault}. They are computed as they are; the tokens are the same.",
            stacklevel=2,
        )
        return self._fill(recording.state, ids)

    def _prefill_of(self, state: StaticState) -> Prefill:
        """This window's prefill as a function of its ids; it is kept with the weights and does not hold the stage."""
        stage, request, kind = weakref.ref(cast(nn.Module, self.stage)), replace(self.request, streams={}), type(self)
        return lambda ids: kind(cast(Stage, stage()), request)._fill(state, ids)

    def _fill(self, state: StaticState, ids: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """A window's ids by argument name → the state as its steps need it, and the next logits. Waits for no value."""
        steps = ids[self.stream.argument]
        x, key_mask = self._embed_window(ids, steps)
        self._set_up(state, key_mask)
        return self._compute_window(x, key_mask, steps.shape[1])

    def _allocate(self, batch_size: int, num_rows: int, key_mask: torch.Tensor) -> None:
        self._take(batch_size, num_rows)
        self._set_up(cast(tuple, self.recording)[1].state, key_mask)

    def _take(self, batch_size: int, num_rows: int) -> None:
        shape = (batch_size, num_rows, self.request.num_steps)
        self.recording = _take_recording(self.packed, shape, self.sampling, self.do_sample)

    def _set_up(self, state: StaticState, key_mask: torch.Tensor) -> None:
        state.conv_inputs.zero_()
        self.states = state.layer_states(key_mask.shape[1])
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

    def decode_one_step(self, steps: torch.Tensor) -> torch.Tensor:
        """The logits are overwritten by the next step."""
        _, recording = cast(tuple, self.recording)
        recording.begin(steps[:, -1], steps.shape[1] - 1)
        recording.replay()
        return recording.state.logits.view(len(steps), -1, self.packed.vocabulary_size)

    def advance(self, sampler: StepSampler, made: int, stop: int) -> Iterator[int]:
        if self.sampling is None:
            yield from super().advance(sampler, made, stop)
            return
        _, recording = cast(tuple, self.recording)
        state, token_ids = recording.state, sampler.steps[..., 0]
        if self.written != made and made < stop:  # the window's beginning and first token were made elsewhere
            recording.begin(token_ids[:, made - 1, None], made - 1)
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


class GraphInt8Decoder(GraphDecoder):
    """The same on weights rounded to int8, a scale a row: half of bfloat16's bytes, and other tokens."""

    name: ClassVar[str] = "graph-int8"
    int8: ClassVar[bool] = True
