"""Steps one at a time through the stage's own `forward`, with a growing cache or with none: what any stage can do."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from .interface import Backend, Request, Stage


class PlainDecoder(Backend):
    """The definition of what every back-end computes."""

    name: ClassVar[str] = "plain"

    def __init__(self, stage: Stage, request: Request):
        super().__init__(stage, request)
        self.cache: Any = None

    @classmethod
    def supports(cls, stage: Stage, request: Request) -> str | None:
        return None

    def prefill(self, steps: torch.Tensor) -> torch.Tensor:
        outputs = self.stage(
            **self.request.streams,
            **{self.stream.argument: steps},
            in_steps=True,
            mask_condition_eos=self.request.mask_condition_eos,
            use_cache=self.request.use_cache,
        )
        self.cache = outputs.past_key_values
        return outputs.logits[:, -1]

    def decode_one_step(self, steps: torch.Tensor) -> torch.Tensor:
        if self.cache is None:
            return self.prefill(steps)
        newest = {self.stream.argument: steps[:, -1:]}
        return self.stage(**newest, past_key_values=self.cache, use_cache=True, in_steps=True).logits[:, -1]

    def close(self) -> None:
        self.cache = None
