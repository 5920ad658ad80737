"""The one table of stage classes: what a stage is called, its config and model, and where a pipeline keeps it."""

from __future__ import annotations

from dataclasses import dataclass

from .configuration import MusicLMCoarseConfig, MusicLMFineConfig, MusicLMSemanticConfig, MusicLMStageConfig


@dataclass(frozen=True)
class StageKind:
    """One kind of stage.

    Args:
        component: its slot in a pipeline.
        config_class: whose defaults it has; its model is the one that transformers' `AutoModel` makes of the config.
        published: one of MusicLM's three.
    """

    component: str
    config_class: type[MusicLMStageConfig]
    published: bool = True


STAGE_KINDS: dict[str, StageKind] = {
    "semantic": StageKind("semantic_model", MusicLMSemanticConfig),
    "coarse": StageKind("coarse_model", MusicLMCoarseConfig),
    "fine": StageKind("fine_model", MusicLMFineConfig),
    "acoustic": StageKind("acoustic_model", MusicLMStageConfig, published=False),
}
