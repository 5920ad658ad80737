"""How near the codec comes to held-out clips:

    python examples/mini/measure_codec.py [--model FOLDER] [--num-clips 64]

The model is a pipeline's folder (default: the one in the box); the clips are rendered. What it prints is explained by
`codec_figures`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from recipe import Recipe
from render import make_clip
from spectral_loss import SpectralLoss, magnitudes
from transformers import EncodecModel

from open_musiclm import mini_checkpoint
from open_musiclm.tokenizers.networks import acoustic_codes, acoustic_waveform


@torch.no_grad()
def codec_figures(codec: EncodecModel, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Encode and decode clips (clips, samples), and compare. A value for each clip:

    - SI-SDR: how much louder than the rest of what came out is its share of the clip
    - log-mel error: the spectral loss that the codec is first trained with
    - log-spectral distance: mean difference of 4096-point spectra, of what lies above -60 dB of the clip's level
    - lines: how far bins at the codec's own periods (multiples of its frame rate, and of the rate after its first
      upsampling) stick out of those around them, over what they do in the clip; that is its buzz
    - above 2 kHz: how much louder or softer than in the clip
    """
    codes = acoustic_codes(codec, target[:, None], len(codec.quantizer.layers))
    decoded = acoustic_waveform(codec, codes)[:, 0]
    if decoded.shape != target.shape:
        raise ValueError(f"decoded audio is {tuple(decoded.shape)}, but the input was {tuple(target.shape)}")
    scaled = (decoded * target).sum(1, keepdim=True) / target.pow(2).sum(1, keepdim=True) * target
    criterion = SpectralLoss(codec.config.sampling_rate).to(target.device)
    level = target.pow(2).mean(dim=1, keepdim=True).sqrt()
    window = torch.hann_window(4096, device=target.device)
    logs = [20 * torch.log10(magnitudes(x / level, window) + 1e-3) for x in (decoded, target)]
    rate = codec.config.sampling_rate
    frame_rate = rate // codec.config.hop_length
    first_rate = frame_rate * codec.config.upsampling_ratios[0]
    ours, true = mean_spectrum(decoded, rate), mean_spectrum(target, rate)
    high = [10 * torch.log10(spectrum[:, 2000:].sum(1)) for spectrum in (ours, true)]
    return {
        "SI-SDR in dB": 10 * torch.log10(scaled.pow(2).sum(1) / (decoded - scaled).pow(2).sum(1)),
        "log-mel error": torch.stack(
            [criterion(*pair)[0] for pair in zip(decoded[:, None], target[:, None], strict=True)]
        ),
        "log-spectral distance in dB": (logs[0] - logs[1]).abs().mean(dim=(1, 2)),
        f"lines at {first_rate} Hz in dB": line_height(ours, first_rate) - line_height(true, first_rate),
        f"lines at {frame_rate} Hz in dB": line_height(ours, frame_rate) - line_height(true, frame_rate),
        "above 2 kHz in dB": high[0] - high[1],
    }


def mean_spectrum(waveforms: torch.Tensor, sampling_rate: int) -> torch.Tensor:
    """(clips, samples) → mean power (clips, bins) of windows of a second: a bin a hertz."""
    window = torch.hann_window(sampling_rate, device=waveforms.device)
    stft = torch.stft(waveforms, sampling_rate, sampling_rate // 2, window=window, center=False, return_complex=True)
    return stft.abs().pow(2).mean(dim=2) + 1e-9


def line_height(spectrum: torch.Tensor, spacing: int, highest: int = 10_000) -> torch.Tensor:
    """(clips, bins of a hertz) → how many dB bins at multiples of `spacing` are over those around, mean over them."""
    heights = []
    for line in range(spacing, highest + 1, spacing):
        near = torch.cat([spectrum[:, line - 20 : line - 5], spectrum[:, line + 6 : line + 21]], dim=1)
        heights.append(10 * torch.log10(spectrum[:, line] / near.median(dim=1).values))
    return torch.stack(heights).mean(dim=0)


def report_codec(codec: EncodecModel, target: torch.Tensor) -> None:
    """Print the mean of each figure over clips (clips, samples)."""
    parts = [codec_figures(codec, some) for some in target.split(8)]
    print(f"codec, {len(target)} held-out clips:")
    for name in parts[0]:
        print(f"  {name}: {torch.cat([part[name] for part in parts]).mean():.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(mini_checkpoint()))
    parser.add_argument("--num-clips", type=int, default=64)
    arguments = parser.parse_args()
    recipe = Recipe()
    codec = EncodecModel.from_pretrained(arguments.model / "codec", dtype=torch.float32).eval()
    clips = [
        make_clip(index, "heldout", recipe.seed, recipe.clip_length_in_s, recipe.sampling_rate)[0]
        for index in range(arguments.num_clips)
    ]
    report_codec(codec, torch.from_numpy(np.stack(clips)).float() / 32767)


if __name__ == "__main__":
    main()
