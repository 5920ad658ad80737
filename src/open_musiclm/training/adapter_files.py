"""Files of adapters, which come from anywhere: looked at before PEFT reads them, and taken out again where it refuses."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..given import as_number, shown
from ..hub.files import StoredTensor, read_header, read_json_table
from ..hub.reading import file_of_repository

WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
#: settings of PEFT's LoRA that say how weights are laid out; any other one that is set would change the stage or import code
KNOWN = {
    "peft_type", "task_type", "peft_version", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping",
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "bias", "fan_in_fan_out", "use_rslora",
    "use_dora", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "init_lora_weights",
    "loftq_config", "qalora_group_size",
}  # fmt: skip
#: those of them that PEFT takes for texts
TEXTS = ("task_type", "peft_version", "base_model_name_or_path", "revision")


def read_adapter_header(adapter: str | os.PathLike) -> dict[str, StoredTensor]:
    """The header of an adapter's weights, which are read in safetensors alone."""
    path = _file(adapter, WEIGHTS_FILE)
    if path is None:
        raise ValueError(f"{str(adapter)!r} is no adapter: it holds no {WEIGHTS_FILE}.")
    return read_header(path)


def check_adapter_config(adapter: str | os.PathLike, header: dict[str, StoredTensor]) -> None:
    """Refuse what is no plain LoRA of the size that its weights have.

    Raises:
        ValueError: another kind of adapter, a rank beyond that of the weights, a scale that is no number, or a setting
            that would change the stage in another way than by these weights.
    """
    path = _file(adapter, CONFIG_FILE)
    if path is None:
        raise ValueError(f"{str(adapter)!r} is no adapter: it holds no {CONFIG_FILE}.")
    from peft import LoraConfig

    config, usual = read_json_table(path), LoraConfig()
    if config.get("peft_type") != "LORA":
        raise ValueError(
            f"{path} describes an adapter of the kind {shown(config.get('peft_type'))}; LORA is read here."
        )
    for name, value in config.items():
        if name not in KNOWN and value not in (None, False, [], {}, getattr(usual, name, None)):
            raise ValueError(f"{path}: {shown(name)} is {shown(value)}; an adapter that asks for this is not read.")
    for name in TEXTS:
        if not isinstance(config.get(name), str | None):
            raise ValueError(f"{path}: `{name}` must be a text, got {shown(config[name])}.")
    if not isinstance(config.get("init_lora_weights", True), bool | None):
        raise ValueError(
            f"{path}: `init_lora_weights` changes the stage's own weights; save the adapter as a plain LoRA."
        )
    largest = max((tensor.shape[0] for name, tensor in header.items() if "lora_A" in name and tensor.shape), default=0)
    ranks = config.get("rank_pattern") or {}
    if not isinstance(ranks, dict):
        raise ValueError(f"{path}: `rank_pattern` must be a table of ranks, got {shown(ranks)}.")
    for rank in (config.get("r"), *ranks.values()):
        if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= largest:
            raise ValueError(f"{path} says the rank {shown(rank)}, and its weights have {largest}.")
    scales = config.get("alpha_pattern") or {}
    if not isinstance(scales, dict):
        raise ValueError(f"{path}: `alpha_pattern` must be a table of scales, got {shown(scales)}.")
    for scale in (config.get("lora_alpha"), *scales.values()):
        as_number(f"{path}: `lora_alpha`", scale, "a number", lambda number: abs(number) < 1e6)


@contextmanager
def taken_out_if_refused(stage: Any) -> Iterator[None]:
    """PEFT puts its layers into a stage before it has read their weights: if it fails, the stage is as it was."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    learns = {name: parameter.requires_grad for name, parameter in stage.named_parameters()}
    try:
        yield
    except BaseException:
        layers = {name: module for name, module in stage.named_modules() if isinstance(module, BaseTunerLayer)}
        for name, layer in layers.items():
            parent, _, child = name.rpartition(".")
            setattr(stage.get_submodule(parent), child, layer.get_base_layer())
        for attribute in ("peft_config", "_hf_peft_config_loaded"):
            stage.__dict__.pop(attribute, None)
        for name, parameter in stage.named_parameters():
            parameter.requires_grad_(learns.get(name, True))
        raise


def adapter_weights(adapters: Sequence[Any], weights: Any = None) -> list[float]:
    """How much of each adapter is added, by default all of it.

    Raises:
        ValueError: a path or id is no text, a weight is no number, or there are not as many.
    """
    for adapter in adapters:
        if not isinstance(adapter, str | os.PathLike):
            raise ValueError(f"An adapter is a folder or a Hub id, got {shown(adapter)}.")
    if weights is None:
        return [1.0] * len(adapters)
    if not isinstance(weights, Sequence) or isinstance(weights, str):
        raise ValueError(f"`weights` must be a list of numbers, one for each adapter, got {shown(weights)}.")
    if len(weights) != len(adapters):
        raise ValueError(f"Got {len(weights)} weights for {len(adapters)} adapters.")
    return [as_number("An adapter's weight", weight, "a number") for weight in weights]


def _file(adapter: str | os.PathLike, name: str) -> Path | None:
    folder = Path(adapter)
    path = folder / name if os.path.isdir(folder) else file_of_repository(str(adapter), name)
    return path if path is not None and path.is_file() else None
