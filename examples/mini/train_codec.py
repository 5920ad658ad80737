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
from measure_codec import report_codec
from recipe import Recipe
from spectral_loss import SpectralLoss
from training_loop import pick_device, train
from transformers import EncodecConfig, EncodecModel

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
    report_codec(codec.eval(), Corpus(corpus_folder, "heldout", device).waveforms(slice(64)))
    codec.save_pretrained(output)
