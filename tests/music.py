"""Small pieces of sound, a tiny pipeline whose codebooks tell them apart, and token datasets made of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch
from tiny import tiny_clap, tiny_codec, tiny_quantizers, tiny_semantic_encoder, tiny_stage

from open_musiclm import MusicLMPipeline
from open_musiclm.tokenizers.clap import clap_audio_embeddings
from open_musiclm.tokenizers.compatibility import acoustic_stream, clap_stream, semantic_stream
from open_musiclm.tokenizers.semantic import semantic_features


def notes(seed: int, duration_in_s: float, rate: int) -> np.ndarray:
    """A melody of decaying tones over some noise: (samples,) float32."""
    random = np.random.default_rng(seed)
    audio = 0.02 * random.standard_normal(round(duration_in_s * rate))
    time = np.arange(rate) / rate
    decay = 0.3 * np.exp(-4 * time)
    for start in range(0, len(audio), rate // 4):
        tone = decay * np.sin(2 * np.pi * 110 * 2 ** (random.integers(36) / 12) * time)
        audio[start : start + rate] += tone[: len(audio) - start]
    return np.clip(audio, -0.99, 0.99).astype(np.float32)


def write_music(folder: Path, durations: dict[str, float], rate: int = 22050, channels: int = 2) -> None:
    """Files by name; every one is another melody."""
    for index, (name, duration) in enumerate(durations.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        audio = notes(index, duration, rate)
        soundfile.write(path, np.stack([audio] * channels, axis=1), rate)


def spread_codebooks(vectors: torch.Tensor, num_codebooks: int, size: int, seed: int) -> torch.Tensor:
    """Residual codebooks made of vectors themselves: (num_codebooks, size, dim)."""
    generator = torch.Generator().manual_seed(seed)
    residual, codebooks = vectors, []
    for _ in range(num_codebooks):
        codebooks.append(residual[torch.randperm(len(residual), generator=generator)[:size]])
        residual = residual - codebooks[-1][torch.cdist(residual, codebooks[-1]).argmin(dim=1)]
    return torch.stack(codebooks)


@torch.no_grad()
def music_pipeline(seed: int = 0) -> MusicLMPipeline:
    """As `tiny_pipeline`, with codebooks taken from what its encoders give, so that tokens are many and differ."""
    clap, processor = tiny_clap()
    clap_quantizer, semantic_quantizer = tiny_quantizers()
    codec, encoder = tiny_codec(), tiny_semantic_encoder()
    sounds = [notes(100 + index, 10, 16000) for index in range(4)]
    windows = np.stack([sound[start : start + 40000 : 2] for sound in sounds for start in range(0, 120000, 20000)])
    clap_quantizer.codebooks.copy_(spread_codebooks(clap_audio_embeddings(clap, processor, windows), 3, 16, seed))
    features = semantic_features(encoder, semantic_quantizer.config, torch.from_numpy(np.stack(sounds)))
    semantic_quantizer.codebook.copy_(
        spread_codebooks(semantic_quantizer.normalize(features).flatten(0, 1), 1, 20, seed)[0]
    )
    latents = codec.encoder(torch.from_numpy(np.stack([sound[::2] for sound in sounds])).unsqueeze(1))
    for layer, codebook in zip(
        codec.quantizer.layers, spread_codebooks(latents.transpose(1, 2).flatten(0, 1), 5, 16, seed), strict=True
    ):
        layer.codebook.embed.copy_(codebook)
    streams = {
        "clap": clap_stream(clap_quantizer).to_dict(),
        "semantic": semantic_stream(semantic_quantizer).to_dict(),
        "coarse": acoustic_stream(codec, "coarse", 0, 2).to_dict(),
        "fine": acoustic_stream(codec, "fine", 2, 3).to_dict(),
    }
    names = {
        "semantic": ("clap", "semantic"),
        "coarse": ("clap", "semantic", "coarse"),
        "fine": ("clap", "coarse", "fine"),
    }
    return MusicLMPipeline(
        clap=clap,
        clap_processor=processor,
        clap_quantizer=clap_quantizer,
        codec=codec,
        semantic_encoder=encoder,
        semantic_quantizer=semantic_quantizer,
        **{f"{stage}_model": tiny_stage(stage, [streams[n] for n in names[stage]]) for stage in names},
    )
