"""Adapters (LoRA, Hu et al. 2021) on a stage with PEFT: add, save, load, stack, merge.

```python
stage = load_lora(stage, "me/jazz-adapter", "me/lofi-adapter", weights=[0.7, 0.5])   # stacked
stage = merge_lora(stage)                                                            # a plain stage again
adapted.push_to_hub("me/jazz-adapter")                                               # a PeftModel knows how
```
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..compatibility import check_streams
from ..data.records import write_whole
from ..streams import TokenStream

#: the linear layers of attention and feed-forward
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
STREAMS_FILE = "streams.json"
STACK = "stack"


def add_lora(stage: Any, rank: int = 16, alpha: float | None = None, dropout: float = 0.0, targets=TARGETS) -> Any:
    """A stage with fresh adapters on its linear layers; only they are trained.

    Args:
        rank: of the adapters.
        alpha: their scale is `alpha / rank`; by default `2 · rank`.

    Returns:
        A `peft.PeftModel`, which a Trainer takes as any model.
    """
    from peft import LoraConfig, get_peft_model

    if rank < 1:
        raise ValueError(f"An adapter's rank must be at least 1, got {rank}.")
    config = LoraConfig(
        r=rank,
        lora_alpha=int(2 * rank if alpha is None else alpha),
        lora_dropout=dropout,
        target_modules=list(targets),
    )
    return get_peft_model(stage, config)


def save_lora(model: Any, folder: str | os.PathLike, state_dict: dict[str, Any] | None = None) -> None:
    """Save adapters, and which streams (with which codebooks) they were trained on.

    Args:
        state_dict: the model's weights, if they have to be gathered first (FSDP).
    """
    model.save_pretrained(folder, state_dict=state_dict)
    streams = [stream.to_dict() for stream in model.get_base_model().streams]
    write_whole(Path(folder) / STREAMS_FILE, json.dumps(streams, indent=2) + "\n")


def load_lora(stage: Any, *adapters: str | os.PathLike, weights: Sequence[float] | None = None) -> Any:
    """A stage with saved adapters: one, or several stacked (their weighted changes add up).

    Args:
        adapters: folders or Hub ids.
        weights: of each; by default 1.

    Raises:
        ValueError: no adapter, as many weights as adapters are not given, or an adapter was trained on other streams.
    """
    from peft import PeftModel

    if not adapters:
        raise ValueError("Give at least one adapter: a folder or a Hub id.")
    weights = [1.0] * len(adapters) if weights is None else list(weights)
    if len(weights) != len(adapters):
        raise ValueError(f"Got {len(weights)} weights for {len(adapters)} adapters.")
    for adapter in adapters:
        _check_adapter(stage, adapter)
    names = [f"adapter_{index}" for index in range(len(adapters))]
    model = PeftModel.from_pretrained(stage, str(adapters[0]), adapter_name=names[0])
    for name, adapter in zip(names[1:], adapters[1:], strict=True):
        model.load_adapter(str(adapter), adapter_name=name)
    if len(adapters) > 1 or weights != [1.0]:
        model.add_weighted_adapter(names, weights, STACK, combination_type="cat")
        model.set_adapter(STACK)
    return model.eval()


def merge_lora(model: Any) -> Any:
    """The plain stage with the active adapters' changes added to its weights."""
    return model.merge_and_unload()


def _check_adapter(stage: Any, adapter: str | os.PathLike) -> None:
    """Refuse an adapter that was trained on other tokens than the stage's; one without a record passes."""
    path = Path(adapter) / STREAMS_FILE
    if not Path(adapter).is_dir():
        from huggingface_hub import file_exists, hf_hub_download

        if not file_exists(str(adapter), STREAMS_FILE):
            return
        path = Path(hf_hub_download(str(adapter), STREAMS_FILE))
    if not path.is_file():
        return
    recorded = [TokenStream(**stream) for stream in json.loads(path.read_text(encoding="utf-8"))]
    names = [stream.name for stream in recorded], [stream.name for stream in stage.streams]
    if names[0] != names[1]:
        raise ValueError(f"The adapter {str(adapter)!r} is for a stage with the streams {names[0]}, not {names[1]}.")
    for stream, own in zip(recorded, stage.streams, strict=True):
        check_streams(f"the adapter {str(adapter)!r}'s stream {stream.name!r}", stream, "the stage", own)
