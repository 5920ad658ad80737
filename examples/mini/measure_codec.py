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
from judges.sound import line_height, mean_spectrum
from recipe import Recipe
from render import make_clip
from transformers.audio_utils import mel_filter_bank

from open_musiclm import SpectralCodecModel, mini_checkpoint
from open_musiclm.tokenizers.codec import Codec, as_codec


@torch.no_grad()
def codec_figures(codec: Codec, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Encode and decode clips (clips, samples), and compare. A value for each clip:

    - log-mel error: mean difference of 96 log-mel bands, in nats, of what lies above -60 dB of the clip's level
    - log-spectral distance: mean difference of 4096-point spectra, above the same floor
    - lines: how far bins at the codec's own periods (multiples of its frame rate, and of its spectra's) stick out of those
      around them, over what they do in the clip; that is its buzz
    - above 2 kHz: how much louder or softer than in the clip

    Phases are not compared: the codec keeps none.
    """
    decoded = codec.decode(codec.encode(target[:, None]))[:, 0]
    if decoded.shape != target.shape:
        raise ValueError(f"decoded audio is {tuple(decoded.shape)}, but the input was {tuple(target.shape)}")
    rate = codec.sampling_rate
    level = target.pow(2).mean(dim=1, keepdim=True).sqrt()
    both = [x / level for x in (decoded, target)]
    spectra = [20 * torch.log10(magnitudes(x, 4096) + 1e-3) for x in both]
    bank = torch.tensor(mel_filter_bank(1025, 96, 0.0, rate / 2, rate, norm=None), dtype=torch.float32)
    mels = [torch.log(torch.einsum("bft,fm->bmt", magnitudes(x, 2048), bank) + 1e-3) for x in both]
    frame_rate = round(codec.frame_rate)
    pairs = [
        (mean_spectrum(ours.numpy(), rate), mean_spectrum(true.numpy(), rate))
        for ours, true in zip(decoded, target, strict=True)
    ]
    lines = {
        f"lines at {spacing} Hz in dB": torch.tensor(
            [line_height(ours, spacing) - line_height(true, spacing) for ours, true in pairs]
        )
        for spacing in (frame_rate, 2 * frame_rate, 250)
    }
    high = torch.tensor([10 * np.log10(ours[2000:].sum() / true[2000:].sum()) for ours, true in pairs])
    return {
        "log-mel error": (mels[0] - mels[1]).abs().mean(dim=(1, 2)),
        "log-spectral distance in dB": (spectra[0] - spectra[1]).abs().mean(dim=(1, 2)),
        **lines,
        "above 2 kHz in dB": high,
    }


def magnitudes(waveforms: torch.Tensor, size: int) -> torch.Tensor:
    """(batch, samples) → (batch, bins, frames), about 1 in every bin for white noise of level 1."""
    window = torch.hann_window(size)
    return torch.stft(waveforms, size, size // 4, window=window, return_complex=True).abs() / (0.4 * size**0.5)


def report_codec(codec: Codec, target: torch.Tensor) -> None:
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
    codec = as_codec(SpectralCodecModel.from_pretrained(arguments.model / "codec", dtype=torch.float32).eval())
    clips = [
        make_clip(index, "heldout", recipe.seed, recipe.clip_length_in_s, recipe.sampling_rate)[0]
        for index in range(arguments.num_clips)
    ]
    report_codec(codec, torch.from_numpy(np.stack(clips)).float() / 32767)


if __name__ == "__main__":
    main()
