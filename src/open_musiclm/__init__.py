"""Text to music in autoregressive stages (MusicLM, Agostinelli et al. 2023), on the Hugging Face stack.

What published pipelines refer to is this top level: the names below stay, wherever their classes live. Everything is
imported when it is asked for; transformers' Auto classes find the stages and quantizers (registration.py).
"""

from typing import TYPE_CHECKING

from .lazily import attributes_from
from .registration import register_configs
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
        "SpectralCodecConfig",
    ],
    "models.stages": [
        "MusicLMStageModel",
        "MusicLMStageOutput",
        "MusicLMSemanticModel",
        "MusicLMCoarseModel",
        "MusicLMFineModel",
        "PreTrainedModel",  # diffusers looks for it in the module that model_index.json names
    ],
    "models.spectral_codec": ["SpectralCodecModel"],
    "tokenizers.quantizers": ["ClapQuantizer", "SemanticQuantizer"],
    "tokenizers.fingerprints": ["codebook_fingerprint"],
    "tokenizers.codec": ["codec_fingerprint"],
    "pipelines.musiclm": ["MusicLMPipeline"],
    "audio": ["write_audio"],
    "hub.mini": ["mini_checkpoint"],
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = ["__version__", *(name for name in _MODULE_OF if name != "PreTrainedModel")]


register_configs()

if TYPE_CHECKING:  # what `__getattr__` gives, for type checkers
    from .audio import write_audio
    from .hub.mini import mini_checkpoint
    from .models.configuration import (
        ClapQuantizerConfig,
        MusicLMCoarseConfig,
        MusicLMFineConfig,
        MusicLMSemanticConfig,
        MusicLMStageConfig,
        SemanticQuantizerConfig,
        SpectralCodecConfig,
    )
    from .models.spectral_codec import SpectralCodecModel
    from .models.stages import (
        MusicLMCoarseModel,
        MusicLMFineModel,
        MusicLMSemanticModel,
        MusicLMStageModel,
        MusicLMStageOutput,
    )
    from .models.streams import TokenStream
    from .pipelines.musiclm import MusicLMPipeline
    from .tokenizers.codec import codec_fingerprint
    from .tokenizers.fingerprints import codebook_fingerprint
    from .tokenizers.quantizers import ClapQuantizer, SemanticQuantizer


__getattr__ = attributes_from(__name__, _MODULE_OF)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
