"""Train a small EnCodec: 24 kHz, mono, 50 frames a second, first without the quantizer, then with it.

transformers' EncodecModel has no training code for its quantizer. So: train encoder and decoder as an autoencoder; fit
residual k-means to the latents; train on with quantized latents, straight-through to the encoder, a commitment loss,
and codebooks that follow as moving averages (van den Oord et al. 2017, appendix A.1; Défossez et al. 2022).
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from clustering import fit_residual_kmeans, nearest
from corpus import Corpus
from recipe import Recipe
from torch.nn import functional as F
from training_loop import pick_device, train
from transformers import EncodecConfig, EncodecModel
from transformers.audio_utils import mel_filter_bank

COMMITMENT_WEIGHT = 0.2
CODEBOOK_DECAY = 0.98
DEAD_BELOW = 0.05  # a codeword that on average wins fewer frames of a batch than this restarts at a frame


def make_codec(recipe: Recipe) -> EncodecModel:
    """An EncodecModel with exactly `num_coarse + num_fine` codebooks."""
    num_codebooks = recipe.num_coarse + recipe.num_fine
    ratios = [5, 4, 4, 6]
    frame_rate = recipe.sampling_rate // math.prod(ratios)
    config = EncodecConfig(
        target_bandwidths=[frame_rate * math.log2(recipe.codec_codebook_size) * num_codebooks / 1000],
        sampling_rate=recipe.sampling_rate,
        hidden_size=64,
        num_filters=recipe.num_filters,
        upsampling_ratios=ratios,
        use_causal_conv=False,
        num_lstm_layers=1,
        codebook_size=recipe.codec_codebook_size,
    )
    codec = EncodecModel(config)
    if len(codec.quantizer.layers) != num_codebooks:
        raise ValueError(f"the codec has {len(codec.quantizer.layers)} codebooks, but {num_codebooks} are needed")
    return codec


class SpectralLoss(torch.nn.Module):
    """Mean L1 of log-mel spectrograms at several resolutions, plus L1 of the waveform over its own level."""

    def __init__(
        self, sampling_rate: int, resolutions: tuple[tuple[int, int], ...] = ((2048, 96), (512, 48), (128, 16))
    ):
        super().__init__()
        self.sizes = [size for size, _ in resolutions]
        for size, num_mels in resolutions:
            bank = mel_filter_bank(size // 2 + 1, num_mels, 0.0, sampling_rate / 2, sampling_rate, norm=None)
            self.register_buffer(f"bank_{size}", torch.tensor(bank, dtype=torch.float32))
            self.register_buffer(f"window_{size}", torch.hann_window(size))

    def forward(self, decoded: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, samples) twice → the spectral and the waveform term."""
        level = target.pow(2).mean(dim=1, keepdim=True).sqrt() + 0.01
        decoded, target = decoded / level, target / level
        spectral = decoded.new_zeros(())
        for size in self.sizes:
            ours, true = self._log_mel(decoded, size), self._log_mel(target, size)
            spectral = spectral + (ours - true).abs().mean() / len(self.sizes)
        return spectral, (decoded - target).abs().mean()

    def _log_mel(self, waveforms: torch.Tensor, size: int) -> torch.Tensor:
        window = getattr(self, f"window_{size}")
        stft = torch.stft(waveforms, size, size // 4, window=window, return_complex=True)
        magnitude = (stft.real.pow(2) + stft.imag.pow(2) + 1e-9).sqrt() / (0.4 * size**0.5)
        return torch.log(torch.einsum("bft,fm->btm", magnitude, getattr(self, f"bank_{size}")) + 1e-2)


@torch.no_grad()
def fit_quantizer(codec: EncodecModel, corpus: Corpus, recipe: Recipe) -> None:
    """Residual k-means on latents of random pieces, into the codec's own buffers."""
    generator = torch.Generator().manual_seed(recipe.seed + 4)
    frames = []
    for _ in range(64):
        crops = corpus.crops(16, recipe.sampling_rate, generator)
        frames.append(codec.encoder(crops[:, None]).transpose(1, 2).flatten(0, 1))
    codebooks = fit_residual_kmeans(
        torch.cat(frames), len(codec.quantizer.layers), recipe.codec_codebook_size, generator
    )
    for layer, codebook in zip(codec.quantizer.layers, codebooks, strict=True):
        layer.codebook.embed.copy_(codebook)
        layer.codebook.cluster_size.fill_(1.0)
        layer.codebook.embed_avg.copy_(codebook)


@torch.no_grad()
def quantize_and_follow(codec: EncodecModel, latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Quantize (batch, dim, frames), and let the codebooks drift towards what they were given. Returns the same shape."""
    points = latents.transpose(1, 2).flatten(0, 1)
    residual = points
    for layer in codec.quantizer.layers:
        book = layer.codebook
        winners = nearest(residual, book.embed)
        counts = torch.bincount(winners, minlength=len(book.embed)).float()
        sums = torch.zeros_like(book.embed).index_add_(0, winners, residual)
        book.cluster_size.lerp_(counts, 1 - CODEBOOK_DECAY)
        book.embed_avg.lerp_(sums, 1 - CODEBOOK_DECAY)
        chosen = book.embed[winners]
        others = residual[torch.randint(len(residual), (len(book.embed),), generator=generator).to(residual.device)]
        dead = book.cluster_size < DEAD_BELOW
        book.cluster_size.masked_fill_(dead, 1.0)
        book.embed_avg.copy_(torch.where(dead[:, None], others, book.embed_avg))
        book.embed.copy_(book.embed_avg / book.cluster_size[:, None])
        residual = residual - chosen
    quantized = (points - residual).unflatten(0, (latents.shape[0], latents.shape[2]))
    return quantized.transpose(1, 2)


def train_codec(corpus_folder: Path, work: Path, output: Path, recipe: Recipe) -> None:
    device = pick_device()
    corpus = Corpus(corpus_folder, "train", device)
    criterion = SpectralLoss(recipe.sampling_rate).to(device)
    num_samples = round(recipe.codec_crop_in_s * recipe.sampling_rate)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        codec = make_codec(recipe).to(device)

    def compute_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        num_clips = recipe.codec_first_clips if step < recipe.codec_first_steps else None
        target = corpus.crops(recipe.codec.batch_size, num_samples, generator, num_clips)
        latents = codec.encoder(target[:, None])
        commitment = latents.new_zeros(())
        if step >= recipe.codec_warm_steps:
            quantized = quantize_and_follow(codec, latents.detach(), generator)
            commitment = (latents - quantized).pow(2).mean() / latents.detach().var()
            latents = latents + (quantized - latents).detach()
        spectral, wave = criterion(codec.decoder(latents)[:, 0], target)
        loss = spectral + 2 * wave + COMMITMENT_WEIGHT * commitment
        return {"loss": loss, "spectral": spectral, "wave": wave, "commitment": commitment}

    phases = ((0, recipe.codec_warm_steps, "autoencoder"), (recipe.codec_warm_steps, recipe.codec.num_steps, "codec"))
    for first_step, last_step, name in phases:
        checkpoint_path = work / f"codec-{name}.pt"
        if name == "codec" and not checkpoint_path.exists():
            fit_quantizer(codec.eval(), corpus, recipe)
        train(
            name,
            codec,
            compute_loss,
            first_step=first_step,
            last_step=last_step,
            num_schedule_steps=recipe.codec.num_steps,
            learning_rate=recipe.codec.learning_rate,
            checkpoint_path=checkpoint_path,
            seed=recipe.seed + 5,
            betas=(0.8, 0.99),
        )
    report_quality(codec.eval(), Corpus(corpus_folder, "heldout", device), criterion)
    codec.save_pretrained(output)


@torch.no_grad()
def report_quality(codec: EncodecModel, corpus: Corpus, criterion: SpectralLoss) -> None:
    """Print how near decoded held-out clips come: SI-SDR in dB, and the spectral loss."""
    ratios, spectral = [], []
    for clips in torch.arange(min(len(corpus), 64)).split(8):
        target = corpus.waveforms(clips.to(corpus.audio.device))
        codes = codec.encode(target[:, None], bandwidth=codec.config.target_bandwidths[-1]).audio_codes
        decoded = codec.decode(codes, [None]).audio_values[:, 0]
        if decoded.shape != target.shape:
            raise ValueError(f"decoded audio is {tuple(decoded.shape)}, but the input was {tuple(target.shape)}")
        scaled = (decoded * target).sum(1, keepdim=True) / target.pow(2).sum(1, keepdim=True) * target
        error = (decoded - scaled).pow(2).sum(1)
        ratios.append(10 * torch.log10(scaled.pow(2).sum(1) / error))
        spectral.append(criterion(decoded, target)[0])
    values = torch.cat(ratios)
    print(
        f"codec, {len(values)} held-out clips: SI-SDR {values.mean():.1f} dB (median {values.median():.1f}); "
        f"log-mel error {F.relu(torch.stack(spectral)).mean():.3f}"
    )
