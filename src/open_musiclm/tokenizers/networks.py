"""From audio and text to features and codes, with the frozen transformers networks.

text, 10 s of audio ── CLAP ──→ embedding ── ClapQuantizer ──→ CLAP tokens
crop of audio ── HuBERT-like encoder, one layer ──→ features ── SemanticQuantizer ──→ semantic tokens
audio ── EnCodec ──→ coarse and fine tokens
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..models.configuration import SemanticQuantizerConfig

#: text tokens that the published CLAP reads
CLAP_TEXT_LENGTH = 77


@torch.no_grad()
def clap_text_embeddings(clap, processor, texts: Sequence[str]) -> torch.Tensor:
    """Texts → L2-normed CLAP embeddings (batch, embedding_dim).

    Every text is padded to one length, so that its embedding does not depend on what else is in the batch.
    """
    text_config = clap.config.text_config
    longest = text_config.max_position_embeddings - (text_config.pad_token_id or 0) - 1
    tokens = processor.tokenizer(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=min(CLAP_TEXT_LENGTH, longest),
        return_tensors="pt",
    ).to(clap.device)
    outputs = clap.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
    return outputs.pooler_output


@torch.no_grad()
def clap_audio_embeddings(clap, processor, windows: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Windows of mono audio (batch, samples) at CLAP's rate → L2-normed embeddings (batch, embedding_dim).

    The audio is rounded through int16, as CLAP was trained. A window is at most as long as the feature extractor's
    `max_length_s`: the extractor would crop a longer one at random.
    """
    extractor = processor.feature_extractor
    audio = np.asarray(torch.as_tensor(windows).float().cpu())
    if audio.ndim != 2 or not audio.shape[1]:
        raise ValueError(f"CLAP windows must have the shape (batch, samples), got {audio.shape}.")
    if audio.shape[1] > extractor.nb_max_samples:
        raise ValueError(
            f"A CLAP window has at most {extractor.nb_max_samples} samples "
            f"({extractor.max_length_s} s at {extractor.sampling_rate} Hz), got {audio.shape[1]}."
        )
    audio = (np.clip(audio, -1.0, 1.0) * 32767.0).astype(np.int16).astype(np.float32) / 32767.0
    features = extractor(list(audio), sampling_rate=extractor.sampling_rate, return_tensors="pt")
    outputs = clap.get_audio_features(
        input_features=features["input_features"].to(clap.device, clap.dtype),
        is_longer=features["is_longer"].to(clap.device),
    )
    return outputs.pooler_output


@torch.no_grad()
def semantic_features(encoder, config: SemanticQuantizerConfig, crops: torch.Tensor) -> torch.Tensor:
    """Crops of mono audio (batch, samples) at `config.sampling_rate` → features (batch, frames, feature_dim).

    Each crop is brought to zero mean and unit variance and cut to whole frames; the features are those of
    `hidden_states[config.layer]`, not yet normalised (the quantizer does that).
    """
    if crops.ndim != 2:
        raise ValueError(f"Crops must have the shape (batch, samples), got {tuple(crops.shape)}.")
    samples_a_frame = round(config.sampling_rate / config.frame_rate)
    num_samples = crops.shape[1] // samples_a_frame * samples_a_frame
    if num_samples < 2 * samples_a_frame:
        raise ValueError(f"A crop needs at least {2 * samples_a_frame} samples, got {crops.shape[1]}.")
    variance, mean = torch.var_mean(crops.float(), dim=-1, keepdim=True)
    crops = ((crops - mean) / torch.sqrt(variance + 1e-7))[:, :num_samples].to(encoder.device, encoder.dtype)
    # transformers' encoders return the layers' outputs from their own recorder; later layers are not needed but cheap
    return encoder(crops, output_hidden_states=True).hidden_states[config.layer]


@torch.no_grad()
def acoustic_codes(codec, audio: torch.Tensor, num_codebooks: int) -> torch.Tensor:
    """Audio (batch, channels, samples) at the codec's rate → codes (batch, frames, num_codebooks)."""
    codes = codec.encode(audio.to(codec.device, codec.dtype), bandwidth=codec_bandwidth(codec, num_codebooks))
    # (chunks, batch, codebooks, frames)
    return codes.audio_codes[0].transpose(1, 2)[..., :num_codebooks]


@torch.no_grad()
def acoustic_waveform(codec, codes: torch.Tensor) -> torch.Tensor:
    """Codes (batch, frames, codebooks) → audio (batch, channels, frames · hop)."""
    return codec.decode(codes.transpose(1, 2).unsqueeze(0), [None]).audio_values


def codec_frame_rate(codec) -> float:
    """Frames a second: the sampling rate over the product of the strides (transformers rounds its own up)."""
    return codec.config.sampling_rate / codec.config.hop_length


def codec_bandwidth(codec, num_codebooks: int) -> float:
    """The codec's smallest bandwidth, in kbit/s, that has so many codebooks."""
    if codec.config.normalize or codec.config.chunk_length_s is not None:
        raise ValueError(
            "This codec normalises or chunks its input (as EnCodec's 48 kHz model does), which the acoustic tokens "
            "cannot carry; use one like `facebook/encodec_24khz`."
        )
    for bandwidth in sorted(codec.config.target_bandwidths):
        if codec.quantizer.get_num_quantizers_for_bandwidth(bandwidth) >= num_codebooks:
            return bandwidth
    raise ValueError(
        f"The codec has no bandwidth with {num_codebooks} codebooks (it has {codec.config.target_bandwidths} kbit/s)."
    )
