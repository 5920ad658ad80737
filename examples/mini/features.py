"""What the frozen networks say of a corpus: CLAP embeddings of clips and captions, semantic features, codec codes."""

from __future__ import annotations

import torch
from corpus import Corpus
from recipe import Recipe
from torch.nn import functional as F
from train_clap import encode_texts, log_mels
from train_semantic_encoder import normalise_waveform, pad_to_whole_frames, resample_to_semantic_rate
from transformers import ClapModel, ClapProcessor, EncodecModel, HubertModel


@torch.no_grad()
def clap_audio_embeddings(clap: ClapModel, processor: ClapProcessor, corpus: Corpus) -> torch.Tensor:
    """float32 (clips, dim), of length 1."""
    mels = log_mels(corpus, processor.feature_extractor).split(100)
    parts = [clap.get_audio_features(part, is_longer=None).pooler_output for part in mels]
    return F.normalize(torch.cat(parts), dim=-1)


@torch.no_grad()
def clap_text_embeddings(clap: ClapModel, processor: ClapProcessor, texts: list[str]) -> torch.Tensor:
    """float32 (texts, dim), of length 1."""
    tokens = {name: ids.to(clap.device).split(500) for name, ids in encode_texts(processor.tokenizer, texts).items()}
    pairs = zip(tokens["input_ids"], tokens["attention_mask"], strict=True)
    parts = [clap.get_text_features(input_ids=i, attention_mask=m).pooler_output for i, m in pairs]
    return F.normalize(torch.cat(parts), dim=-1)


@torch.no_grad()
def semantic_features(
    encoder: HubertModel, corpus: Corpus, recipe: Recipe, clips: torch.Tensor | None = None
) -> torch.Tensor:
    """float32 (clips, frames, dim): one layer's frames, each at zero mean and unit variance over its features."""
    parts = []
    for some in (torch.arange(len(corpus)) if clips is None else clips).split(20):
        waveforms = resample_to_semantic_rate(corpus.waveforms(some.to(corpus.audio.device)), recipe)
        padded = pad_to_whole_frames(normalise_waveform(waveforms), recipe)
        frames = encoder(padded, output_hidden_states=True).hidden_states[recipe.semantic_layer]
        parts.append((frames - frames.mean(-1, keepdim=True)) / (frames.std(-1, keepdim=True) + 1e-7))
    return torch.cat(parts)


@torch.no_grad()
def codec_codes(codec: EncodecModel, corpus: Corpus) -> torch.Tensor:
    """int64 (clips, frames, codebooks)."""
    bandwidth = codec.config.target_bandwidths[-1]
    parts = []
    for some in torch.arange(len(corpus)).split(20):
        waveforms = corpus.waveforms(some.to(corpus.audio.device))
        parts.append(codec.encode(waveforms[:, None], bandwidth=bandwidth).audio_codes[0].transpose(1, 2))
    return torch.cat(parts)
