"""Fit the two codebooks that are not the codec's: residual k-means on CLAP embeddings, k-means on semantic features."""

from __future__ import annotations

from pathlib import Path

import torch
from clustering import fit_kmeans, fit_residual_kmeans, nearest
from corpus import Corpus
from features import clip_features, embed_clips, embed_texts, semantic_quantizer_config
from recipe import Recipe
from training_loop import pick_device
from transformers import ClapModel, ClapProcessor, HubertModel

from open_musiclm import ClapQuantizer, ClapQuantizerConfig, SemanticQuantizer


@torch.no_grad()
def fit_codebooks(corpus_folder: Path, models: Path, recipe: Recipe) -> None:
    """Save a ClapQuantizer as `clap_quantizer` and a SemanticQuantizer as `semantic_quantizer`.

    The CLAP codebooks see the embeddings of clips and of captions alike: prompts are texts, and a small CLAP leaves a
    gap between the two.
    """
    device = pick_device()
    corpus = Corpus(corpus_folder, "train", device)
    generator = torch.Generator().manual_seed(recipe.seed + 6)
    clap = ClapModel.from_pretrained(models / "clap", dtype=torch.float32).to(device).eval()
    processor = ClapProcessor.from_pretrained(models / "clap")
    texts = [caption["text"] for record in corpus.records for caption in record["captions"][:2]]
    embeddings = torch.cat([embed_clips(clap, processor, corpus), embed_texts(clap, processor, texts)])
    clap_codebooks = fit_residual_kmeans(
        embeddings, recipe.num_clap_quantizers, recipe.clap_codebook_size, generator, num_iterations=50
    )
    encoder = HubertModel.from_pretrained(models / "semantic_encoder", dtype=torch.float32).to(device).eval()
    clips = torch.randperm(len(corpus), generator=generator)[:800]
    semantic_quantizer = SemanticQuantizer(semantic_quantizer_config(encoder, recipe))
    frames = semantic_quantizer.normalize(clip_features(encoder, corpus, recipe, clips)).flatten(0, 1)
    semantic_codebook = fit_kmeans(frames, recipe.semantic_codebook_size, generator, num_iterations=50)
    left_over = (frames - semantic_codebook[nearest(frames, semantic_codebook)]).pow(2).sum() / frames.pow(2).sum()
    print(f"codebooks: k-means leaves {left_over:.0%} of the semantic features' energy")
    clap_quantizer = ClapQuantizer(
        ClapQuantizerConfig(
            codebook_size=recipe.clap_codebook_size,
            num_quantizers=recipe.num_clap_quantizers,
            embedding_dim=embeddings.shape[1],
            window_in_s=recipe.clip_length_in_s,
        )
    )
    clap_quantizer.codebooks.copy_(clap_codebooks)
    semantic_quantizer.codebook.copy_(semantic_codebook)
    clap_quantizer.save_pretrained(models / "clap_quantizer")
    semantic_quantizer.save_pretrained(models / "semantic_quantizer")
