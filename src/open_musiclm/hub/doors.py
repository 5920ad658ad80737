"""What diffusers takes a pipeline's classes from: each reads itself through the door of `reading.py`.

diffusers imports a component's class from the library that `model_index.json` names and calls its `from_pretrained`. Here
every class of `components.py` has one that goes through the door and gives instances of the plain class.
"""

from __future__ import annotations

import functools
from typing import Any

import transformers
from transformers import (  # diffusers looks for these names beside a class, to know how it is loaded
    FeatureExtractionMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from .components import OWN_CLASSES, PROCESSORS
from .reading import read_pretrained, read_processor

__all__ = ["FeatureExtractionMixin", "PreTrainedModel", "PreTrainedTokenizerBase", "ProcessorMixin"]


def __getattr__(name: str) -> Any:
    """The class of this name, of this package or of transformers, with its door."""
    plain = OWN_CLASSES.get(name) or (None if name.startswith("_") else getattr(transformers, name, None))
    if not isinstance(plain, type) or not issubclass(plain, (PreTrainedModel, *PROCESSORS)):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _with_its_door(plain)  # type: ignore[arg-type]


@functools.cache
def _with_its_door(plain: type) -> type:
    def from_pretrained(_cls, name, **options):
        if issubclass(plain, PreTrainedModel):
            return read_pretrained(plain, name, any_variant=True, **options)
        return read_processor(plain, name, **options)

    return type(plain.__name__, (plain,), {"from_pretrained": classmethod(from_pretrained), "__module__": __name__})
