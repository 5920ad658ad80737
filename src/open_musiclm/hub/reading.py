"""The one door by which models are read from folders and repositories: stages, quantizers, CLAP, codecs, encoders.

A model comes through whole or not at all. Before a weight is loaded, the files are looked at: are they what their names
say, do the weights have the shapes that the config asks for, is the config of a size that the weights bear out? Then
transformers loads, and what it says is held against the rule: nothing missing, nothing left over, nothing of another
shape, every value finite. What is refused is refused by name, in one line. No code of a repository is ever run.

Our own classes come through it by themselves ([`ReadWhole`]), those of transformers by [`read_pretrained`], and a
pipeline's by the classes that `hub/doors.py` gives diffusers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .files import StoredTensor, check_torch_file, read_header, read_json, read_json_table, total_elements

# How the format names the dtypes that weights may have.
_FLOATS = ("F64", "F32", "F16", "BF16")
# Where a size is absurd whatever the weights are. A layer has at least one tensor, and a size at least one number of it.
_FREE_LAYERS, _FREE_SIZE, _MAX_LIST = 64, 1_000_000, 4096
# Up to here, or to the largest length among the weights, sizes are not looked at closer.
_PLAUSIBLE_SIZE = 1024
_PLAIN_SIZE = re.compile(r"(_size|_dim|_layers|_heads)$")
_LAYER_COUNT = re.compile(r"(layers|depths?|blocks)$")
_SIZE = re.compile(r"(size|dim|num|filters|heads|codebooks|quantizers|positions?|embeddings|buckets|width|hidden)")
# State that only training uses: some published encoders are saved without it, and running means of codebooks that were
# never used are no numbers.
TRAINING_ONLY = re.compile(r"(^|\.)(masked_spec_embed|embed_avg|cluster_size)$")
# Vocabularies, which have a reader of their own.
_OF_TOKENIZERS = ("tokenizer.json", "vocab.json")
_LISTED = 8


class ReadWhole:
    """Mixin of this package's models: `from_pretrained` refuses, by name, weights that are not wholly those of the config."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **options):
        load = super().from_pretrained  # type: ignore[misc]
        return _read(load, cls, pretrained_model_name_or_path, args, options, whole=True)


def read_pretrained(
    model_class: Any, name: str | os.PathLike, *, whole: bool = True, any_variant: bool = False, **options: Any
):
    """A model of transformers, or of this package.

    Args:
        model_class: The class, or `AutoModel`.
        name: A folder or Hub id.
        whole: Refuse weights that the model has no place for. A published encoder may carry the head of another task.
        any_variant: Where a folder has no plain weights but those of one variant (`model.fp16.safetensors`), read those.
        options: For `from_pretrained`.

    Raises:
        ValueError: The weights are damaged, not those of the config, not finite, or not floating-point.
        OSError: There is no such folder, repository or file.
    """
    if any_variant and options.get("variant") is None:
        options["variant"] = _only_variant(Path(name) / (options.get("subfolder") or ""))
    if issubclass(model_class, ReadWhole) if isinstance(model_class, type) else False:
        return model_class.from_pretrained(name, **options)
    return _read(model_class.from_pretrained, model_class, name, (), options, whole)


def read_processor(processor_class: Any, name: str | os.PathLike, **options: Any):
    """A processor, tokenizer or feature extractor of transformers.

    Raises:
        ValueError: Its files are damaged, or ask for code of a repository.
        OSError: There is no such folder or repository.
    """
    folder = Path(name) / (options.get("subfolder") or "")
    if os.path.isdir(folder):
        for path in sorted(folder.glob("*.json")):
            if path.name not in _OF_TOKENIZERS:
                _refuse_foreign_parts(read_json_table(path), path)
    with told(name):
        return processor_class.from_pretrained(name, **(options | {"trust_remote_code": False}))


def refuse_code(folder: Path) -> None:
    """Refuses a folder of parts of which one asks for code of a repository.

    A loader that is not told to trust none (diffusers tells its parts nothing) would ask the user, and run it.
    """
    for path in sorted(folder.glob("*/*.json")):
        if (
            path.name not in _OF_TOKENIZERS
            and "auto_map" in (content := read_json(path))
            and isinstance(content, dict)
        ):
            raise ValueError(f"{path} asks for code of a repository (`auto_map`), which is never run.")


@contextmanager
def told(name: object) -> Iterator[None]:
    """Whatever readers of files raise on damaged ones, as a `ValueError` of one line; errors of the system stay."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, OSError):
        raise
    except RecursionError:
        raise ValueError(f"{name} cannot be read: its configuration is nested too deeply.") from None
    except ValueError as error:
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{name} asks for code of its own repository, which is never run: only classes of transformers and of "
                "this package are loaded."
            ) from error
        if "\n" in str(error):
            raise ValueError(f"{name} cannot be read: {' '.join(str(error).split())[:600]}") from error
        raise
    except ImportError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{name} cannot be read: {type(error).__name__}: {said[:400]}") from error


def _read(load: Callable, model_class: Any, name: Any, args: tuple, options: dict[str, Any], whole: bool):
    wants_info = options.pop("output_loading_info", False)
    options["trust_remote_code"] = False
    _refuse_kernel(options.get("attn_implementation"), "attn_implementation")
    header: dict[str, StoredTensor] = {}
    if name is not None and options.get("gguf_file") is None:
        with told(name):
            header = _look_at(model_class, name, options)
    # shapes are compared here, by name, rather than by transformers, in a table
    shapes_may_differ = options.pop("ignore_mismatched_sizes", False)
    with told(name):
        model, info = load(name, *args, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    quantized = getattr(model.config, "quantization_config", None) is not None
    if shapes_may_differ:
        info = info | {"mismatched_keys": set()}
    _refuse_parts(name, info, whole, quantized)
    if not quantized:
        _refuse_values(name, model, header)
    return (model, info) if wants_info else model


# ------------------------------------------------------------------- before loading


def _look_at(model_class: Any, name: Any, options: dict[str, Any]) -> dict[str, StoredTensor]:
    """Checks config and weights of a folder or repository; returns the weights' header (empty if there is none to read)."""
    config_path = _file(name, "config.json", options)
    settings: dict[str, Any] = {}
    if config_path is not None:
        settings = read_json_table(config_path)
        _refuse_foreign_parts(settings, config_path)
    header: dict[str, StoredTensor] = {}
    for path in _weight_files(name, options):
        header |= read_header(path)
    if settings and header and "config" not in options and options.get("state_dict") is None:
        _refuse_another_type(model_class, settings, name)
        largest = max((length for tensor in header.values() for length in tensor.shape), default=0)
        if _refuse_absurd(settings, header, config_path) > max(_PLAUSIBLE_SIZE, largest):
            _refuse_another_size(model_class, Path(config_path).parent, header, name)  # type: ignore[arg-type]
    return header


def _weight_files(name: Any, options: dict[str, Any]) -> list[Path]:
    """The safetensors files that transformers would load, checked to be plain files of the same folder.

    Weights that PyTorch saved are checked for their format here, and have no header.
    """
    variant = options.get("variant")
    suffix = f".{variant}" if variant else ""
    if options.get("use_safetensors") is not False:
        single = _file(name, f"model{suffix}.safetensors", options)
        if single is not None:
            return [single]
        index = _file(name, f"model.safetensors.index{suffix}.json", options)
        if index is not None:
            return [_file(name, part, options) or index.with_name(part) for part in _parts(index)]
    pickled = _file(name, f"pytorch_model{suffix}.bin", options)
    if pickled is not None:
        check_torch_file(pickled)
    index = _file(name, f"pytorch_model.bin.index{suffix}.json", options)
    for part in _parts(index) if index is not None else []:
        path = _file(name, part, options)
        if path is not None:
            check_torch_file(path)
    return []


def _parts(index: Path) -> list[str]:
    table = read_json_table(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise ValueError(f"{index} has no `weight_map`, which says where each tensor is.")
    parts = sorted({str(part) for part in table.values()})
    for part in parts:
        if Path(part).name != part or "\\" in part:
            raise ValueError(f"{index} points out of its folder, to {part[:80]!r}.")
    return parts


def _file(name: Any, filename: str, options: Mapping[str, Any]) -> Path | None:
    """Where a file of a folder or repository lies, downloaded if it must be; None if there is no such file."""
    from transformers.utils import cached_file

    if os.path.isdir(name):
        path = Path(name) / (options.get("subfolder") or "") / filename
        return path if path.is_file() else None
    passed = ("cache_dir", "force_download", "proxies", "token", "revision", "local_files_only", "subfolder")
    found = cached_file(
        str(name),
        filename,
        **{key: options[key] for key in passed if options.get(key) is not None},
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


def file_of_repository(repo_id: str, filename: str, revision: str | None = None) -> Path | None:
    """A file of a repository of the Hub, from the cache where there is no network; None if there is no such file.

    Raises:
        OSError: There is no such repository, or neither it nor the network can be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(repo_id, filename, revision=revision))
    except EntryNotFoundError:  # a repository in the cache, without the file and without network, included
        return None


def _only_variant(folder: Path) -> str | None:
    """The variant of the only weights in a folder that has no plain ones."""
    if not folder.is_dir() or any(folder.glob("model.safetensors*")) or any(folder.glob("model-*.safetensors")):
        return None
    found = {path.name.split(".")[1] for path in folder.glob("model.*.safetensors")}
    return found.pop() if len(found) == 1 else None


def _refuse_foreign_parts(settings: Mapping[str, Any], path: Path) -> None:
    """A config that would fetch a network or a kernel from somewhere else."""
    for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
        _refuse_kernel(settings.get(key), f"{path}: {key}")
    if settings.get("transformers_weights") is not None:
        raise ValueError(f"{path} names a file of weights of its own (`transformers_weights`), which is not read.")
    if settings.get("audio_tokenizer") is not None:
        raise ValueError(f"{path} names another network to load (`audio_tokenizer`); a part brings its own files.")
    for value in settings.values():
        if isinstance(value, dict):
            _refuse_foreign_parts(value, path)


def _refuse_kernel(value: Any, where: str) -> None:
    """`attn_implementation="someone/kernel"` makes transformers fetch and run that repository's code."""
    for name in value.values() if isinstance(value, dict) else [value]:
        if isinstance(name, str) and re.search(r"[/:@|]", name):
            raise ValueError(
                f"{where} is {name[:80]!r}, a repository whose code would be run; 'sdpa', 'eager' and "
                "'flash_attention_2' are known here."
            )


def _refuse_absurd(settings: Any, header: Mapping[str, StoredTensor], path: Any, key: str = "") -> float:
    """Refuses sizes that no model with these weights can have, before a model of them is made; returns the largest size."""
    if isinstance(settings, dict):
        return max((_refuse_absurd(value, header, path, str(name)) for name, value in settings.items()), default=0)
    if isinstance(settings, list):
        if len(settings) > _MAX_LIST:
            raise ValueError(f"{path}: {key[:80]} has {len(settings):,} entries, which no model has.")
        return max((_refuse_absurd(value, header, path, key) for value in settings), default=0)
    if isinstance(settings, str) and _PLAIN_SIZE.search(key):
        raise ValueError(f"{path}: {key[:80]} is {settings[:80]!r}, not a number.")
    if not isinstance(settings, int | float) or isinstance(settings, bool):
        return 0
    if _LAYER_COUNT.search(key):
        limit = max(_FREE_LAYERS, len(header))
    elif _SIZE.search(key):
        limit = max(_FREE_SIZE, total_elements(header))
    else:
        return 0
    if not settings <= limit:
        raise ValueError(
            f"{path}: {key[:80]} is {settings:g}, which the weights beside it do not bear out: they hold "
            f"{len(header):,} tensors of {total_elements(header):,} numbers."
        )
    return settings


def _refuse_another_type(model_class: Any, settings: Mapping[str, Any], name: object) -> None:
    """A config of another kind of model than the class that is to read it."""
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    wanted, said = getattr(model_class, "config_class", None), settings.get("model_type")
    if isinstance(wanted, type) and issubclass(wanted, PreTrainedConfig) and said is not None:
        found = CONFIG_MAPPING[said] if isinstance(said, str) and said in CONFIG_MAPPING else None
        if said != wanted.model_type and (found is None or not issubclass(found, wanted)):
            raise ValueError(f"{name} holds a model of the type {str(said)[:80]!r}, no {model_class.__name__}.")


def _refuse_another_size(model_class: Any, folder: Path, header: Mapping[str, StoredTensor], name: object) -> None:
    """Makes the model of a config with surprising sizes, without its weights, and counts."""
    from transformers import AutoConfig, PreTrainedModel
    from transformers import initialization as init

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"), init.no_init_weights(), init.meta_device_safe_creation_ops():
        if isinstance(model_class, type) and issubclass(model_class, PreTrainedModel):
            model = model_class(config)
        else:
            model = model_class.from_config(config, trust_remote_code=False)
    count, held = sum(tensor.numel() for tensor in model.state_dict().values()), total_elements(header)
    if count > 2 * held + _FREE_SIZE:
        raise ValueError(f"{name}: its config describes {count:,} numbers, and its weights hold {held:,}.")


# -------------------------------------------------------------------- after loading


def _refuse_parts(name: object, info: Mapping[str, Any], whole: bool, quantized: bool) -> None:
    missing = sorted(info["missing_keys"])
    if not whole:
        missing = [key for key in missing if not TRAINING_ONLY.search(key)]
    if missing and not quantized:
        raise ValueError(
            f"{name} is not whole: its weights lack {_listed(missing)}, which would have been drawn at random."
        )
    mismatched = sorted(info["mismatched_keys"])
    if mismatched:
        key, found, needed = mismatched[0]
        raise ValueError(f"{name}: {key!r} has shape {tuple(found)} in the weights; its config needs {tuple(needed)}.")
    unexpected = sorted(info["unexpected_keys"])
    if unexpected and whole and not quantized:
        raise ValueError(f"{name}: its weights hold {_listed(unexpected)}, for which its config has no place.")
    if info.get("error_msgs"):
        raise ValueError(f"{name} cannot be read: {' '.join(str(info['error_msgs'][0]).split())[:300]}")


def _refuse_values(name: object, model: Any, header: Mapping[str, StoredTensor]) -> None:
    """Weights that are not floating-point as stored, or hold what is no number."""
    tensors = {
        key: tensor
        for key, tensor in model.state_dict().items()
        if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and not tensor.is_meta
    }
    for key in tensors:
        stored = header.get(key)
        if stored is not None and stored.dtype not in _FLOATS:
            raise ValueError(f"{name}: {key!r} is stored as {stored.dtype}; weights are floating-point numbers.")
    for key, tensor in tensors.items():
        if not all_finite(tensor) and not TRAINING_ONLY.search(key):
            raise ValueError(
                f"{name}: {key!r} holds values that are not finite (NaN or infinity); the weights are damaged."
            )


def all_finite(tensor: torch.Tensor) -> bool:
    """Whether every value is a finite number, by one sum where that tells."""
    total = tensor.detach().sum(dtype=None if tensor.dtype == torch.float64 else torch.float32)
    return bool(torch.isfinite(total)) or bool(torch.isfinite(tensor).all())


def _listed(names: list[str]) -> str:
    """`'a', 'b' and 3 more`."""
    shown = ", ".join(repr(name[:120]) for name in names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more"
