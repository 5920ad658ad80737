"""Train the codec on spectra: an encoder, a residual vector quantizer and a decoder of log magnitudes, all at once.

Codebooks are moving averages of what they are asked for (van den Oord et al. 2017, appendix), entries that nobody asks
for start again at a vector of the batch, and the number of codebooks in use is drawn for half of the crops, so that the
first ones alone make sense (Zeghidour et al. 2021). Nothing here knows of phases; those are found, not learnt.
"""

from __future__ import annotations

from pathlib import Path

import torch
from corpus import Corpus
from recipe import Recipe
from torch import nn
from torch.nn import functional as F
from training_loop import autocast, pick_device, train
from transformers.audio_utils import mel_filter_bank

from open_musiclm import SpectralCodecConfig, SpectralCodecModel
from open_musiclm.models.spectral_codec import FLOOR

MOVING_AVERAGE = 0.98
COMMITMENT = 0.25
NUM_BANDS = 64
BAND_SPECTRA = 8  # 0.16 s, over which a band's power is averaged
RELATIVE_FLOOR = 0.003  # of a crop's root mean square magnitude: what lies below is not heard beside the rest


def make_codec(recipe: Recipe) -> SpectralCodecModel:
    return SpectralCodecModel(
        SpectralCodecConfig(
            sampling_rate=recipe.sampling_rate,
            hidden_size=recipe.codec_hidden_size,
            codebook_size=recipe.codec_codebook_size,
            num_codebooks=recipe.codec_num_codebooks,
        )
    )


def keep_codebooks(codec: SpectralCodecModel, num_codebooks: int) -> SpectralCodecModel:
    """The same codec with its first codebooks alone."""
    fewer = SpectralCodecModel(SpectralCodecConfig(**{**codec.config.to_dict(), "num_codebooks": num_codebooks}))
    known = fewer.state_dict()
    fewer.load_state_dict({name: value for name, value in codec.state_dict().items() if name in known})
    return fewer.eval()


class CodecTrainer(nn.Module):
    """The codec with the moving averages of its codebooks."""

    def __init__(self, codec: SpectralCodecModel):
        super().__init__()
        self.codec = codec
        config = codec.config
        shape = (config.num_codebooks, config.codebook_size, config.codebook_dim)
        self.register_buffer("sums", torch.zeros(shape))
        self.register_buffer("counts", torch.zeros(shape[:2]))
        bins = torch.arange(config.fft_size // 2 + 1) * config.sampling_rate / config.fft_size
        weights = 1 / (1 + bins / 2000)
        self.register_buffer("weights", (weights / weights.mean())[:, None], persistent=False)
        bank = mel_filter_bank(len(bins), NUM_BANDS, 0.0, config.sampling_rate / 2, config.sampling_rate, norm=None)
        bank = torch.tensor(bank / bank.sum(axis=0, keepdims=True).clip(min=1e-6), dtype=torch.float32)
        self.register_buffer("bank", bank, persistent=False)

    @torch.no_grad()
    def _update(self, layer: int, vectors: torch.Tensor, codes: torch.Tensor, generator: torch.Generator) -> None:
        entries = self.codec.quantizer.layers[layer].codebook.embed
        used = torch.bincount(codes, minlength=len(entries)).float()
        added = torch.zeros_like(entries).index_add_(0, codes, vectors)
        self.counts[layer].mul_(MOVING_AVERAGE).add_(used, alpha=1 - MOVING_AVERAGE)
        self.sums[layer].mul_(MOVING_AVERAGE).add_(added, alpha=1 - MOVING_AVERAGE)
        dead = self.counts[layer] < 0.02
        if dead.any():
            drawn = torch.randint(len(vectors), (int(dead.sum()),), generator=generator).to(vectors.device)
            self.sums[layer, dead], self.counts[layer, dead] = vectors[drawn] * 0.2, 0.2
        entries.copy_(self.sums[layer] / self.counts[layer, :, None])

    def quantize(self, latents: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, dim, frames) → what the decoder gets, and the commitment loss."""
        config = self.codec.config
        vectors = latents.transpose(1, 2).float()
        depths = torch.randint(1, config.num_codebooks + 1, (len(vectors),), generator=generator)
        depths[torch.rand(len(vectors), generator=generator) < 0.5] = config.num_codebooks
        depths = depths.to(vectors.device)[:, None, None]
        residual, total = vectors.detach(), torch.zeros_like(vectors)
        commitment = vectors.new_zeros(())
        for i, layer in enumerate(self.codec.quantizer.layers):
            codes = layer.codebook.encode(residual)
            entries = layer.codebook.embed[codes]
            if self.training:
                self._update(i, residual.flatten(0, 1), codes.flatten(), generator)
            total = total + torch.where(depths > i, entries, 0.0)
            residual = residual - entries
        commitment = F.mse_loss(vectors, total)
        return (vectors + (total - vectors).detach()).transpose(1, 2), commitment

    def losses(self, crops: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        true = self.codec.magnitudes(crops)
        with autocast(crops.device):
            latents = self.codec.encoder(torch.log(true + FLOOR))
        quantized, commitment = self.quantize(latents, generator)
        with autocast(crops.device):
            logs = self.codec.decoder(quantized)
        ours = (torch.exp(logs.float().clamp(max=7.5)) - FLOOR).clamp(min=0)
        floor = FLOOR + RELATIVE_FLOOR * true.pow(2).mean(dim=(1, 2), keepdim=True).sqrt()
        log_error = ((torch.log(ours + floor) - torch.log(true + floor)).abs() * self.weights).mean()
        roots = (true + floor).sqrt()
        root_error = (((ours + floor).sqrt() - roots).abs().mean(dim=(1, 2)) / roots.mean(dim=(1, 2))).mean()
        band_error = (self.band_levels(ours, floor) - self.band_levels(true, floor)).abs().mean()
        loss = log_error + 2 * root_error + band_error + COMMITMENT * commitment
        errors = {"log_error": log_error, "root_error": root_error, "band_error": band_error}
        return {"loss": loss, **errors, "commitment": commitment}

    def band_levels(self, magnitudes: torch.Tensor, floor: torch.Tensor) -> torch.Tensor:
        """Log power of bands over some time. The errors of single bins are least at the median of what noise does, which
        is softer than noise; power is not."""
        power = F.avg_pool1d((magnitudes + floor).square(), BAND_SPECTRA)
        return torch.einsum("cbt,bm->cmt", power, self.bank).log() / 2


def draw_crops(corpus: Corpus, num_crops: int, num_frames: int, hop: int, generator: torch.Generator) -> torch.Tensor:
    """float32 (num_crops, num_frames · hop): nine of ten begin on the grid of frames, as notes do."""
    clips = torch.randint(len(corpus), (num_crops,), generator=generator)
    size = num_frames * hop
    starts = torch.randint(corpus.audio.shape[1] // hop - num_frames, (num_crops,), generator=generator) * hop
    off_grid = torch.rand(num_crops, generator=generator) < 0.1
    starts += off_grid * torch.randint(hop, (num_crops,), generator=generator)
    device = corpus.audio.device
    columns = starts.to(device)[:, None] + torch.arange(size, device=device)
    return corpus.audio[clips.to(device)[:, None], columns].float() / 32767


def train_codec(corpus_folder: Path, work: Path, output: Path, recipe: Recipe) -> None:
    device = pick_device()
    corpus = Corpus(corpus_folder, "train", device)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        trainer = CodecTrainer(make_codec(recipe)).to(device)
    hop, num_frames = trainer.codec.config.hop_length, round(recipe.codec_crop_in_s * recipe.frame_rate)

    def compute_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        crops = draw_crops(corpus, recipe.codec.batch_size, num_frames, hop, generator)
        return trainer.losses(crops, generator)

    train(
        "codec",
        trainer,
        compute_loss,
        last_step=recipe.codec.num_steps,
        num_schedule_steps=recipe.codec.num_steps,
        learning_rate=recipe.codec.learning_rate,
        checkpoint_path=work / "codec.pt",
        seed=recipe.seed + 4,
    )
    keep_codebooks(trainer.codec.cpu(), recipe.num_coarse + recipe.num_fine).save_pretrained(output)
