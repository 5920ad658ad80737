"""Tiny random networks of the outside world, saved the way users have them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tiny import tiny_clap, tiny_semantic_encoder

#: of the tiny MusicGen that follows melodies
CHROMA = {"n_fft": 4096, "hop_length": 2048}


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


def save_musicgen(folder, seed: int = 0, melody: bool = False, audio_channels: int = 1) -> str:
    """MusicGen of random weights: T5 encoder, EnCodec, delayed codebooks, classifier-free guidance.

    Args:
        melody: one that is conditioned on chromagrams too, with the settings that its processor would have.
        audio_channels: 2 interleaves the codebooks of left and right.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        EncodecConfig,
        EncodecFeatureExtractor,
        MusicgenConfig,
        MusicgenDecoderConfig,
        MusicgenForConditionalGeneration,
        MusicgenMelodyConfig,
        MusicgenMelodyForConditionalGeneration,
        MusicgenProcessor,
        PreTrainedTokenizerFast,
        T5Config,
    )
    from transformers.models.musicgen_melody.configuration_musicgen_melody import MusicgenMelodyDecoderConfig

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
    decoder = (MusicgenMelodyDecoderConfig if melody else MusicgenDecoderConfig)(
        vocab_size=16,
        hidden_size=16,
        ffn_dim=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_codebooks=4 * audio_channels,
        audio_channels=audio_channels,
        max_position_embeddings=512,
        pad_token_id=16,
        bos_token_id=16,
    )
    if melody:
        model = MusicgenMelodyForConditionalGeneration(
            MusicgenMelodyConfig(text_encoder=text, audio_encoder=audio, decoder=decoder, chroma_length=32)
        ).eval()
    else:
        model = MusicgenForConditionalGeneration(
            MusicgenConfig(text_encoder=text, audio_encoder=audio, decoder=decoder)
        ).eval()
    with torch.no_grad():
        for layer in model.audio_encoder.quantizer.layers:
            layer.codebook.embed.normal_()
        last = model.audio_encoder.encoder.layers[-1].conv  # brought to unit variance, so that codes tell sounds apart
        heard = model.audio_encoder.encoder(0.2 * torch.randn(1, 1, 8000))
        mean, spread = heard.mean(dim=(0, 2)), heard.std(dim=(0, 2))
        last.parametrizations.weight.original0.div_(spread[:, None, None])
        last.bias.copy_((last.bias - mean) / spread)
        # as they begin, every token would be as likely whatever is asked for
        if melody:
            model.audio_enc_to_dec_proj.weight.normal_()
        for weight in model.decoder.parameters():
            if weight.ndim == 2:
                weight.normal_(0, 0.5)
    model.generation_config.guidance_scale = 3.0
    model.generation_config.do_sample = True
    model.generation_config.decoder_start_token_id = 16
    model.generation_config.pad_token_id = 16
    model.save_pretrained(folder)
    words = [
        "<pad>",
        "</s>",
        "<unk>",
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
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    if melody:
        settings = {"feature_extractor_type": "MusicgenMelodyFeatureExtractor", "sampling_rate": 16000, **CHROMA}
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    else:
        MusicgenProcessor(EncodecFeatureExtractor(sampling_rate=8000), fast).save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


def save_stable_audio(folder):
    """Stable Audio of random weights."""
    from diffusers import (
        AutoencoderOobleck,
        EDMDPMSolverMultistepScheduler,
        StableAudioDiTModel,
        StableAudioPipeline,
        StableAudioProjectionModel,
    )
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    torch.manual_seed(0)
    transformer = StableAudioDiTModel(
        sample_size=64, in_channels=3, num_layers=1, attention_head_dim=4, num_attention_heads=2,
        num_key_value_attention_heads=2, out_channels=3, cross_attention_dim=4, time_proj_dim=8,
        global_states_input_dim=8, cross_attention_input_dim=4,
    )  # fmt: skip
    vae = AutoencoderOobleck(
        encoder_hidden_size=6, downsampling_ratios=[1, 2], decoder_channels=3, decoder_input_channels=3, audio_channels=2,
        channel_multiples=[2, 4], sampling_rate=400,
    )  # fmt: skip
    encoder = T5EncoderModel(T5Config(vocab_size=10, d_model=4, d_kv=2, d_ff=8, num_layers=1, num_heads=2))
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁a", -1.0)]
    tokenizer = T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=8)
    projection = StableAudioProjectionModel(text_encoder_dim=4, conditioning_dim=4, min_value=0, max_value=32)
    pipeline = StableAudioPipeline(
        vae=vae, text_encoder=encoder, projection_model=projection, tokenizer=tokenizer, transformer=transformer,
        scheduler=EDMDPMSolverMultistepScheduler(solver_order=2, prediction_type="v_prediction", sigma_data=1.0),
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    return folder


def save_audioldm2(folder):
    """AudioLDM2 of random weights: CLAP and T5, GPT-2, U-Net, VAE, vocoder."""
    from diffusers import (
        AudioLDM2Pipeline,
        AudioLDM2ProjectionModel,
        AudioLDM2UNet2DConditionModel,
        AutoencoderKL,
        DDIMScheduler,
    )
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        SpeechT5HifiGan,
        SpeechT5HifiGanConfig,
        T5Config,
        T5EncoderModel,
        T5Tokenizer,
    )

    clap, processor = tiny_clap(0)
    torch.manual_seed(0)
    unet = AudioLDM2UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4, cross_attention_dim=((None, 8, 16), (None, 8, 16)),
    )  # fmt: skip
    vae = AutoencoderKL(
        in_channels=1, out_channels=1, block_out_channels=(8, 16), norm_num_groups=8, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    language = GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=8, n_head=2, n_layer=1, n_positions=64))
    language.config.max_new_tokens = 4
    vocoder = SpeechT5HifiGanConfig(
        model_in_dim=8, sampling_rate=4000, upsample_initial_channel=8, upsample_rates=[4, 4],
        upsample_kernel_sizes=[8, 8], resblock_kernel_sizes=[3], resblock_dilation_sizes=[[1, 3]], normalize_before=False,
    )  # fmt: skip
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁a", -1.0)]
    AudioLDM2Pipeline(
        vae=vae, unet=unet, text_encoder=clap, language_model=language, vocoder=SpeechT5HifiGan(vocoder),
        text_encoder_2=T5EncoderModel(T5Config(vocab_size=10, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)),
        projection_model=AudioLDM2ProjectionModel(clap.config.projection_dim, 16, 8),
        tokenizer=processor.tokenizer, feature_extractor=processor.feature_extractor, scheduler=DDIMScheduler(),
        tokenizer_2=T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=8),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def chord(frequency: float, length_in_s: float = 2.0, rate: int = 8000, tempo: float = 120.0) -> np.ndarray:
    """(samples,) a plucked chord on every beat."""
    time = np.arange(round(length_in_s * rate)) / rate
    tones = sum(np.sin(2 * np.pi * frequency * ratio * time) for ratio in (1.0, 1.25, 1.5))
    return (0.2 * tones * np.exp(-4 * (time % (60 / tempo)))).astype(np.float32)
