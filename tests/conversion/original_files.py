"""Writes checkpoints in the original's file formats, with random weights of any size the original's config allows."""

import json
from pathlib import Path

import joblib
import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans

from open_musiclm.conversion.name_table import meta_shapes
from open_musiclm.conversion.original_config import STAGES, read_original_config, stage_config
from open_musiclm.conversion.stage_names import stage_rows

SIZES = {"dim": 32, "depth": 2, "heads": 2, "relative_position_bias_type": "continuous"}
# Fits the tiny networks of tests/tiny.py.
CONFIG = {
    "global_cfg": {
        "semantic_audio_length_seconds": 4.0,
        "coarse_audio_length_seconds": 2.0,
        "fine_audio_length_seconds": 1.0,
        "clap_audio_length_seconds": 10.0,
        "num_coarse_quantizers": 2,
        "num_fine_quantizers": 3,
    },
    "clap_rvq_cfg": {"rq_num_quantizers": 3, "codebook_size": 16},
    "hubert_kmeans_cfg": {
        "model_name": "m-a-p/MERT-v0",
        "normalize_embeds": True,
        "embed_layer": 1,
        "codebook_size": 20,
        "output_hz": 25,
    },
    "encodec_cfg": {"bandwidth": 1.0, "codebook_size": 16, "output_hz": 50},
    "semantic_cfg": SIZES,
    "coarse_cfg": SIZES,
    "fine_cfg": SIZES,
}
EMBEDDING_DIM = FEATURE_DIM = 16


def original_config(**changes: dict) -> dict:
    """`CONFIG` with settings of its sections changed."""
    return {name: {**section, **changes.get(name, {})} for name, section in CONFIG.items()}


def original_state_dict(config: dict, stage: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of a stage under the original's names, buffers included."""
    kind, generator = STAGES[stage], torch.Generator().manual_seed(seed)
    shapes = meta_shapes(kind.model_class, stage_config(config, stage))
    tensors = {}
    for name, targets in stage_rows(config[f"{stage}_cfg"], kind.streams):
        if not targets:
            continue
        parts = [shapes[target] for target in targets]
        shape = parts[0] if len(parts) == 1 else (sum(part[0] for part in parts), *parts[0][1:])
        tensors[name] = torch.randn(shape, generator=generator) * (0.3 if len(shape) > 1 else 1.0)
        if name.endswith("gamma"):
            tensors[name.replace("gamma", "beta")] = torch.zeros(shape)
    if config[f"{stage}_cfg"]["relative_position_bias_type"] == "t5":
        heads = config[f"{stage}_cfg"]["heads"]
        tensors["transformer.rel_pos_bias.relative_attention_bias.weight"] = torch.randn(
            32, heads, generator=generator
        )
    return tensors


def original_rvq(config: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    generator, section = torch.Generator().manual_seed(seed), config["clap_rvq_cfg"]
    tensors = {}
    for layer in range(section["rq_num_quantizers"]):
        name = f"layers.{layer}._codebook"
        embed = torch.randn(1, section["codebook_size"], EMBEDDING_DIM, generator=generator)
        tensors |= {
            f"{name}.initted": torch.ones(1),
            f"{name}.cluster_size": torch.ones(1, section["codebook_size"]),
            f"{name}.embed_avg": embed.clone(),
            f"{name}.embed": embed,
        }
    return tensors


def fitted_kmeans(num_clusters: int = CONFIG["hubert_kmeans_cfg"]["codebook_size"], seed: int = 0) -> MiniBatchKMeans:
    features = np.random.default_rng(seed).normal(size=(400, FEATURE_DIM)).astype(np.float32)
    return MiniBatchKMeans(num_clusters, n_init=1, max_iter=5, random_state=seed).fit(features)


def write_checkpoint_folder(folder: Path, config: dict | None = None, stages=tuple(STAGES)) -> Path:
    """A folder as people have it: config, stages, residual VQ, k-means."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "musiclm_tiny.json").write_text(json.dumps(config or CONFIG))
    filled = read_original_config(folder / "musiclm_tiny.json")
    for step, stage in enumerate(stages):
        torch.save(original_state_dict(filled, stage), folder / f"{stage}.transformer.{1000 * (step + 1)}.pt")
    torch.save(original_rvq(filled), folder / "clap.rvq.950_no_fusion.pt")
    joblib.dump(fitted_kmeans(filled["hubert_kmeans_cfg"]["codebook_size"]), folder / "kmeans_10s_no_fusion.joblib")
    return folder
