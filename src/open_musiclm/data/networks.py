"""Loading a pipeline's frozen networks without its stages."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from ..hub.files import read_json_table
from ..hub.reading import told
from ..models.chain import stages_among
from ..models.stage_kinds import STAGE_KINDS

NETWORKS = ("clap", "clap_processor", "clap_quantizer", "semantic_encoder", "semantic_quantizer", "codec")


def published_stages() -> dict[str, Any]:
    """Configs of the stages as published, for a pipeline that has none yet, in the order in which they can run."""
    return stages_among({kind.component: kind.config_class() for kind in STAGE_KINDS.values() if kind.published})


def stage_configs(folder: Path) -> dict[str, Any]:
    """Configs of a saved pipeline's stages, by component name, in the order in which they can run."""
    from transformers import AutoConfig

    index = read_json_table(folder / "model_index.json")
    names = [
        name
        for name, value in index.items()
        if isinstance(value, list) and value[:1] == ["open_musiclm"] and (folder / name / "config.json").is_file()
    ]
    with told(folder):
        return stages_among(
            {name: AutoConfig.from_pretrained(folder / name, trust_remote_code=False) for name in names}
        )


def pipeline_folder(pipeline: str | os.PathLike, revision: str | None = None, stages: bool = False) -> Path:
    """A pipeline's folder: the given one, or a snapshot of a Hub id (by default without its stages' weights)."""
    folder = Path(pipeline)
    if not folder.is_dir():
        if folder.exists() or str(pipeline).count("/") != 1 or str(pipeline).startswith((".", "/", "~")):
            raise ValueError(f"There is no pipeline {str(pipeline)!r}: neither a folder nor a Hub id.")
        from huggingface_hub import snapshot_download

        ignored = None if stages else ["*_model/*.safetensors"]
        folder = Path(snapshot_download(str(pipeline), revision=revision, ignore_patterns=ignored))
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"{str(pipeline)!r} is no pipeline: it holds no model_index.json.")
    return folder


def load_networks(
    pipeline: str | os.PathLike,
    codebooks: str | os.PathLike | None = None,
    device: str = "cpu",
    revision: str | None = None,
    only: tuple[str, ...] = NETWORKS,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The components that make tokens, on the device, and the stages' configs, both by component name.

    Args:
        codebooks: a folder with `clap_quantizer` and `semantic_quantizer`, used in place of the pipeline's.
        only: load these; the others are `None`.
    """
    from ..hub.components import read_component
    from ..hub.reading import read_pretrained
    from ..tokenizers import quantizers

    folder = pipeline_folder(pipeline, revision)
    index = read_json_table(folder / "model_index.json")

    def component(name: str) -> Any:
        return read_component(folder, index, name) if name in only else None

    networks = {name: component(name) for name in ("clap", "clap_processor", "semantic_encoder", "codec")}
    for name, quantizer_class in (
        ("clap_quantizer", quantizers.ClapQuantizer),
        ("semantic_quantizer", quantizers.SemanticQuantizer),
    ):
        fitted = None if codebooks is None else Path(codebooks) / name
        if fitted is not None and fitted.is_dir():
            networks[name] = read_pretrained(quantizer_class, fitted, any_variant=True)
        else:
            networks[name] = component(name)
    if codebooks is not None and not any(
        (Path(codebooks) / f"{kind}_quantizer").is_dir() for kind in ("clap", "semantic")
    ):
        raise ValueError(
            f"{str(codebooks)!r} holds neither `clap_quantizer` nor `semantic_quantizer`; give a folder that "
            "`open-musiclm fit-codebooks` made."
        )
    for network in networks.values():
        if isinstance(network, torch.nn.Module):
            network.to(device).eval().requires_grad_(False)
    return networks, stage_configs(folder)


def network_fingerprint(network: torch.nn.Module) -> str:
    """Hash of a network's weights: `"sha256:"` and 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        values = tensor.detach().to("cpu").contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"
