"""Codecs of every kind that has an adapter: transformers' own classes, shaped as the published ones, thinner."""

from __future__ import annotations

import torch
from tiny import tiny_codec
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel, MimiConfig, MimiModel


def encodec(seed: int = 0, **overrides) -> EncodecModel:
    """EnCodec 24 kHz's shape."""
    torch.manual_seed(seed)
    codec = EncodecModel(
        EncodecConfig(**{"num_filters": 4, "hidden_size": 16, "codebook_dim": 16, **overrides})
    ).eval()
    with torch.no_grad():
        for layer in codec.quantizer.layers:
            layer.codebook.embed.normal_()
    return codec


def dac(seed: int = 0, sampling_rate: int = 16_000, ratios=(2, 4, 5, 8)) -> DacModel:
    torch.manual_seed(seed)
    config = DacConfig(
        sampling_rate=sampling_rate,
        downsampling_ratios=list(ratios),
        encoder_hidden_size=4,
        decoder_hidden_size=64,
        n_codebooks=4,
        codebook_size=64,
        codebook_dim=4,
    )
    codec = DacModel(config).eval()
    with torch.no_grad():  # as loud as a trained one, so that an error is not lost in silence
        for module in codec.modules():
            if isinstance(module, torch.nn.Conv1d):
                module.weight.normal_(std=0.6 / (module.in_channels * module.kernel_size[0]) ** 0.5)
            elif isinstance(module, torch.nn.Embedding):
                module.weight.normal_()
    return codec


def mimi(seed: int = 0, **overrides) -> MimiModel:
    torch.manual_seed(seed)
    settings = {
        "hidden_size": 32,
        "num_filters": 4,
        "codebook_size": 64,
        "codebook_dim": 16,
        "vector_quantization_hidden_dimension": 16,
        "num_quantizers": 4,
        "upsample_groups": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "sliding_window": 12,  # half a second: a piece of a second is longer
        "layer_scale_initial_scale": 0.5,
    }
    codec = MimiModel(MimiConfig(**{**settings, **overrides})).eval()
    with torch.no_grad():
        for name, buffer in codec.named_buffers():
            if name.endswith("embed_sum"):
                buffer.normal_()
    return codec


#: name → (maker, sampling rate, channels, hop)
CODECS = {
    "encodec 24 kHz": (encodec, 24_000, 1, 320),
    "encodec 24 kHz, tiny": (tiny_codec, 8_000, 1, 160),
    "encodec, deeper": (
        lambda: encodec(num_residual_layers=3, dilation_growth_rate=3, num_lstm_layers=1),
        24_000,
        1,
        320,
    ),
    "encodec, zeros around": (
        lambda: encodec(pad_mode="constant", upsampling_ratios=[4, 2], sampling_rate=600, last_kernel_size=5),
        600,
        1,
        8,
    ),
    "encodec 32 kHz": (
        lambda: encodec(
            sampling_rate=32_000,
            upsampling_ratios=[8, 5, 4, 4],
            use_causal_conv=False,
            use_conv_shortcut=False,
            codebook_size=2048,
            target_bandwidths=[2.2],
        ),
        32_000,
        1,
        640,
    ),
    "encodec 48 kHz": (
        lambda: encodec(
            sampling_rate=48_000,
            audio_channels=2,
            normalize=True,
            chunk_length_s=1.0,
            overlap=0.01,
            use_causal_conv=False,
            norm_type="time_group_norm",
            target_bandwidths=[3.0, 6.0],
        ),
        48_000,
        2,
        320,
    ),
    "dac 44.1 kHz": (lambda: dac(sampling_rate=44_100, ratios=(2, 4, 8, 8)), 44_100, 1, 512),
    "dac 24 kHz": (lambda: dac(sampling_rate=24_000), 24_000, 1, 320),
    "dac 16 kHz": (dac, 16_000, 1, 320),
    "mimi": (mimi, 24_000, 1, 1920),
}
