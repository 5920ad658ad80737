"""The semantic encoder: crops of audio → features of one of its layers.

crop of audio ── HuBERT-like encoder, one layer ──→ features ── SemanticQuantizer ──→ semantic tokens
"""

from __future__ import annotations

import torch

from ..models.configuration import SemanticQuantizerConfig


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
