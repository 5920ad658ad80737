"""Adapters (LoRA, Hu et al. 2021) on a stage with PEFT: add, save, load, stack, merge, push.

```python
stage = load_lora(stage, "me/jazz-adapter", "me/lofi-adapter", weights=[0.7, 0.5])   # stacked
stage = merge_lora(stage)                                                            # a plain stage again
push_lora("tuned/adapter", "me/jazz-adapter")                                        # to the Hub
```
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from ..data.records import write_whole
from ..decoding.packed_weights import forget_packed
from ..extras import extra_needed
from ..hub.files import StoredTensor, read_json
from ..hub.model_card import is_hub_id
from ..hub.publishing import upload
from ..hub.reading import all_finite, told
from ..models.streams import TokenStream, resolve_streams
from ..tokenizers.compatibility import check_streams
from .adapter_files import adapter_weights, check_adapter_config, read_adapter_header, taken_out_if_refused

#: the linear layers of attention and feed-forward
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
STREAMS_FILE = "streams.json"
STACK = "stack"

CARD = """---
library_name: peft
tags:
- open-musiclm
- lora
- music
- text-to-music
---
# An adapter of the {stage} stage

LoRA of rank {rank}, trained with open-musiclm. It changes a stage whose tokens come from these codebooks; another one is
refused.

| tokens | codebooks × entries | fingerprint |
|---|---|---|
{streams}

```python
from open_musiclm import MusicLMPipeline
from open_musiclm.training import load_lora, merge_lora

pipeline = MusicLMPipeline.from_pretrained("the pipeline")
stage = load_lora(pipeline.{stage}_model, "this repository")
pipeline.register_modules({stage}_model=merge_lora(stage))
```
"""


def add_lora(stage: Any, rank: int = 16, alpha: float | None = None, dropout: float = 0.0, targets=TARGETS) -> Any:
    """A stage with fresh adapters on its linear layers; only they are trained.

    Args:
        rank: of the adapters.
        alpha: their scale is `alpha / rank`; by default `2 · rank`.

    Returns:
        A `peft.PeftModel`, which a Trainer takes as any model.
    """
    with extra_needed():
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
    folder, name = Path(folder), model.active_adapter
    config = model.peft_config[name]
    base = config.base_model_name_or_path
    if base is not None and (not base or os.path.exists(base)):
        config.base_model_name_or_path = None  # a path means nothing on another machine
    model.save_pretrained(folder, selected_adapters=[name], state_dict=state_dict)
    if name != "default":  # which PEFT puts into a folder of its own
        for file in (folder / name).iterdir():
            file.replace(folder / file.name)
        (folder / name).rmdir()
    streams = [stream.to_dict() for stream in model.get_base_model().streams]
    write_whole(folder / STREAMS_FILE, json.dumps(streams, indent=2) + "\n")
    rows = "\n".join(
        "| {name} | {num_codebooks} × {codebook_size} | `{codebook_fingerprint}` |".format(**s) for s in streams
    )
    write_whole(folder / "README.md", CARD.format(stage=streams[-1]["name"], rank=config.r, streams=rows))


def push_lora(adapter: Any, repo_id: str, **upload_kwargs: Any) -> Any:
    """Upload adapters to the Hub, with the record of the codebooks that they were trained on.

    Args:
        adapter: a folder made by `save_lora` (or by `open-musiclm train --lora`, its `adapter`), or the model.
        upload_kwargs: `license`, `private`, `token`, `revision`, … as of [`open_musiclm.hub.publishing.upload`].

    Returns:
        The commit.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "adapter"
        if isinstance(adapter, (str, os.PathLike)):
            if not (Path(adapter) / STREAMS_FILE).is_file():
                raise ValueError(f"{str(adapter)!r} is no adapter: it holds no {STREAMS_FILE}; `save_lora` makes one.")
            shutil.copytree(adapter, folder)
        else:
            save_lora(adapter, folder)
        return upload(folder, repo_id, lambda repo, **said: _card(folder, **said), **upload_kwargs)


def _card(folder: Path, license: str | None = None) -> ModelCard:
    card = ModelCard.load(folder / "README.md")
    if license is not None:
        card.data.license = license
    return card


def load_lora(stage: Any, *adapters: str | os.PathLike, weights: Sequence[float] | None = None) -> Any:
    """A stage with saved adapters: one, or several stacked (their weighted changes add up).

    Args:
        adapters: folders or Hub ids.
        weights: of each; by default 1.

    Raises:
        ValueError: no adapter, as many weights as adapters are not given, or an adapter was trained on other streams.
    """
    with extra_needed():
        from peft import PeftModel

    if not adapters:
        raise ValueError("Give at least one adapter: a folder or a Hub id.")
    weights = adapter_weights(adapters, weights)
    for adapter in adapters:
        _check_adapter(stage, adapter)
    names = ["default", *(f"adapter_{index}" for index in range(1, len(adapters)))]
    headers = [read_adapter_header(adapter) for adapter in adapters]
    for adapter, header in zip(adapters, headers, strict=True):
        check_adapter_config(adapter, header)
    with taken_out_if_refused(stage):
        with told(adapters[0]):
            model = PeftModel.from_pretrained(stage, str(adapters[0]), adapter_name=names[0])
        for name, adapter in zip(names[1:], adapters[1:], strict=True):
            with told(adapter):
                model.load_adapter(str(adapter), adapter_name=name)
        for name, adapter, header in zip(names, adapters, headers, strict=True):
            _refuse_half_an_adapter(model, name, adapter, header)
        if len(adapters) > 1 or weights != [1.0]:
            with told(adapters[0]):
                model.add_weighted_adapter(names, weights, STACK, combination_type="cat")
                model.set_adapter(STACK)
    return model.eval()


def _refuse_half_an_adapter(
    model: Any, name: str, adapter: str | os.PathLike, header: dict[str, StoredTensor]
) -> None:
    """Weights that are missing, left over or no numbers: PEFT would draw or drop them."""
    from peft import get_peft_model_state_dict

    needed = get_peft_model_state_dict(model, adapter_name=name)
    for problem, names in (("lacks", needed.keys() - header.keys()), ("has also", header.keys() - needed.keys())):
        if names:
            raise ValueError(f"The adapter {str(adapter)!r} is not one of this stage: it {problem} {min(names)!r}.")
    for key, tensor in needed.items():
        if not all_finite(tensor):
            raise ValueError(f"The adapter {str(adapter)!r}: {key!r} holds values that are not finite.")


def merge_lora(model: Any) -> Any:
    """The plain stage with the active adapters' changes added to its weights."""
    merged = model.merge_and_unload()
    forget_packed(merged)
    return merged


def adapter_streams(adapter: str | os.PathLike) -> list[TokenStream] | None:
    """The streams of the stage that an adapter was trained for, the predicted one last; `None` if it does not say.

    Args:
        adapter: a folder or Hub id; an id that was downloaded before is read without the Hub.

    Raises:
        ValueError: there is no such adapter.
    """
    path = Path(adapter) / STREAMS_FILE
    if not os.path.isdir(adapter):
        if os.path.exists(adapter) or not is_hub_id(str(adapter)):
            raise ValueError(f"There is no adapter {str(adapter)!r}: neither a folder nor a Hub id.")
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            path = Path(hf_hub_download(str(adapter), STREAMS_FILE))
        except LocalEntryNotFoundError as error:
            raise ValueError(f"{str(adapter)!r} was not downloaded before, and the Hub cannot be reached.") from error
        except EntryNotFoundError:
            return None
    if not path.is_file():
        return None
    return resolve_streams(read_json(path))


def _check_adapter(stage: Any, adapter: str | os.PathLike) -> None:
    """Refuse an adapter that was trained on other tokens than the stage's; one without a record passes."""
    recorded = adapter_streams(adapter)
    if recorded is None:
        return
    names = [stream.name for stream in recorded], [stream.name for stream in stage.streams]
    if names[0] != names[1]:
        raise ValueError(f"The adapter {str(adapter)!r} is for a stage with the streams {names[0]}, not {names[1]}.")
    for stream, own in zip(recorded, stage.streams, strict=True):
        check_streams(f"the adapter {str(adapter)!r}'s stream {stream.name!r}", stream, "the stage", own)
