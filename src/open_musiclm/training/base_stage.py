"""The stage that a run starts from: a fresh one, one of a pipeline, or one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel

from ..data.networks import pipeline_folder, stage_configs
from ..data.records import TokenRecord
from ..hub.reading import file_of_repository, read_pretrained, told
from ..models.chain import find_stage
from ..models.configuration import MusicLMStageConfig
from ..models.stage_kinds import STAGE_KINDS
from ..models.stages import MusicLMStageModel
from ..models.streams import TokenStream
from .added_streams import with_streams
from .checks import streams_for_stage


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a seed inside, and leave the global random state as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def fresh_stage(
    stage: str,
    record: TokenRecord,
    preset: str = "small",
    seed: int = 0,
    attributes: Sequence[TokenStream] = (),
    pattern: str | None = None,
    **overrides: Any,
) -> MusicLMStageModel:
    """A stage with random weights for these tokens; it records their codebooks' fingerprints.

    Args:
        stage: a kind of `STAGE_KINDS`; `streams=[…]` among the overrides gives it others.
        attributes: streams that it is conditioned on beside its own.
        pattern: of the predicted stream, by default its own.
    """
    config_class = STAGE_KINDS[stage].config_class
    with explained(config_class, overrides):
        config, _ = with_streams(config_class.from_preset(preset, **overrides), attributes)
        if pattern is not None:
            config.streams = [*(config.streams or [])[:-1], {**(config.streams or [])[-1], "pattern": pattern}]
        config = config_class.from_preset(preset, **{**overrides, "streams": streams_for_stage(record, config)})
    with seeded(seed):
        return AutoModel.from_config(config)


def stage_component(pipeline: Path, stage: str) -> str:
    """The component of a saved pipeline that a stage's name means: see [`find_stage`]."""
    return find_stage(stage_configs(pipeline), stage)


@contextmanager
def explained(config_class: Any, settings: dict[str, Any]) -> Iterator[None]:
    """What is wrong with settings of a stage's config, as a `ValueError`."""
    unknown = sorted(set(settings) - {field.name for field in fields(config_class)})
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no such settings of the config of a stage.")
    try:
        yield
    except (TypeError, StrictDataclassError) as error:
        raise ValueError(f"Settings of the stage's config that do not work, {settings}: {error}") from error


def load_base(
    stage: str, base: str | os.PathLike, revision: str | None = None, **overrides: Any
) -> tuple[MusicLMStageModel, Path | None]:
    """A stage from a pipeline or alone, by folder or Hub id, and the pipeline's folder if it is one.

    Raises:
        ValueError: there is no such thing, or it is another stage.
    """
    folder = Path(base)
    is_pipeline = (folder / "model_index.json").is_file()
    if not folder.is_dir():
        if folder.exists() or str(base).count("/") != 1 or str(base).startswith((".", "/", "~")):
            raise ValueError(f"There is no pipeline or stage {str(base)!r}: neither a folder nor a Hub id.")
        is_pipeline = file_of_repository(str(base), "model_index.json", revision) is not None
    if is_pipeline:
        folder = pipeline_folder(base, revision, stages=True)
        check_links(folder, folder)  # its parts will be copied: refused now rather than when the training is done
        base, revision = folder / stage_component(folder, stage), None
    return _load(stage, base, revision, overrides, alone=not is_pipeline), folder if is_pipeline else None


def _load(
    stage: str, where: str | os.PathLike, revision: str | None, overrides: dict[str, Any], alone: bool
) -> MusicLMStageModel:
    try:
        with told(where):
            config = AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(where)!r} holds no stage: {str(error).splitlines()[0]}") from error
    kind = STAGE_KINDS.get(stage)
    if not isinstance(config, MusicLMStageConfig) or (
        alone and config.predicted_stream.name != stage and (kind is None or type(config) is not kind.config_class)
    ):
        raise ValueError(f"{str(where)!r} is a {config.model_type!r}, not the {stage} stage.")
    with explained(type(config), overrides):
        return read_pretrained(AutoModel, where, any_variant=True, revision=revision, dtype=torch.float32, **overrides)


def check_links(source: Path, part: Path) -> None:
    """Refuse links that point out of a pipeline; a snapshot of the Hub's cache has links to the files beside it."""
    home = source.resolve()
    if home.parent.name == "snapshots":
        home = home.parents[1]
    for path in (part, *part.rglob("*")):
        if path.is_symlink() and not (path.exists() and path.resolve().is_relative_to(home)):
            raise ValueError(
                f"{str(path)!r} is a link out of the pipeline {str(source)!r}, or to nothing; it is not followed."
            )
