"""Turn every clip into the tokens that the stages train on, one safetensors file a split."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from clustering import nearest, residual_codes
from corpus import Corpus
from features import clap_audio_embeddings, clap_text_embeddings, codec_codes, semantic_features
from recipe import Recipe
from safetensors.torch import load_file, save_file
from training_loop import pick_device
from transformers import ClapModel, ClapProcessor, EncodecModel, HubertModel


@torch.no_grad()
def tokenize_corpus(corpus_folder: Path, models: Path, output: Path, recipe: Recipe) -> None:
    """Write `train.safetensors` and `heldout.safetensors`, all uint8:

    - `clap_audio` (clips, quantizers): CLAP tokens of the sound
    - `clap_text` (clips, captions, quantizers): CLAP tokens of each caption
    - `semantic` (clips, frames at 25 Hz)
    - `codec` (clips, frames at 50 Hz, codebooks): coarse codebooks, then fine
    """
    device = pick_device()
    books = {name: book.to(device) for name, book in load_file(models / "codebooks.safetensors").items()}
    clap = ClapModel.from_pretrained(models / "clap", dtype=torch.float32).to(device).eval()
    processor = ClapProcessor.from_pretrained(models / "clap")
    encoder = HubertModel.from_pretrained(models / "semantic_encoder", dtype=torch.float32).to(device).eval()
    codec = EncodecModel.from_pretrained(models / "codec", dtype=torch.float32).to(device).eval()
    for split in ("train", "heldout"):
        path = output / f"{split}.safetensors"
        if path.exists():
            continue
        corpus = Corpus(corpus_folder, split, device)
        texts, _ = corpus.captions()
        text_embeddings = clap_text_embeddings(clap, processor, [text for row in texts for text in row])
        text_codes = residual_codes(text_embeddings, books["clap_codebooks"])
        audio_codes = residual_codes(clap_audio_embeddings(clap, processor, corpus), books["clap_codebooks"])
        semantic = [
            nearest(semantic_features(encoder, corpus, recipe, clips).flatten(0, 1), books["semantic_codebook"])
            for clips in torch.arange(len(corpus)).split(100)
        ]
        tokens = {
            "clap_audio": audio_codes,
            "clap_text": text_codes.view(len(texts), len(texts[0]), -1),
            "semantic": torch.cat(semantic).view(len(corpus), -1),
            "codec": codec_codes(codec, corpus),
        }
        output.mkdir(parents=True, exist_ok=True)
        save_file({name: ids.to(torch.uint8).cpu().contiguous() for name, ids in tokens.items()}, f"{path}.part")
        os.replace(f"{path}.part", path)
        agree = (tokens["clap_audio"][:, None] == tokens["clap_text"]).float().mean(dim=(0, 1))
        print(f"tokens of {split}: {', '.join(f'{name} {tuple(ids.shape)}' for name, ids in tokens.items())}")
        print(f"  share of captions whose CLAP token equals the clip's, by quantizer: {[f'{a:.2f}' for a in agree]}")
