"""Tiny real networks for tests: every class is the one that users load, at a size that runs in milliseconds."""

from __future__ import annotations

import math

import torch
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapProcessor,
    EncodecConfig,
    EncodecModel,
    HubertConfig,
    HubertModel,
    RobertaTokenizer,
)

from open_musiclm import (
    ClapQuantizer,
    ClapQuantizerConfig,
    MusicLMCoarseConfig,
    MusicLMCoarseModel,
    MusicLMFineConfig,
    MusicLMFineModel,
    MusicLMPipeline,
    MusicLMSemanticConfig,
    MusicLMSemanticModel,
    MusicLMStageConfig,
    MusicLMStageModel,
    SemanticQuantizer,
    SemanticQuantizerConfig,
    TokenStream,
)
from open_musiclm.tokenizers.clap import clap_text_embeddings
from open_musiclm.tokenizers.compatibility import acoustic_stream, clap_stream, semantic_stream

WORDS = [
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
    "drums",
    "slow",
    "bright",
    "song",
    "loud",
    "strings",
]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
STAGE_CLASSES = {
    "semantic": (MusicLMSemanticConfig, MusicLMSemanticModel),
    "coarse": (MusicLMCoarseConfig, MusicLMCoarseModel),
    "fine": (MusicLMFineConfig, MusicLMFineModel),
}


def tiny_tokenizer():
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "<mask>": 4}
    for letter in [chr(code) for code in range(33, 127)] + ["Ġ"]:
        vocabulary.setdefault(letter, len(vocabulary))
    return RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=40)


def tiny_clap(seed: int = 0, fusion: bool = False, projection_dim: int = 16) -> tuple[ClapModel, ClapProcessor]:
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    config = ClapConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 80,
            "pad_token_id": 1,
            "projection_dim": projection_dim,
        },
        audio_config={
            "window_size": 4,
            "num_mel_bins": 16,
            "spec_size": 64,
            "patch_size": 4,
            "patch_stride": [4, 4],
            "patch_embeds_hidden_size": 8,
            "hidden_size": 16,
            "depths": [1, 1],
            "num_attention_heads": [2, 2],
            "projection_dim": projection_dim,
            "num_classes": 4,
            "aff_block_r": 2,
            "enable_fusion": fusion,
        },
        projection_dim=projection_dim,
    )
    extractor = ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=8000,
        hop_length=320,
        fft_window_size=512,
        max_length_s=10,
        frequency_min=50,
        frequency_max=4000,
        truncation="fusion" if fusion else "rand_trunc",
    )
    return ClapModel(config).eval(), ClapProcessor(extractor, tokenizer)


def tiny_semantic_encoder(seed: int = 0, **sizes) -> HubertModel:
    """16 kHz, 25 frames a second, one frame lost at a crop's end; other sizes by the config's names."""
    torch.manual_seed(seed)
    usual = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "conv_dim": (8, 8, 8),
        "conv_kernel": (10, 8, 12),
        "conv_stride": (8, 8, 10),
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
    }
    return HubertModel(HubertConfig(**{**usual, **sizes})).eval()


def tiny_codec(seed: int = 0, num_codebooks: int = 5, codebook_size: int = 16) -> EncodecModel:
    """8 kHz, 50 frames a second."""
    torch.manual_seed(seed)
    config = EncodecConfig(
        sampling_rate=8000,
        upsampling_ratios=[8, 5, 4],
        num_filters=4,
        hidden_size=8,
        codebook_dim=8,
        codebook_size=codebook_size,
        num_lstm_layers=1,
        num_residual_layers=1,
        target_bandwidths=[50 * math.ceil(math.log2(codebook_size)) * num_codebooks / 1000],
    )
    codec = EncodecModel(config).eval()
    with torch.no_grad():
        for layer in codec.quantizer.layers:
            layer.codebook.embed.normal_()
    return codec


def tiny_quantizers(seed: int = 0) -> tuple[ClapQuantizer, SemanticQuantizer]:
    torch.manual_seed(seed)
    clap = ClapQuantizer(ClapQuantizerConfig(codebook_size=16, num_quantizers=3, embedding_dim=16))
    semantic = SemanticQuantizer(
        SemanticQuantizerConfig(codebook_size=20, feature_dim=16, layer=1, frame_rate=25.0, num_edge_frames=1)
    )
    return clap.eval(), semantic.eval()


def tiny_stage(stage: str, streams=None, seed: int = 0, **overrides):
    """A stage of its own when `streams` are left out: 3 × 16 CLAP, 20 semantic, 2 × 16 coarse, 3 × 16 fine."""
    config_class, model_class = STAGE_CLASSES[stage]
    torch.manual_seed(seed)
    if streams is None:
        streams = {
            "clap": {"name": "clap", "codebook_size": 16, "num_codebooks": 3},
            "semantic": {"name": "semantic", "codebook_size": 20, "frame_rate": 25.0, "num_edge_frames": 1},
            "coarse": {"name": "coarse", "codebook_size": 16, "num_codebooks": 2, "frame_rate": 50.0},
            "fine": {"name": "fine", "codebook_size": 16, "num_codebooks": 3, "frame_rate": 50.0},
        }
        names = {
            "semantic": ("clap", "semantic"),
            "coarse": ("clap", "semantic", "coarse"),
            "fine": ("clap", "coarse", "fine"),
        }
        streams = [streams[name] for name in names[stage]]
    windows = {"semantic": (4.0, 2.0), "coarse": (2.0, 1.0), "fine": (1.0, 1.0)}[stage]
    settings = {"window_in_s": windows[0], "window_stride_in_s": windows[1], **SIZES, **overrides}
    model = model_class(config_class(streams=streams, **settings)).eval()
    model.generation_config.top_k = 12  # a tenth of a tiny vocabulary would be greedy
    return model


def patterned_stage(condition: str = "parallel", predicted: str = "delay", seed: int = 0, **settings):
    """3 × 16 CLAP, 2 × 16 melody, 4 × 16 acoustic tokens."""
    torch.manual_seed(seed)
    streams = [
        TokenStream("clap", 16, 3, pattern=condition),
        TokenStream("melody", 16, 2, 10.0, pattern=condition),
        TokenStream("acoustic", 16, 4, 20.0, pattern=predicted),
    ]
    model = MusicLMStageModel(MusicLMStageConfig(streams=streams, **{**SIZES, **settings})).eval()
    model.generation_config.top_k = 12  # a tenth of a tiny vocabulary would be greedy
    return model


def inputs_of(model, batch: int = 2, frames: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Framed ids: one frame of CLAP, half as many of melody as acoustic ones."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [1 if s.frame_rate is None else round(frames * s.frame_rate / 20) for s in model.streams]
    return {
        s.argument: torch.randint(s.codebook_size, (batch, n, s.num_codebooks), generator=generator)
        for s, n in zip(model.streams, lengths, strict=True)
    }


def tiny_pipeline(seed: int = 0) -> MusicLMPipeline:
    """A whole pipeline of random weights, its codebooks recorded in its stages."""
    clap, processor = tiny_clap(seed)
    clap_quantizer, semantic_quantizer = tiny_quantizers(seed)
    # random towers give all texts nearly one embedding: quantize around what they do give, so that prompts matter
    words = clap_text_embeddings(clap, processor, WORDS)
    clap_quantizer.codebooks.data[0] = words
    clap_quantizer.codebooks.data[1:] *= (words - words.mean(0)).norm(dim=-1).mean()
    codec, encoder = tiny_codec(seed), tiny_semantic_encoder(seed)
    streams = {
        "clap": clap_stream(clap_quantizer).to_dict(),
        "semantic": semantic_stream(semantic_quantizer).to_dict(),
        "coarse": acoustic_stream(codec, "coarse", 0, 2).to_dict(),
        "fine": acoustic_stream(codec, "fine", 2, 3).to_dict(),
    }
    return MusicLMPipeline(
        clap=clap,
        clap_processor=processor,
        clap_quantizer=clap_quantizer,
        semantic_model=tiny_stage("semantic", [streams[n] for n in ("clap", "semantic")], seed),
        coarse_model=tiny_stage("coarse", [streams[n] for n in ("clap", "semantic", "coarse")], seed),
        fine_model=tiny_stage("fine", [streams[n] for n in ("clap", "coarse", "fine")], seed),
        codec=codec,
        semantic_encoder=encoder,
        semantic_quantizer=semantic_quantizer,
    )
