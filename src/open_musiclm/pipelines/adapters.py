"""Adapters (LoRA) of a pipeline's stages: `load_lora_weights`, `unload_lora_weights`, as diffusers' pipelines have them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from ..decoding.packed_weights import forget_packed
from ..hub.reading import all_finite


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
        from ..training.lora import adapter_streams, adapter_weights, load_lora, merge_lora

        weights = adapter_weights(adapters, weights)
        of_stages: dict[str, list[tuple[str | os.PathLike, float]]] = {}
        for adapter, weight in zip(adapters, weights, strict=True):
            streams = adapter_streams(adapter)
            if streams is None:
                raise ValueError(
                    f"The adapter {str(adapter)!r} does not say which stage it is for; add it with `open_musiclm.training."
                    "load_lora(stage, …)`."
                )
            of_stages.setdefault(self.chain.component(streams[-1].name), []).append((adapter, weight))
        before = {name: dict(kept) for name, kept in (self._weights_before or {}).items()}
        changed: dict[str, dict[str, torch.Tensor]] = {}
        try:
            for name, chosen in of_stages.items():
                stage = load_lora(
                    getattr(self, name), *(each[0] for each in chosen), weights=[each[1] for each in chosen]
                )
                own = changed.setdefault(name, {})
                for layer in stage.targeted_module_names:
                    weight = stage.get_base_model().get_submodule(layer).get_base_layer().weight
                    own[f"{layer}.weight"] = weight.detach().to("cpu", copy=True)
                self.register_modules(**{name: merge_lora(stage)})  # type: ignore[attr-defined]
                for parameter in own:
                    if not all_finite(getattr(self, name).get_parameter(parameter)):
                        raise ValueError(
                            f"With these adapters {name}'s {parameter} is no longer finite; give other weights."
                        )
        except BaseException:
            self._put_back(changed)
            raise
        for name, own in changed.items():
            before[name] = {**own, **before.get(name, {})}
        self._weights_before = before

    def unload_lora_weights(self) -> None:
        """Take all adapters out again: the weights are bit for bit what they were."""
        self._put_back(self._weights_before or {})
        self._weights_before = None

    def _put_back(self, weights: dict[str, dict[str, torch.Tensor]]) -> None:
        for name, kept in weights.items():
            stage = getattr(self, name)
            with torch.no_grad():
                for parameter, weight in kept.items():
                    stage.get_parameter(parameter).copy_(weight)
            forget_packed(stage)
