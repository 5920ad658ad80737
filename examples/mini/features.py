"""What the frozen networks say of clips, many at once; one clip at a time it is `open_musiclm.tokenizers.clap`."""

from __future__ import annotations

import torch
from recipe import Recipe
from torch.nn import functional as F
from train_clap import log_mels
from train_semantic_encoder import FACTORS, resample_to_semantic_rate
from transformers import ClapModel, ClapProcessor, HubertModel

from open_musiclm.models.configuration import SemanticQuantizerConfig
from open_musiclm.tokenizers.clap import clap_text_embeddings
from open_musiclm.tokenizers.semantic import semantic_features


@torch.no_grad()
def embed_clips(clap: ClapModel, processor: ClapProcessor, waveforms: torch.Tensor) -> torch.Tensor:
    """CLAP embeddings of the sound of (clips, samples), float32 (clips, dim), of length 1."""
    mels = log_mels(waveforms, processor.feature_extractor).split(50)
    return torch.cat([F.normalize(clap.get_audio_features(m, is_longer=None).pooler_output, dim=-1) for m in mels])


@torch.no_grad()
def embed_texts(clap: ClapModel, processor: ClapProcessor, texts: list[str]) -> torch.Tensor:
    """CLAP embeddings of texts, float32 (texts, dim), of length 1."""
    pieces = [texts[start : start + 500] for start in range(0, len(texts), 500)]
    return torch.cat([F.normalize(clap_text_embeddings(clap, processor, piece), dim=-1) for piece in pieces])


def semantic_quantizer_config(encoder: HubertModel, codebook_size: int, recipe: Recipe) -> SemanticQuantizerConfig:
    """Which layer's features, how normalised, at what rate, in which groups."""
    return SemanticQuantizerConfig(
        codebook_size=codebook_size,
        num_codebooks=len(FACTORS),
        feature_dim=encoder.config.hidden_size,
        layer=recipe.semantic_layer,
        frame_rate=float(recipe.frame_rate),
        sampling_rate=recipe.semantic_sampling_rate,
        num_edge_frames=1,
    )


@torch.no_grad()
def clip_features(encoder: HubertModel, config: SemanticQuantizerConfig, waveforms: torch.Tensor, recipe: Recipe):
    """Features of one layer of (clips, samples) at the corpus's rate, float32 (clips, frames, dim), not normalised."""
    resampled = torch.from_numpy(resample_to_semantic_rate(waveforms.cpu().numpy(), recipe)).to(waveforms.device)
    return torch.cat([semantic_features(encoder, config, part) for part in resampled.split(20)])
