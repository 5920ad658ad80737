"""Adapters (LoRA) of a pipeline's stages: `load_lora_weights`, `unload_lora_weights`, as diffusers' pipelines have them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch


class AdapterMixin:
    """Adapters are added to the weights of their stages, which then decode as fast as without."""

    components: dict[str, Any]
    chain: Any
    _weights_before: dict[str, dict[str, torch.Tensor]] | None = None

    def load_lora_weights(self, *adapters: str | os.PathLike, weights: Sequence[float] | None = None) -> None:
        """Add adapters to the stages that they were trained for; several add up, also over several calls.

        Args:
            adapters: folders or Hub ids, as `open-musiclm train --lora` and `push_lora` leave them.
            weights: of each; by default 1.

        Raises:
            ValueError: no such adapter, one without the record of its stage, of other codebooks than the stage's, or another
                number of weights than of adapters.
        """
        from ..training.lora import adapter_streams, load_lora, merge_lora

        weights = [1.0] * len(adapters) if weights is None else list(weights)
        if len(weights) != len(adapters):
            raise ValueError(f"Got {len(weights)} weights for {len(adapters)} adapters.")
        of_stages: dict[str, list[tuple[str | os.PathLike, float]]] = {}
        for adapter, weight in zip(adapters, weights, strict=True):
            streams = adapter_streams(adapter)
            if streams is None:
                raise ValueError(
                    f"The adapter {str(adapter)!r} does not say which stage it is for; add it with `open_musiclm.training."
                    "load_lora(stage, …)`."
                )
            of_stages.setdefault(self.chain.component(streams[-1].name), []).append((adapter, weight))
        before = {} if self._weights_before is None else self._weights_before
        for name, chosen in of_stages.items():
            stage = load_lora(getattr(self, name), *(each[0] for each in chosen), weights=[each[1] for each in chosen])
            kept = before.setdefault(name, {})
            for layer in stage.targeted_module_names:
                weight = stage.get_base_model().get_submodule(layer).get_base_layer().weight
                kept.setdefault(f"{layer}.weight", weight.detach().to("cpu", copy=True))
            self.register_modules(**{name: merge_lora(stage)})  # type: ignore[attr-defined]
        self._weights_before = before

    def unload_lora_weights(self) -> None:
        """Take all adapters out again: the weights are bit for bit what they were."""
        for name, kept in (self._weights_before or {}).items():
            stage = getattr(self, name)
            with torch.no_grad():
                for parameter, weight in kept.items():
                    stage.get_parameter(parameter).copy_(weight)
        self._weights_before = None
