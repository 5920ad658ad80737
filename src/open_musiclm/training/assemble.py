"""A pipeline from parts: the frozen networks of one, newly fitted codebooks, newly trained stages."""

from __future__ import annotations

import os
from pathlib import Path

from ..data.networks import STAGES, load_networks
from ..models.stages import MusicLMCoarseModel, MusicLMFineModel, MusicLMSemanticModel
from .finish import place

STAGE_MODELS = {
    "semantic_model": MusicLMSemanticModel,
    "coarse_model": MusicLMCoarseModel,
    "fine_model": MusicLMFineModel,
}


def assemble_pipeline(
    base: str | os.PathLike,
    output: str | os.PathLike,
    codebooks: str | os.PathLike | None = None,
    semantic: str | os.PathLike | None = None,
    coarse: str | os.PathLike | None = None,
    fine: str | os.PathLike | None = None,
) -> None:
    """Save a pipeline of parts that belong together.

    Args:
        base: the pipeline whose CLAP, encoder and codec are used, and whatever is not given.
        output: folder of the new one.
        codebooks: a folder made by `open-musiclm fit-codebooks`.
        semantic, coarse, fine: folders (or Hub ids) of stages.

    Raises:
        ValueError: the parts do not belong together (see `check_components`), or the output is not empty.
    """
    from ..pipelines.musiclm import MusicLMPipeline

    output = Path(output)
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"{str(output)!r} is not empty; give another output.")
    networks, _ = load_networks(base, codebooks)
    stages = dict(zip(STAGES, (semantic, coarse, fine), strict=True))
    for name, where in stages.items():
        model_class = STAGE_MODELS[name]
        networks[name] = model_class.from_pretrained(Path(base) / name if where is None else where)
    pipeline = MusicLMPipeline(**networks)
    output.parent.mkdir(parents=True, exist_ok=True)
    place(pipeline.save_pretrained, output)
