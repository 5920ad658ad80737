"""Finds the parts of an Open-MusicLM model in a folder as people have them, by the original's file names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..hub.files import read_json
from .checkpoint_error import CheckpointError
from .original_config import SECTIONS

# Component here → what its file is called. A group of digits is the training step.
FILE_NAMES = {
    "semantic_model": re.compile(r"semantic\.transformer\.(\d+)\.pt"),
    "coarse_model": re.compile(r"coarse\.transformer\.(\d+)\.pt"),
    "fine_model": re.compile(r"fine\.transformer\.(\d+)\.pt"),
    "clap_quantizer": re.compile(r"clap\.rvq\.(\d+).*\.pt"),
    "semantic_quantizer": re.compile(r"kmeans.*\.joblib()"),
}
# Component here → what the user would look for.
_LOOKED_FOR = {
    "semantic_model": "semantic.transformer.N.pt",
    "coarse_model": "coarse.transformer.N.pt",
    "fine_model": "fine.transformer.N.pt",
    "clap_quantizer": "clap.rvq.N*.pt",
    "semantic_quantizer": "kmeans*.joblib",
}


@dataclass
class CheckpointFiles:
    """The files of one model."""

    config: Path
    components: dict[str, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[str]:
        """What is not there, in words."""
        return [f"{name} ({_LOOKED_FOR[name]})" for name in FILE_NAMES if name not in self.components]


def find_checkpoint_files(
    folder: Path | None, config: Path | None = None, given: dict[str, Path | None] | None = None
) -> CheckpointFiles:
    """The parts in `folder`, those `given` by name taking precedence.

    Raises:
        CheckpointError: There is nothing to convert, no model config, or a choice that is the user's to make.
    """
    if folder is not None and not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    names = sorted(path.name for path in folder.iterdir() if path.is_file()) if folder else []
    found = CheckpointFiles(config=Path())
    for component, pattern in FILE_NAMES.items():
        explicit = (given or {}).get(component)
        if explicit is not None:
            found.components[component] = explicit
        elif folder is not None and (matches := [match for name in names if (match := pattern.fullmatch(name))]):
            found.components[component] = folder / _newest(matches, component, found.notes.append)
    if not found.components:
        looked_for = ", ".join(_LOOKED_FOR.values())
        raise CheckpointError(f"{folder or 'no --checkpoint-dir'}: nothing to convert; looked for {looked_for}")
    found.config = config if config is not None else _model_config(folder, names)
    return found


def _newest(matches: list[re.Match], component: str, note: Callable[[str], None]) -> str:
    """The file of the highest step; says so when there was a choice."""
    steps = {match.group(0): int(match.group(1) or 0) for match in matches}
    highest = max(steps.values())
    newest = [name for name, step in steps.items() if step == highest]
    if len(newest) > 1:
        option = (
            component.removesuffix("_model")
            .replace("clap_quantizer", "clap-rvq")
            .replace("semantic_quantizer", "kmeans")
        )
        raise CheckpointError(f"several files could be the {component}: {', '.join(newest)}; name one with --{option}")
    others = [name for name in steps if name != newest[0]]
    if others:
        note(f"{component}: took {newest[0]}, the highest step (also there: {', '.join(others)})")
    return newest[0]


def _model_config(folder: Path | None, names: list[str]) -> Path:
    """The one JSON file of the folder that is a model config (a training config is not)."""
    if folder is None:
        raise CheckpointError("a model config is needed: --config musiclm_large_small_context.json, for example")
    configs = [folder / name for name in names if name.endswith(".json") and _is_model_config(folder / name)]
    if not configs:
        raise CheckpointError(
            f"{folder}: no model config JSON in it; give the one the model was trained with: "
            "--config musiclm_large_small_context.json, for example"
        )
    if len(configs) > 1:
        raise CheckpointError(
            f"several model configs: {', '.join(path.name for path in configs)}; name one with --config"
        )
    return configs[0]


def _is_model_config(path: Path) -> bool:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and bool(content.keys() & SECTIONS.keys())
