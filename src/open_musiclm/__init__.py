"""Text to music in three autoregressive stages (MusicLM, Agostinelli et al. 2023), on the Hugging Face stack.

What published pipelines refer to is this top level: the names below stay, wherever their classes live. Importing it
registers the stages and quantizers with transformers' Auto classes; everything else is imported when it is asked for.
"""

import importlib
from typing import Any

from .models import stages  # noqa: F401  (registers itself with AutoConfig and AutoModel)
from .tokenizers import quantizers  # noqa: F401  (registers itself with AutoConfig and AutoModel)
from .version import __version__

_EXPORTS = {
    "models.streams": ["TokenStream"],
    "models.configuration": [
        "MusicLMStageConfig",
        "MusicLMSemanticConfig",
        "MusicLMCoarseConfig",
        "MusicLMFineConfig",
        "ClapQuantizerConfig",
        "SemanticQuantizerConfig",
    ],
    "models.stages": [
        "MusicLMStageModel",
        "MusicLMStageOutput",
        "MusicLMSemanticModel",
        "MusicLMCoarseModel",
        "MusicLMFineModel",
        "PreTrainedModel",  # diffusers looks for it in the module that model_index.json names
    ],
    "tokenizers.quantizers": ["ClapQuantizer", "SemanticQuantizer"],
    "tokenizers.fingerprints": ["codebook_fingerprint", "codec_fingerprint"],
    "pipelines.musiclm": ["MusicLMPipeline"],
    "audio": ["write_audio"],
    "hub.mini": ["mini_checkpoint"],
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = ["__version__", *(name for name in _MODULE_OF if name != "PreTrainedModel")]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
