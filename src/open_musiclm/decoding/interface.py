"""What a way of decoding is: a back-end turns the steps so far into the logits of the next step.

    supports ─→ None, or why not        may it serve this stage and request?
    prefill     the conditioning and the known steps at once ─→ logits of the next step
    advance     steps one after another, each drawn by the caller's sampler, until there are enough
    close       let go of what it holds

All back-ends compute the same function; registry.py names them in order of preference. Rows are samples, or with guidance
the samples' conditional branches and then their negative ones: a back-end need not know which.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from ..models.configuration import MusicLMStageConfig
from ..models.streams import TokenStream
from .memory import explain_out_of_memory
from .sampling import StandardSampling, StepSampler


class Stage(Protocol):
    """What decoding needs of a stage."""

    config: MusicLMStageConfig
    streams: list[TokenStream]
    decoder: Any  #: a `MusicLMDecoder`, whose layers PyTorch types as any module
    embeddings: nn.ModuleDict
    position_embeddings: nn.ModuleDict | None
    training: bool

    @property
    def heads(self) -> Any: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def predicted_stream(self) -> TokenStream: ...
    @property
    def condition_streams(self) -> list[TokenStream]: ...

    def embed_sequence(
        self, steps: dict[str, torch.Tensor], append_condition_eos: bool, mask_condition_eos: bool
    ) -> tuple[torch.Tensor, torch.Tensor, list[int]]: ...
    def check_cached_prefix(self, num_rows: int, num_steps: int) -> None: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def __call__(self, **kwargs: Any) -> Any: ...


@dataclass(frozen=True)
class Request:
    """What a `generate` call asks of a back-end.

    Args:
        streams: the conditioning streams by argument name, (rows, tokens) each.
        num_rows: samples, twice as many with guidance.
        num_steps: steps of the predicted stream in the end.
        mask_condition_eos: see `MusicLMStageModel.forward`.
        use_cache: `False` asks for the whole sequence to be computed again for each step.
        guidance_scale: how the two branches are mixed; `None` for one branch.
        sampling, do_sample: how the sampler draws, for a back-end that draws itself; `sampling` is `None` if it does
            more than temperature and top_k.
    """

    streams: dict[str, torch.Tensor]
    num_rows: int
    num_steps: int
    mask_condition_eos: bool = True
    use_cache: bool = True
    guidance_scale: float | None = None
    sampling: StandardSampling | None = None
    do_sample: bool = True


class Backend(ABC):
    """One `generate` call of a stage. It is made only if [`supports`] has nothing against it.

    Args:
        stage: what is asked.
        request: see [`Request`].
    """

    name: ClassVar[str]

    def __init__(self, stage: Stage, request: Request):
        self.stage = stage
        self.request = request
        self.stream = stage.predicted_stream

    @classmethod
    @abstractmethod
    def supports(cls, stage: Stage, request: Request) -> str | None:
        """`None`, or the reason why this back-end cannot serve the request: the end of a sentence about it."""

    @abstractmethod
    def prefill(self, steps: torch.Tensor) -> torch.Tensor:
        """The conditioning and the known steps (rows, steps, columns) → next logits (rows, columns, vocabulary)."""

    def decode_one_step(self, steps: torch.Tensor) -> torch.Tensor:
        """All steps so far (rows, steps, columns), the last one new → next logits (rows, columns, vocabulary)."""
        raise NotImplementedError(f"{type(self).__name__} has an `advance` of its own.")

    def advance(self, sampler: StepSampler, made: int, stop: int) -> Iterator[int]:
        """Make the steps from `made` to `stop`; yields their number after each one that is drawn."""
        for index in range(made, stop):
            sampler.draw(index, self.decode_one_step(sampler.steps[:, :index]))
            yield index + 1

    @abstractmethod
    def close(self) -> None:
        """Let go of what this call holds: all steps are made."""

    def release(self) -> None:
        """The same after an allocation that failed, when what is held may not be whole."""
        self.close()

    def explain_out_of_memory(self) -> AbstractContextManager[None]:
        """Turn an allocation that fails within into a `MemoryError` that says what would fit (memory.py)."""
        rows = sum(token_ids.shape[1] for token_ids in self.request.streams.values()) + self.request.num_steps
        together = self._rows_together(self.request.num_rows * rows)
        return explain_out_of_memory(self.stage, self.request.num_rows, rows, together, self.release)

    def _rows_together(self, num_rows: int) -> int:
        """Of so many rows of a prefill, those that go through the layers together."""
        return num_rows
