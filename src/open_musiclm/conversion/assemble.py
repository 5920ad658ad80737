"""Makes one pipeline of the converted parts, reading their configs and headers but never all their weights at once."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import diffusers
from huggingface_hub import ModelCard
from transformers import AutoConfig, EncodecModel

from ..hub.model_card import model_card, parts_of_folder
from ..hub.pipelines import LIBRARY, write_loader_files
from ..hub.publishing import CARD_FILE, upload
from ..pipelines.musiclm import MusicLMPipeline
from ..tokenizers.compatibility import check_components
from ..tokenizers.quantizers import ClapQuantizer, SemanticQuantizer
from .output_folder import CONVERSION_MARKER

_OWN = ("clap_quantizer", "semantic_model", "coarse_model", "fine_model", "semantic_quantizer")


def finish_pipeline(folder: Path) -> None:
    """Writes `model_index.json` and the loader files over a folder of converted components.

    Raises:
        ValueError: The components do not belong together (sizes, frame rates, codebooks).
    """
    required, optional = MusicLMPipeline._get_signature_keys(MusicLMPipeline)
    names = [name for name in (*required, *optional) if (folder / name).is_dir()]
    check_components({name: _described(folder / name) for name in names if name != "clap_processor"})
    index: dict[str, object] = {"_diffusers_version": diffusers.__version__}
    for name in (*required, *optional):
        index[name] = (
            [LIBRARY if name in _OWN else "transformers", _class_name(folder / name)]
            if name in names
            else [None, None]
        )
    (folder / MusicLMPipeline.config_name).write_text(json.dumps(index), encoding="utf-8")
    write_loader_files(folder, [name for name in _OWN if name in names])


def describe_folder(folder: Path, title: str) -> ModelCard:
    """Writes the model card of what is in the folder, and returns it."""
    card = model_card(parts_of_folder(folder), title)
    card.save(folder / CARD_FILE)
    return card


def upload_folder(folder: Path, repo_id: str, private: bool) -> str:
    """Uploads the folder with a card for that repository; returns its address."""
    commit = upload(
        folder,
        repo_id,
        lambda repo: describe_folder(folder, repo),
        private=private or None,
        ignore_patterns=(CONVERSION_MARKER,),
    )
    return commit.commit_url


def _described(component: Path):
    """What the check needs of a component: its config, and for codebooks themselves the (small) model."""
    config = AutoConfig.from_pretrained(component, trust_remote_code=False)
    for model_class in (ClapQuantizer, SemanticQuantizer, EncodecModel):
        if type(config) is model_class.config_class:
            return model_class.from_pretrained(component)
    return SimpleNamespace(config=config)


def _class_name(component: Path) -> str:
    config_file = component / "config.json"
    if not config_file.is_file():
        return "ClapProcessor"
    return json.loads(config_file.read_text(encoding="utf-8"))["architectures"][0]
