"""Turn every clip into the tokens that the stages train on, one safetensors file a split."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from corpus import Corpus
from features import clip_features, codec_codes, embed_clips, embed_texts
from recipe import Recipe
from safetensors.torch import save_file
from training_loop import pick_device
from transformers import ClapModel, ClapProcessor, EncodecModel, HubertModel

from open_musiclm import ClapQuantizer, SemanticQuantizer


@torch.no_grad()
def tokenize_corpus(corpus_folder: Path, models: Path, output: Path, recipe: Recipe) -> None:
    """Write `train.safetensors` and `heldout.safetensors`, all uint8:

    - `clap_audio` (clips, quantizers): CLAP tokens of the sound
    - `clap_text` (clips, captions, quantizers): CLAP tokens of each caption
    - `semantic` (clips, frames at 25 Hz)
    - `codec` (clips, frames at 50 Hz, codebooks): coarse codebooks, then fine
    """
    device = pick_device()
    clap_quantizer = ClapQuantizer.from_pretrained(models / "clap_quantizer").to(device)
    semantic_quantizer = SemanticQuantizer.from_pretrained(models / "semantic_quantizer").to(device)
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
        text_embeddings = embed_texts(clap, processor, [text for row in texts for text in row])
        text_codes = clap_quantizer.encode(text_embeddings)
        semantic = [
            semantic_quantizer.encode(clip_features(encoder, corpus, recipe, clips))
            for clips in torch.arange(len(corpus)).split(100)
        ]
        tokens = {
            "clap_audio": clap_quantizer.encode(embed_clips(clap, processor, corpus)),
            "clap_text": text_codes.view(len(texts), len(texts[0]), -1),
            "semantic": torch.cat(semantic),
            "codec": codec_codes(codec, corpus),
        }
        output.mkdir(parents=True, exist_ok=True)
        save_file({name: ids.to(torch.uint8).cpu().contiguous() for name, ids in tokens.items()}, f"{path}.part")
        os.replace(f"{path}.part", path)
        agree = (tokens["clap_audio"][:, None] == tokens["clap_text"]).float().mean(dim=(0, 1))
        print(f"tokens of {split}: {', '.join(f'{name} {tuple(ids.shape)}' for name, ids in tokens.items())}")
        print(f"  share of captions whose CLAP token equals the clip's, by quantizer: {[f'{a:.2f}' for a in agree]}")
