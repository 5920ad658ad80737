"""transformers' MusicGen with random weights, at its own sizes and defaults (classifier-free guidance at 3)."""

from __future__ import annotations

import time

import torch
from transformers import (
    EncodecConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    T5Config,
)

#: the decoders of facebook/musicgen-small, -medium, -large
SIZES = {"small": (1024, 24, 16), "medium": (1536, 48, 24), "large": (2048, 48, 32)}
FRAME_RATE = 50


def build(size: str, dtype: torch.dtype, device: torch.device) -> MusicgenForConditionalGeneration:
    hidden_size, layers, heads = SIZES[size]
    text = T5Config(d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12)
    codec = EncodecConfig(
        sampling_rate=32000, upsampling_ratios=[8, 5, 4, 4], num_filters=64, codebook_size=2048, codebook_dim=128,
        target_bandwidths=[2.2], use_causal_conv=False,
    )  # fmt: skip
    decoder = MusicgenDecoderConfig(
        vocab_size=2048,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        ffn_dim=4 * hidden_size,
        num_codebooks=4,
        max_position_embeddings=2048,
    )
    config = MusicgenConfig(text_encoder=text.to_dict(), audio_encoder=codec.to_dict(), decoder=decoder.to_dict())
    with torch.device(device):
        model = MusicgenForConditionalGeneration(config)
    model.generation_config.pad_token_id = model.generation_config.decoder_start_token_id = 2048
    return model.eval().to(device, dtype)


@torch.no_grad()
def seconds_a_step(model: MusicgenForConditionalGeneration, batch_size: int, num_steps: int) -> float:
    """Seconds of one decoding step in its own `generate`: two lengths, so that what is done once drops out."""
    device = model.device
    ids = torch.arange(2, 18, device=device).expand(batch_size, -1)
    mask = torch.ones_like(ids)
    taken = []
    for steps in (2, 2, 2 + num_steps):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, guidance_scale=3.0, max_new_tokens=steps + 4,
            min_new_tokens=steps + 4,
        )  # fmt: skip
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return (taken[2] - taken[1]) / num_steps


def decoder_parameters(model: MusicgenForConditionalGeneration) -> int:
    return sum(p.numel() for p in model.decoder.parameters())
