"""What the frozen networks say of a corpus, for many clips at once; one clip at a time it is `open_musiclm.tokenizers.networks`."""

from __future__ import annotations

import torch
from corpus import Corpus
from recipe import Recipe
from train_clap import log_mels
from train_semantic_encoder import resample_to_semantic_rate
from transformers import ClapModel, ClapProcessor, EncodecModel, HubertModel

from open_musiclm.models.configuration import SemanticQuantizerConfig
from open_musiclm.tokenizers.networks import acoustic_codes, clap_text_embeddings, semantic_features


@torch.no_grad()
def embed_clips(clap: ClapModel, processor: ClapProcessor, corpus: Corpus) -> torch.Tensor:
    """CLAP embeddings of the sound, float32 (clips, dim), of length 1."""
    mels = log_mels(corpus, processor.feature_extractor).split(100)
    return torch.cat([clap.get_audio_features(part, is_longer=None).pooler_output for part in mels])


@torch.no_grad()
def embed_texts(clap: ClapModel, processor: ClapProcessor, texts: list[str]) -> torch.Tensor:
    """CLAP embeddings of texts, float32 (texts, dim), of length 1."""
    pieces = [texts[start : start + 500] for start in range(0, len(texts), 500)]
    return torch.cat([clap_text_embeddings(clap, processor, piece) for piece in pieces])


def semantic_quantizer_config(encoder: HubertModel, recipe: Recipe) -> SemanticQuantizerConfig:
    """Which layer's features, how normalised, at what rate."""
    return SemanticQuantizerConfig(
        codebook_size=recipe.semantic_codebook_size,
        feature_dim=encoder.config.hidden_size,
        layer=recipe.semantic_layer,
        frame_rate=recipe.semantic_frame_rate,
        sampling_rate=recipe.semantic_sampling_rate,
        num_edge_frames=1,
    )


@torch.no_grad()
def clip_features(encoder: HubertModel, corpus: Corpus, recipe: Recipe, clips: torch.Tensor) -> torch.Tensor:
    """Features of one layer, float32 (clips, frames, dim), before the quantizer's normalisation."""
    config, parts = semantic_quantizer_config(encoder, recipe), []
    for some in clips.split(20):
        waveforms = resample_to_semantic_rate(corpus.waveforms(some.to(corpus.audio.device)), recipe)
        parts.append(semantic_features(encoder, config, waveforms))
    return torch.cat(parts)


@torch.no_grad()
def codec_codes(codec: EncodecModel, corpus: Corpus) -> torch.Tensor:
    """int64 (clips, frames, codebooks)."""
    parts = []
    for some in torch.arange(len(corpus)).split(20):
        waveforms = corpus.waveforms(some.to(corpus.audio.device))[:, None]
        parts.append(acoustic_codes(codec, waveforms, len(codec.quantizer.layers)))
    return torch.cat(parts)
