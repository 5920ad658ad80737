"""Train a small HuBERT whose hidden frames say what sounds: masked prediction of two vocabularies of k-means units.

As in HuBERT (Hsu et al. 2021) the targets are clusters of simple features; here one vocabulary is of chroma (which
notes) and one of log-mel bands with their rise (which timbre, which strokes). The first convolution starts as a bank
of windowed sinusoids at semitones, which a short training would not find by itself.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from clustering import fit_kmeans, nearest
from corpus import Corpus
from recipe import Recipe
from torch import nn
from torch.nn import functional as F
from training_loop import pick_device, train
from transformers import HubertConfig, HubertModel

FILTER_LENGTH = 800  # samples at 16 kHz: 50 ms
FILTER_STRIDE = 160
NUM_SEMITONES, LOWEST_PITCH_IN_HZ = 76, 55.0
AIR_BANDS_IN_HZ = (4400.0, 4800.0, 5200.0, 5700.0, 6200.0, 6700.0, 7200.0, 7700.0)
NUM_PHASES = 3
CROP_IN_FRAMES = 100


def make_semantic_encoder(recipe: Recipe, num_layers: int) -> HubertModel:
    """A HuBERT of one frame in 640 samples (25 Hz, n · 640 samples give n - 1) and about 0.9 M parameters."""
    config = HubertConfig(
        hidden_size=144,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        intermediate_size=384,
        conv_dim=[(NUM_SEMITONES + len(AIR_BANDS_IN_HZ)) * NUM_PHASES, 144],
        conv_kernel=[FILTER_LENGTH, recipe.semantic_hop // FILTER_STRIDE],
        conv_stride=[FILTER_STRIDE, recipe.semantic_hop // FILTER_STRIDE],
        conv_bias=True,
        feat_extract_norm="layer",
        num_conv_pos_embeddings=24,
        num_conv_pos_embedding_groups=12,
        layerdrop=0.0,  # nothing here may draw from the global random state
        **dict.fromkeys(("hidden_dropout", "activation_dropout", "attention_dropout", "final_dropout"), 0.0),
    )
    encoder = HubertModel(config)
    start_as_filter_bank(encoder, recipe.semantic_sampling_rate)
    return encoder


@torch.no_grad()
def start_as_filter_bank(encoder: HubertModel, sampling_rate: int) -> None:
    """Set the first convolution to Hann-windowed cosines, three phases of each frequency."""
    semitones = LOWEST_PITCH_IN_HZ * 2 ** (torch.arange(NUM_SEMITONES) / 12)
    frequencies = torch.cat([semitones, torch.tensor(AIR_BANDS_IN_HZ)])
    times = torch.arange(FILTER_LENGTH) / sampling_rate
    phases = torch.arange(NUM_PHASES) * 2 * math.pi / NUM_PHASES
    waves = torch.cos(2 * math.pi * frequencies[:, None, None] * times + phases[:, None])
    window = torch.hann_window(FILTER_LENGTH)
    convolution = encoder.feature_extractor.conv_layers[0].conv
    convolution.weight.copy_((waves * window / window.sum()).reshape(-1, 1, FILTER_LENGTH))
    convolution.bias.zero_()


def resample_to_semantic_rate(waveforms: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Band-limited resampling of whole clips, (batch, samples) to (batch, samples at 16 kHz), by cutting the spectrum."""
    num_samples = waveforms.shape[1] * recipe.semantic_sampling_rate // recipe.sampling_rate
    spectrum = torch.fft.rfft(waveforms)[:, : num_samples // 2 + 1]
    return torch.fft.irfft(spectrum, n=num_samples) * (num_samples / waveforms.shape[1])


def normalise_waveform(waveforms: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit variance for each of (batch, samples), as `open_musiclm.tokenizers.networks` has it."""
    variance, mean = torch.var_mean(waveforms, dim=1, keepdim=True)
    return (waveforms - mean) / torch.sqrt(variance + 1e-7)


def unit_features(waveforms: torch.Tensor, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """Chroma (batch, frames, 12), and log-mel bands with their rise (batch, frames, 48), of 16 kHz audio."""
    hop, size = recipe.semantic_hop, 2048
    window = torch.hann_window(size, device=waveforms.device)
    padded = F.pad(waveforms, (size // 2, size // 2 - hop))
    power = torch.stft(padded, size, hop, window=window, center=False, return_complex=True).abs().pow(2)
    frequencies = torch.arange(size // 2 + 1, device=waveforms.device) * recipe.semantic_sampling_rate / size
    pitch = 12 * torch.log2(frequencies.clamp(min=1) / LOWEST_PITCH_IN_HZ)
    sounding = (frequencies > 60) & (frequencies < 2500)
    classes = torch.arange(12, device=waveforms.device)
    distance = (pitch[None] - classes[:, None] + 6).remainder(12) - 6
    chroma = torch.einsum("bft,cf->btc", power.sqrt(), torch.exp(-4 * distance**2) * sounding)
    chroma = F.normalize(chroma, dim=-1)
    edges = torch.linspace(math.log(60), math.log(7800), 26, device=waveforms.device)
    position = (torch.log(frequencies.clamp(min=1)) - edges[0]) / (edges[1] - edges[0])
    triangles = (1 - (position[None] - torch.arange(1, 25, device=waveforms.device)[:, None]).abs()).clamp(min=0)
    bands = torch.log(torch.einsum("bft,mf->btm", power, triangles) + 1e-3)
    rise = F.pad(bands[:, 1:] - bands[:, :-1], (0, 0, 1, 0)).clamp(min=0)
    return chroma, torch.cat([bands, rise], dim=-1)


class MaskedUnitPredictor(nn.Module):
    """The encoder and, for training only, one linear head a vocabulary of units."""

    def __init__(self, encoder: HubertModel, num_units: int):
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleList([nn.Linear(encoder.config.hidden_size, num_units) for _ in range(2)])

    def forward(self, waveforms: torch.Tensor, masked: torch.Tensor) -> list[torch.Tensor]:
        hidden = self.encoder(waveforms, mask_time_indices=masked).last_hidden_state
        return [head(hidden) for head in self.heads]


def draw_spans(num_rows: int, num_frames: int, generator: torch.Generator, length: int = 6, share: float = 0.07):
    """bool (rows, frames): spans of `length` frames begin at a random `share` of the frames."""
    starts = torch.rand(num_rows, num_frames, generator=generator) < share
    return F.max_pool1d(F.pad(starts.float(), (length - 1, 0)), length, stride=1) > 0


def prepare(corpus: Corpus, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """int16 (clips, samples at 16 kHz) and unit ids uint8 (clips, frames, 2), on the corpus's device."""
    audio, chromas, timbres = [], [], []
    for clips in torch.arange(len(corpus)).split(50):
        waveforms = resample_to_semantic_rate(corpus.waveforms(clips.to(corpus.audio.device)), recipe)
        audio.append((waveforms.clamp(-1, 1) * 32767).round().to(torch.int16))
        chroma, timbre = unit_features(normalise_waveform(waveforms), recipe)
        chromas.append(chroma)
        timbres.append(timbre)
    units = []
    generator = torch.Generator().manual_seed(recipe.seed + 2)
    for features in (torch.cat(chromas), torch.cat(timbres)):
        frames = features.flatten(0, 1)
        frames = (frames - frames.mean(dim=0)) / frames.std()
        sample = frames[torch.randperm(len(frames), generator=generator)[:100_000].to(frames.device)]
        centroids = fit_kmeans(sample, recipe.num_units, generator)
        units.append(nearest(frames, centroids).view(features.shape[:2]).to(torch.uint8))
    return torch.cat(audio), torch.stack(units, dim=-1)


def train_semantic_encoder(corpus_folder: Path, work: Path, output: Path, recipe: Recipe) -> None:
    device = pick_device()
    audio, units = prepare(Corpus(corpus_folder, "train", device), recipe)
    hop = recipe.semantic_hop
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        encoder = make_semantic_encoder(recipe, num_layers=recipe.semantic_layer + 1)
        predictor = MaskedUnitPredictor(encoder, recipe.num_units).to(device)

    def compute_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows = torch.randint(len(audio), (recipe.semantic.batch_size,), generator=generator)
        starts = torch.randint(units.shape[1] - CROP_IN_FRAMES, rows.shape, generator=generator)
        masked = draw_spans(len(rows), CROP_IN_FRAMES, generator).to(device)
        rows, starts = rows.to(device), starts.to(device)
        frames = starts[:, None] + torch.arange(CROP_IN_FRAMES, device=device)
        # one frame's samples more than the frames are, for the encoder loses one at the end of a crop
        samples = starts[:, None] * hop + torch.arange((CROP_IN_FRAMES + 1) * hop, device=device)
        waveforms = normalise_waveform(audio[rows[:, None], samples].float() / 32767)
        targets = units[rows[:, None], frames].long()
        logits = predictor(waveforms, masked)
        losses = [F.cross_entropy(out.flatten(0, 1), targets[..., i].flatten()) for i, out in enumerate(logits)]
        right = [(out.argmax(-1) == targets[..., i])[~masked].float().mean() for i, out in enumerate(logits)]
        return {"loss": sum(losses), "notes_right": right[0], "timbre_right": right[1]}  # type: ignore[dict-item]

    train(
        "semantic encoder",
        predictor,
        compute_loss,
        last_step=recipe.semantic.num_steps,
        num_schedule_steps=recipe.semantic.num_steps,
        learning_rate=recipe.semantic.learning_rate,
        checkpoint_path=work / "semantic-encoder.pt",
        seed=recipe.seed + 3,
    )
    # The layers above the one whose features become tokens served the training only.
    trimmed = make_semantic_encoder(recipe, num_layers=recipe.semantic_layer)
    trimmed.load_state_dict(
        {k: v.cpu() for k, v in encoder.state_dict().items() if f"encoder.layers.{recipe.semantic_layer}." not in k}
    )
    trimmed.save_pretrained(output)
