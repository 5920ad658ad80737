"""The published sizes with random weights, and a pipeline of them that needs no text."""

from __future__ import annotations

import importlib.util
import sys
import types

import torch
from transformers import EncodecConfig, EncodecModel

from open_musiclm import (
    MusicLMCoarseConfig,
    MusicLMCoarseModel,
    MusicLMFineConfig,
    MusicLMFineModel,
    MusicLMSemanticConfig,
    MusicLMSemanticModel,
)

STAGES = {
    "semantic": (MusicLMSemanticConfig, MusicLMSemanticModel),
    "coarse": (MusicLMCoarseConfig, MusicLMCoarseModel),
    "fine": (MusicLMFineConfig, MusicLMFineModel),
}


def random_stage(stage: str, size: str, dtype: torch.dtype, device: torch.device, seed: int = 0):
    """A stage of a published size (`"small"`, `"large"`) with random weights."""
    config_class, model_class = STAGES[stage]
    torch.manual_seed(seed)
    return model_class(config_class.from_preset(size)).eval().to(device, dtype)


def random_codec(device: torch.device) -> EncodecModel:
    """EnCodec at 24 kHz as published, with random weights."""
    torch.manual_seed(0)
    codec = EncodecModel(EncodecConfig()).eval()
    with torch.no_grad():
        for layer in codec.quantizer.layers:
            layer.codebook.embed.normal_()
    return codec.to(device)


def pipeline(size: str, dtype: torch.dtype, device: torch.device, stages: dict | None = None):
    """A `MusicLMPipeline` of random weights without CLAP: prompts are replaced by fixed CLAP tokens."""
    if importlib.util.find_spec("diffusers") is None:
        _stand_in_for_diffusers()
    from open_musiclm.pipelines.musiclm import MusicLMPipeline

    class WithoutText(MusicLMPipeline):
        def __init__(self, semantic_model, coarse_model, fine_model, codec):
            self.parts = (semantic_model, coarse_model, fine_model, codec)
            self.semantic_model, self.coarse_model, self.fine_model, self.codec = self.parts

        @property
        def components(self):
            names = ("semantic_model", "coarse_model", "fine_model", "codec")
            return dict(zip(names, self.parts, strict=True))

        def encode_prompt(self, prompt):
            generator = torch.Generator().manual_seed(0)
            return torch.randint(1024, (1, 12), generator=generator).expand(len(prompt), -1).to(device)

    stages = stages or {name: random_stage(name, size, dtype, device) for name in STAGES}
    return WithoutText(stages["semantic"], stages["coarse"], stages["fine"], random_codec(device))


def _stand_in_for_diffusers() -> None:
    """On a machine without diffusers: just what importing open_musiclm.pipelines.musiclm touches."""
    diffusers = types.ModuleType("diffusers")
    diffusers.DiffusionPipeline = type("DiffusionPipeline", (), {})
    diffusers.AudioPipelineOutput = dict
    pipelines = types.ModuleType("diffusers.pipelines")
    pipelines.pipeline_loading_utils = types.SimpleNamespace(LOADABLE_CLASSES={})
    sys.modules.update({"diffusers": diffusers, "diffusers.pipelines": pipelines})


def weight_bytes(model, batch_size: int = 1) -> int:
    """Bytes that a decoding step has to read once: the layers' weights, one codebook's head, a row of embeddings."""
    config, stream = model.config, model.predicted_stream
    size = model.dtype.itemsize
    layers = sum(p.numel() for p in model.decoder.layers.parameters())
    head = (stream.codebook_size + 1) * config.hidden_size
    return (layers + head + (batch_size + 1) * config.hidden_size) * size


def cache_bytes(model, num_keys: int, batch_size: int) -> int:
    """Bytes of keys and values that a decoding step has to read: those of every row before."""
    config = model.config
    return 2 * config.num_hidden_layers * config.head_dim * num_keys * batch_size * model.dtype.itemsize
