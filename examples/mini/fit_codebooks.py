"""Make the two codebooks that are not the codec's.

CLAP's: residual k-means on embeddings of captions, and of where the table of attributes puts clips (which is where their
sound is meant to lie), with as much noise as the audio tower leaves. The semantic encoder's were learnt with it: its
prototypes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from clustering import fit_residual_kmeans
from corpus import Corpus
from features import embed_texts, semantic_quantizer_config
from recipe import Recipe
from safetensors.torch import load_file
from torch.nn import functional as F
from train_clap import load_attribute_table
from train_semantic_encoder import FACTORS
from training_loop import pick_device
from transformers import ClapModel, ClapProcessor, HubertModel

from open_musiclm import ClapQuantizer, ClapQuantizerConfig, SemanticQuantizer

CAPTIONS_A_CLIP = 4


def blur(embeddings: torch.Tensor, noise: float, generator: torch.Generator) -> torch.Tensor:
    """Unit vectors (…, dim) with normal noise of that size a dimension, of length 1 again."""
    return F.normalize(embeddings + noise * torch.randn(embeddings.shape, generator=generator), dim=-1)


@torch.no_grad()
def fit_codebooks(corpus_folder: Path, models: Path, recipe: Recipe) -> None:
    """Save a ClapQuantizer as `clap_quantizer` and a SemanticQuantizer as `semantic_quantizer`."""
    device = pick_device()
    corpus = Corpus(corpus_folder, "train")
    generator = torch.Generator().manual_seed(recipe.seed + 6)
    clap = ClapModel.from_pretrained(models / "clap", dtype=torch.float32).to(device).eval()
    processor = ClapProcessor.from_pretrained(models / "clap")
    texts = [caption["text"] for record in corpus.records for caption in record["captions"][:CAPTIONS_A_CLIP]]
    points = load_attribute_table(models)(corpus.attribute_values())
    embedded = embed_texts(clap, processor, texts)
    both = torch.cat([embedded, blur(points, recipe.clap_noise, generator).to(device), points.to(device)])
    clap_quantizer = ClapQuantizer(
        ClapQuantizerConfig(
            codebook_size=recipe.clap_codebook_size,
            num_quantizers=recipe.num_clap_quantizers,
            embedding_dim=both.shape[1],
            window_in_s=recipe.clip_length_in_s,
        )
    ).to(device)
    codebooks = fit_residual_kmeans(both, recipe.num_clap_quantizers, recipe.clap_codebook_size, generator)
    clap_quantizer.codebooks.copy_(codebooks)
    for name, vectors in (("captions", embedded), ("the table's points", points.to(device))):
        near = F.cosine_similarity(clap_quantizer.decode(clap_quantizer.encode(vectors)), vectors).mean()
        print(f"codebooks: cosine of {name} and what their tokens say {near:.3f}")
    report_perplexity("clap", clap_quantizer.encode(both), recipe.clap_codebook_size)

    encoder = HubertModel.from_pretrained(models / "semantic_encoder", dtype=torch.float32)
    prototypes = load_file(models / "semantic_encoder" / "prototypes.safetensors")
    entries = [prototypes[name] for name in FACTORS]
    size = max(len(some) for some in entries)
    # entries that no frame has stand where no feature comes
    padded = torch.stack([F.pad(some, (0, 0, 0, size - len(some)), value=100.0) for some in entries])
    semantic_quantizer = SemanticQuantizer(semantic_quantizer_config(encoder, size, recipe))
    semantic_quantizer.codebook.copy_(padded)
    clap_quantizer.cpu().save_pretrained(models / "clap_quantizer")
    semantic_quantizer.save_pretrained(models / "semantic_quantizer")


def report_perplexity(name: str, codes: torch.Tensor, codebook_size: int) -> None:
    """Print how many entries of each codebook are in use, as the exponential of the entropy: codes (…, codebooks)."""
    perplexities = []
    for column in codes.reshape(-1, codes.shape[-1]).T:
        shares = torch.bincount(column.cpu().long(), minlength=codebook_size).float() / len(column)
        perplexities.append(torch.exp(-(shares * torch.log(shares.clamp(min=1e-12))).sum()).item())
    print(f"perplexity of {name}: {', '.join(f'{value:.0f}' for value in perplexities)} of {codebook_size}")
