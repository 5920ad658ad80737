"""Tiny random networks of the outside world, saved the way users have them."""

from __future__ import annotations

import numpy as np
import torch
from tiny import tiny_clap, tiny_semantic_encoder


def tiny_ast(seed: int = 0):
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    torch.manual_seed(seed)
    config = ASTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_length=128,
        num_mel_bins=32,
        num_labels=5,
    )
    return ASTForAudioClassification(config).eval(), ASTFeatureExtractor(num_mel_bins=32, max_length=128)


def save_clap(folder, seed: int = 0) -> str:
    model, processor = tiny_clap(seed)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def save_ast(folder, seed: int = 0) -> str:
    model, extractor = tiny_ast(seed)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return str(folder)


def save_hubert(folder, seed: int = 0) -> str:
    from transformers import Wav2Vec2FeatureExtractor

    tiny_semantic_encoder(seed).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=16000, do_normalize=True).save_pretrained(folder)
    return str(folder)


def save_musicgen(folder, seed: int = 0) -> str:
    """MusicGen of random weights: T5 encoder, EnCodec, delayed codebooks, classifier-free guidance."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        EncodecConfig,
        EncodecFeatureExtractor,
        MusicgenConfig,
        MusicgenDecoderConfig,
        MusicgenForConditionalGeneration,
        MusicgenProcessor,
        PreTrainedTokenizerFast,
        T5Config,
    )

    torch.manual_seed(seed)
    text = T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0, decoder_start_token_id=0
    )
    audio = EncodecConfig(
        sampling_rate=8000,
        upsampling_ratios=[8, 5, 4],
        num_filters=4,
        hidden_size=8,
        codebook_dim=8,
        codebook_size=16,
        num_lstm_layers=1,
        num_residual_layers=1,
        target_bandwidths=[0.8],
    )
    decoder = MusicgenDecoderConfig(
        vocab_size=16,
        hidden_size=16,
        ffn_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_codebooks=4,
        pad_token_id=16,
        bos_token_id=16,
    )
    model = MusicgenForConditionalGeneration(
        MusicgenConfig(text_encoder=text, audio_encoder=audio, decoder=decoder)
    ).eval()
    with torch.no_grad():
        for layer in model.audio_encoder.quantizer.layers:
            layer.codebook.embed.normal_()
    model.generation_config.guidance_scale = 3.0
    model.generation_config.do_sample = True
    model.generation_config.decoder_start_token_id = 16
    model.generation_config.pad_token_id = 16
    model.save_pretrained(folder)
    words = [
        "<pad>",
        "</s>",
        "<unk>",
        *[
            "a",
            "calm",
            "fast",
            "piano",
            "guitar",
            "melody",
            "in",
            "minor",
            "major",
            "key",
            "with",
            "drums",
            "slow",
            "bright",
        ],
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    MusicgenProcessor(EncodecFeatureExtractor(sampling_rate=8000), fast).save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


def chord(frequency: float, length_in_s: float = 2.0, rate: int = 8000, tempo: float = 120.0) -> np.ndarray:
    """(samples,) a plucked chord on every beat."""
    time = np.arange(round(length_in_s * rate)) / rate
    tones = sum(np.sin(2 * np.pi * frequency * ratio * time) for ratio in (1.0, 1.25, 1.5))
    return (0.2 * tones * np.exp(-4 * (time % (60 / tempo)))).astype(np.float32)
