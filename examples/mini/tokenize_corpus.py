"""Render fresh clips and turn them into the tokens that the acoustic stages train on, in shards of a hundred clips.

The audio is not kept. On a CPU every core works on shards of its own; what is there already is not made again.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from features import clip_features, embed_clips, embed_texts
from fit_codebooks import report_perplexity
from recipe import Recipe
from render import make_clip
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from train_semantic_encoder import frame_labels, joint_labels
from training_loop import pick_device
from transformers import ClapModel, ClapProcessor, HubertModel

from open_musiclm import ClapQuantizer, SemanticQuantizer, SpectralCodecModel
from open_musiclm.tokenizers.codec import as_codec

SHARD_SIZE = 100
CAPTIONS_A_CLIP = 4


class ClipTokenizer:
    """All networks that make tokens, and what they make of clips."""

    def __init__(self, models: Path, recipe: Recipe):
        self.recipe, self.device = recipe, pick_device()
        self.clap_quantizer = ClapQuantizer.from_pretrained(models / "clap_quantizer").to(self.device)
        self.semantic_quantizer = SemanticQuantizer.from_pretrained(models / "semantic_quantizer").to(self.device)
        self.clap = self._load(ClapModel, models / "clap")
        self.processor = ClapProcessor.from_pretrained(models / "clap")
        self.encoder = self._load(HubertModel, models / "semantic_encoder")
        self.codec = self._load(SpectralCodecModel, models / "codec")

    def _load(self, kind, folder: Path):
        return kind.from_pretrained(folder, dtype=torch.float32).to(self.device).eval()

    @torch.no_grad()
    def tokens(self, clips: list[tuple[np.ndarray, dict]]) -> dict[str, torch.Tensor]:
        """int16 tensors, clips first:

        - `clap_audio` (clips, quantizers) and `clap_text` (clips, captions, quantizers)
        - `semantic` (clips, frames - 1, groups), as heard; `score` (clips, frames, groups), as the score has it
        - `codec` (clips, frames, codebooks)
        """
        waveforms = torch.from_numpy(np.stack([audio for audio, _ in clips])).to(self.device).float() / 32767
        texts = [caption["text"] for _, record in clips for caption in record["captions"][:CAPTIONS_A_CLIP]]
        config = self.semantic_quantizer.config
        features = clip_features(self.encoder, config, waveforms, self.recipe)
        labels = torch.from_numpy(np.stack([frame_labels(record) for _, record in clips]))
        text_codes = self.clap_quantizer.encode(embed_texts(self.clap, self.processor, texts))
        tokens = {
            "clap_audio": self.clap_quantizer.encode(embed_clips(self.clap, self.processor, waveforms)),
            "clap_text": text_codes.unflatten(0, (len(clips), -1)),
            "semantic": self.semantic_quantizer.encode(features),
            "score": torch.stack(joint_labels(labels), dim=-1),
            "codec": as_codec(self.codec).encode(waveforms[:, None]),
        }
        return {name: ids.to(torch.int16).cpu().contiguous() for name, ids in tokens.items()}


_TOKENIZER: ClipTokenizer | None = None  # one a process


def _start(models: Path, recipe: Recipe, num_threads: int) -> None:
    global _TOKENIZER
    torch.set_num_threads(num_threads)
    _TOKENIZER = ClipTokenizer(models, recipe)


def _make_shard(first: int, split: str, path: Path, recipe: Recipe) -> None:
    parts = []
    for start in range(first, first + SHARD_SIZE, 20):
        clips = [
            make_clip(index, split, recipe.seed, recipe.clip_length_in_s, recipe.sampling_rate)
            for index in range(start, start + 20)
        ]
        assert _TOKENIZER is not None
        parts.append(_TOKENIZER.tokens(clips))
    save_file({name: torch.cat([part[name] for part in parts]) for name in parts[0]}, f"{path}.part")
    os.replace(f"{path}.part", path)


def tokenize_corpus(models: Path, output: Path, recipe: Recipe) -> None:
    """Write `train/00030.safetensors` … and `heldout/…`: clips from the index on where the rendered corpus ends."""
    jobs = []
    for split, num_clips in (("train", recipe.num_token_clips), ("heldout", SHARD_SIZE)):
        (output / split).mkdir(parents=True, exist_ok=True)
        first = getattr(recipe, f"num_{split}_clips")
        for index in range(first, first + num_clips, SHARD_SIZE):
            path = output / split / f"{index // SHARD_SIZE:05d}.safetensors"
            if not path.exists():
                jobs.append(partial(_make_shard, index, split, path, recipe))
    num_workers = os.cpu_count() or 1  # on a GPU too: rendering is what takes the time
    options = {"initializer": _start, "initargs": (models, recipe, 1), "mp_context": get_context("spawn")}
    if jobs:
        with ProcessPoolExecutor(num_workers, **options) as pool:
            for result in tqdm([pool.submit(job) for job in jobs], desc="tokenize", unit="shard"):
                result.result()
    tokens = load_tokens(output, "heldout")
    for name in ("clap_audio", "clap_text", "semantic", "codec"):
        sizes = {"semantic": int(tokens["score"].max()) + 1, "codec": recipe.codec_codebook_size}
        report_perplexity(name, tokens[name], sizes.get(name, recipe.clap_codebook_size))
    heard = (tokens["semantic"] == tokens["score"][:, : tokens["semantic"].shape[1]]).float().mean(dim=(0, 1))
    print(f"semantic tokens that say what the score says, by group: {', '.join(f'{share:.3f}' for share in heard)}")


def load_tokens(folder: Path, split: str) -> dict[str, torch.Tensor]:
    """All shards of a split, clips after one another."""
    paths = sorted((folder / split).glob("*.safetensors"))
    if not paths:
        raise ValueError(f"no tokens in {folder / split}: run the step `tokenize` first")
    parts = [load_file(path) for path in paths]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
