"""Fit the two codebooks that are not the codec's: residual k-means on CLAP embeddings, k-means on semantic features."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from clustering import fit_kmeans, fit_residual_kmeans, nearest
from corpus import Corpus
from features import clap_audio_embeddings, clap_text_embeddings, semantic_features
from recipe import Recipe
from safetensors.torch import save_file
from training_loop import pick_device
from transformers import ClapModel, ClapProcessor, HubertModel


@torch.no_grad()
def fit_codebooks(corpus_folder: Path, models: Path, recipe: Recipe) -> None:
    """Write `clap_codebooks` (quantizers, centroids, dim) and `semantic_codebook` (centroids, dim), float32.

    The CLAP codebooks see the embeddings of clips and of captions alike: prompts are texts, and a small CLAP leaves a
    gap between the two.
    """
    device = pick_device()
    corpus = Corpus(corpus_folder, "train", device)
    generator = torch.Generator().manual_seed(recipe.seed + 6)
    clap = ClapModel.from_pretrained(models / "clap", dtype=torch.float32).to(device).eval()
    processor = ClapProcessor.from_pretrained(models / "clap")
    texts = [caption["text"] for record in corpus.records for caption in record["captions"][:2]]
    embeddings = torch.cat(
        [clap_audio_embeddings(clap, processor, corpus), clap_text_embeddings(clap, processor, texts)]
    )
    clap_codebooks = fit_residual_kmeans(
        embeddings, recipe.num_clap_quantizers, recipe.clap_codebook_size, generator, num_iterations=50
    )
    encoder = HubertModel.from_pretrained(models / "semantic_encoder", dtype=torch.float32).to(device).eval()
    clips = torch.randperm(len(corpus), generator=generator)[:800]
    frames = semantic_features(encoder, corpus, recipe, clips).flatten(0, 1)
    semantic_codebook = fit_kmeans(frames, recipe.semantic_codebook_size, generator, num_iterations=50)
    left_over = (frames - semantic_codebook[nearest(frames, semantic_codebook)]).pow(2).sum() / frames.pow(2).sum()
    print(f"codebooks: k-means leaves {left_over:.0%} of the semantic features' energy")
    path = models / "codebooks.safetensors"
    tensors = {"clap_codebooks": clap_codebooks.cpu().contiguous(), "semantic_codebook": semantic_codebook.cpu()}
    save_file(tensors, f"{path}.part")
    os.replace(f"{path}.part", path)
