"""The classes of this package that a published pipeline may name, in the one module that diffusers takes them from.

`model_index.json` says `["open_musiclm", "MusicLMCoarseModel"]`; loading looks the class up here. So files of this
package can move, and what is published stays readable, as long as these names can be imported here.
"""

from transformers import PreTrainedModel  # diffusers looks for this name beside a component's class

from ..models.stages import MusicLMCoarseModel, MusicLMFineModel, MusicLMSemanticModel, MusicLMStageModel
from ..tokenizers.quantizers import ClapQuantizer, SemanticQuantizer

__all__ = [
    "ClapQuantizer",
    "MusicLMCoarseModel",
    "MusicLMFineModel",
    "MusicLMSemanticModel",
    "MusicLMStageModel",
    "PreTrainedModel",
    "SemanticQuantizer",
]
