"""A pipeline from parts: the frozen networks of one, newly fitted codebooks, newly trained stages."""

from __future__ import annotations

import os
from pathlib import Path

from transformers import AutoModel

from ..data.networks import load_networks, pipeline_folder
from ..models.chain import find_stage
from ..models.stage_kinds import STAGE_KINDS
from .finish import place


def assemble_pipeline(
    base: str | os.PathLike,
    output: str | os.PathLike,
    codebooks: str | os.PathLike | None = None,
    **stages: str | os.PathLike | None,
) -> None:
    """Save a pipeline of parts that belong together.

    Args:
        base: the pipeline whose CLAP, encoder and codec are used, and whatever is not given.
        output: folder of the new one.
        codebooks: a folder made by `open-musiclm fit-codebooks`.
        stages: folders (or Hub ids) of stages, by a name of a stage of the base, or a kind of `STAGE_KINDS`.

    Raises:
        ValueError: the parts do not belong together (see `check_components`), a stage is neither the base's nor of a known
            kind, or the output is not empty.
    """
    from ..pipelines.musiclm import MusicLMPipeline

    output = Path(output)
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"{str(output)!r} is not empty; give another output.")
    networks, configs = load_networks(base, codebooks)
    folder = pipeline_folder(base, stages=True)
    where: dict[str, str | os.PathLike] = {name: folder / name for name in configs}
    for name, given in stages.items():
        if given is not None:
            kind = STAGE_KINDS.get(name)
            where[kind.component if kind is not None else find_stage(configs, name)] = given
    for name, place_of_stage in where.items():
        networks[name] = AutoModel.from_pretrained(place_of_stage)
    pipeline = MusicLMPipeline(**networks)
    output.parent.mkdir(parents=True, exist_ok=True)
    place(pipeline.save_pretrained, output)
