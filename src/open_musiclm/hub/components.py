"""The classes that a published pipeline may name, and the slots in which each belongs.

`model_index.json` says `["open_musiclm", "MusicLMCoarseModel"]` or `["transformers", "ClapModel"]`; loading looks the class
up here. So files of this package can move, and what is published stays readable, as long as these names are known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import FeatureExtractionMixin, PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from ..models.spectral_codec import SpectralCodecModel
from ..models.stages import MusicLMCoarseModel, MusicLMFineModel, MusicLMSemanticModel, MusicLMStageModel
from ..tokenizers.quantizers import ClapQuantizer, SemanticQuantizer
from .reading import read_pretrained, read_processor

LIBRARY = "open_musiclm"
# This package's classes that a `model_index.json` may name.
OWN_CLASSES: dict[str, type] = {
    each.__name__: each
    for each in (
        ClapQuantizer,
        MusicLMCoarseModel,
        MusicLMFineModel,
        MusicLMSemanticModel,
        MusicLMStageModel,
        SemanticQuantizer,
        SpectralCodecModel,
    )
}
PROCESSORS = (ProcessorMixin, FeatureExtractionMixin, PreTrainedTokenizerBase)
# What a slot takes, by its name or how it ends; the first that fits. Other slots take any model.
_SLOTS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("clap", (transformers.ClapModel,)),
    ("clap_processor", (transformers.ClapProcessor,)),
    ("clap_quantizer", (ClapQuantizer,)),
    ("semantic_quantizer", (SemanticQuantizer,)),
    ("*_processor", PROCESSORS),
    ("*_model", (MusicLMStageModel,)),
)


def class_for_slot(slot: str, library: str, class_name: str) -> Any:
    """The class that `[library, class_name]` means in a slot of a pipeline.

    Raises:
        ValueError: It is no class of transformers or of this package, or not one that belongs there.
    """
    said = f"model_index.json names {library}'s {class_name} as `{slot}`"
    found = OWN_CLASSES.get(class_name) if library == LIBRARY else None
    if library == "transformers" and not class_name.startswith("_"):
        found = getattr(transformers, class_name, None)
    if not isinstance(found, type) or not issubclass(found, (PreTrainedModel, *PROCESSORS)):
        raise ValueError(
            f"{said}: there is no such class of models in transformers or in this package, and no other is loaded."
        )
    wanted = next(
        (classes for name, classes in _SLOTS if slot == name or (name[0] == "*" and slot.endswith(name[1:]))),
        (PreTrainedModel,),
    )
    if not issubclass(found, wanted):
        raise ValueError(f"{said}, where {' or '.join(each.__name__ for each in wanted)} belongs.")
    return found


def read_component(folder: Path, index: Mapping[str, Any], slot: str) -> Any:
    """A part of a pipeline's folder, or None where `index` (its `model_index.json`) names none.

    Raises:
        ValueError: The index names no class that belongs there, or the part is not whole.
    """
    named = named_class(index, slot)
    if named is None:
        return None
    read = read_pretrained if issubclass(named, PreTrainedModel) else read_processor
    return read(named, folder / slot, **({"any_variant": True} if read is read_pretrained else {}))


def named_class(index: Mapping[str, Any], slot: str) -> Any:
    """The class that a `model_index.json` names for a slot, None if it names none.

    Raises:
        ValueError: What it names is no class of models, or belongs elsewhere.
    """
    value = index.get(slot)
    if value is None or (isinstance(value, list | tuple) and not any(value)):
        return None
    if not isinstance(value, list | tuple) or [type(part) for part in value] != [str, str]:
        raise ValueError(f"model_index.json: `{slot}` is not [library, class], as a component is named.")
    return class_for_slot(slot, *value)
