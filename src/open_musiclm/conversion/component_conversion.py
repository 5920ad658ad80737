"""One component after the other: original file in, `from_pretrained` folder out, proved on the spot.

Each function loads one file, writes one folder and lets go of both, so that memory holds one component at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..models.configuration import ClapQuantizerConfig, SemanticQuantizerConfig
from ..tokenizers.fingerprints import codebook_fingerprint
from ..tokenizers.quantizers import ClapQuantizer, SemanticQuantizer
from .checkpoint_error import CheckpointError
from .checkpoint_files import read_state_dict
from .name_table import apply_name_table, meta_shapes, save_converted
from .original_config import STAGES, original_stream, stage_config
from .proof import prove_clap_quantizer, prove_semantic_quantizer, prove_stage
from .quantizer_files import read_kmeans_centroids, read_rvq_codebooks
from .stage_names import stage_rows

OriginalConfig = dict[str, dict[str, Any]]


def convert_stage(
    stage: str,
    checkpoint: Path,
    original: OriginalConfig,
    folder: Path,
    fingerprints: dict[str, str | None],
    dtype: torch.dtype | None,
    say: Callable[[str], None] | None = None,
) -> str:
    """Converts one stage; returns the line of its proof.

    Args:
        stage: `"semantic"`, `"coarse"` or `"fine"`.
        fingerprints: Stream name → fingerprint of the codebook that belongs to this model, where it is known.
        dtype: Cast the weights; None keeps every bit.
        say: Told what was taken out of a file, where there was a choice.
    """
    kind = STAGES[stage]
    encoder = original.get("hubert_kmeans_cfg", {}).get("model_name") if "semantic" in kind.streams else None
    config = stage_config(original, stage, fingerprints, **_recorded(checkpoint, encoder))
    tensors = read_state_dict(checkpoint, say)
    sizes = original[f"{stage}_cfg"]
    rows, shapes = stage_rows(sizes, kind.streams), meta_shapes(kind.model_class, config)
    converted = apply_name_table(tensors, rows, shapes, checkpoint)
    if dtype is not None:
        converted = {name: _cast(name, tensor, dtype) for name, tensor in converted.items()}
    # The original's generation appends EOS to the conditioning streams and hides nothing; a conversion keeps that.
    save_converted(kind.model_class, config, converted, folder, mask_condition_eos=False)
    del converted
    return prove_stage(stage, folder, tensors, sizes, dtype)


def _recorded(checkpoint: Path, semantic_encoder: str | None = None) -> dict[str, Any]:
    """What the config keeps for the model card: the file, and whose features its semantic tokens are made of."""
    encoder = {"semantic_encoder": semantic_encoder} if semantic_encoder else {}
    return {"converted_from": checkpoint.name, **encoder}


def _cast(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The position bias stays in float32: transformers loads it so whatever is asked for."""
    return tensor if name.startswith("decoder.position_bias.") else tensor.to(dtype)


def convert_clap_quantizer(
    checkpoint: Path, original: OriginalConfig, folder: Path, say: Callable[[str], None] | None = None
) -> tuple[str, str]:
    """Converts the residual VQ of CLAP embeddings; returns its fingerprint and the line of its proof."""
    codebooks = read_rvq_codebooks(checkpoint, say)
    stream = original_stream(original, "clap")
    found, needed = tuple(codebooks.shape[:2]), (stream.num_codebooks, stream.codebook_size)
    if found != needed:
        raise CheckpointError(
            f"{checkpoint}: has {found[0]} codebooks of {found[1]}; the config says {needed[0]} of {needed[1]}"
        )
    config = ClapQuantizerConfig(
        num_quantizers=found[0],
        codebook_size=found[1],
        embedding_dim=codebooks.shape[2],
        window_in_s=original.get("global_cfg", {}).get("clap_audio_length_seconds", 10.0),
        **_recorded(checkpoint),
    )
    save_converted(ClapQuantizer, config, {"codebooks": codebooks.float()}, folder)
    return codebook_fingerprint(codebooks), prove_clap_quantizer(folder, codebooks)


def convert_semantic_quantizer(
    checkpoint: Path, original: OriginalConfig, folder: Path, say: Callable[[str], None] | None = None
) -> tuple[str, str]:
    """Converts the k-means of semantic features; returns its fingerprint and the line of its proof."""
    centroids = read_kmeans_centroids(checkpoint)
    stream = original_stream(original, "semantic")
    if centroids.shape[0] != stream.codebook_size:
        raise CheckpointError(
            f"{checkpoint}: has {centroids.shape[0]} centroids; the config says {stream.codebook_size}"
        )
    settings = original["hubert_kmeans_cfg"]
    config = SemanticQuantizerConfig(
        codebook_size=centroids.shape[0],
        feature_dim=centroids.shape[1],
        layer=settings["embed_layer"],
        normalize=settings["normalize_embeds"],
        frame_rate=settings["output_hz"],
        sampling_rate=settings["target_sample_hz"],
        **_recorded(checkpoint, settings["model_name"]),
    )
    save_converted(SemanticQuantizer, config, {"codebook": centroids}, folder)
    return codebook_fingerprint(centroids), prove_semantic_quantizer(folder, centroids)
