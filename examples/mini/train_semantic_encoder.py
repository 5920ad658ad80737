"""Train a small HuBERT that hears notes: its frames lie near the prototype of what the score says sounds in them.

A frame's features come in three groups, of which each has prototypes of its own: what is struck and which instrument
leads; the chord and the bass; the tune. A prototype is a sum of embeddings, one of each of the group's factors (chord 7,
begun now), and the loss is the cross-entropy of the nearest one. The prototypes become the codebooks of the
SemanticQuantizer: its tokens are a transcription. The first convolution starts as a bank of windowed sinusoids at
semitones, which a short training would not find by itself.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from compose import DRUMS, INSTRUMENTS, VOWELS
from corpus import Corpus
from recipe import Recipe
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from training_loop import pick_device, train
from transformers import HubertConfig, HubertModel

FILTER_LENGTH = 960  # samples at 16 kHz: 60 ms
FILTER_STRIDE = 320
NUM_SEMITONES, LOWEST_PITCH_IN_HZ = 84, 49.0
AIR_BANDS_IN_HZ = (4400.0, 4800.0, 5200.0, 5700.0, 6200.0, 6700.0, 7200.0, 7700.0)
NUM_PHASES = 3
CROP_IN_FRAMES = 125
LOWEST_LEAD, HIGHEST_LEAD = 32, 88
# factors of each group of features: name and number of values
FACTORS = {
    "rhythm": {"sound": len(INSTRUMENTS) - 1 + len(VOWELS), "stroke": 15},
    "harmony": {"chord": 25, "begun": 4},
    "tune": {"pitch": HIGHEST_LEAD - LOWEST_LEAD + 2, "begun": 2},
}


def make_semantic_encoder(recipe: Recipe) -> HubertModel:
    """A HuBERT of one frame in 640 samples: 25 Hz, n · 640 samples give n - 1."""
    config = HubertConfig(
        hidden_size=192,
        num_hidden_layers=recipe.semantic_layer,
        num_attention_heads=4,
        intermediate_size=512,
        conv_dim=[(NUM_SEMITONES + len(AIR_BANDS_IN_HZ)) * NUM_PHASES, 192],
        conv_kernel=[FILTER_LENGTH, recipe.semantic_hop // FILTER_STRIDE],
        conv_stride=[FILTER_STRIDE, recipe.semantic_hop // FILTER_STRIDE],
        conv_bias=True,
        feat_extract_norm="layer",
        num_conv_pos_embeddings=16,
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


def resample_to_semantic_rate(waveforms: np.ndarray, recipe: Recipe) -> np.ndarray:
    """float (batch, samples) at the corpus's rate → float32 at the encoder's, of which the spectrum's lower part is left.

    By NumPy alone, which is all that a bare machine has.
    """
    num_samples = waveforms.shape[1] * recipe.semantic_sampling_rate // recipe.sampling_rate
    spectra = np.fft.rfft(waveforms, axis=1)[:, : num_samples // 2 + 1]
    return (np.fft.irfft(spectra, num_samples, axis=1) * (num_samples / waveforms.shape[1])).astype(np.float32)


def normalise_waveform(waveforms: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit variance for each of (batch, samples), as `open_musiclm.tokenizers.semantic` has it."""
    variance, mean = torch.var_mean(waveforms, dim=1, keepdim=True)
    return (waveforms - mean) / torch.sqrt(variance + 1e-7)


def frame_labels(record: dict) -> np.ndarray:
    """int64 (frames, factors): the value of each factor of `FACTORS`, in order."""
    truth, frames = record["truth"], {name: np.array(values) for name, values in record["frames"].items()}
    instrument = INSTRUMENTS.index(truth["instrument"])
    sound = np.where(frames["vowel"] > 0, instrument + frames["vowel"] - 1, instrument)
    kit = DRUMS.index(truth["drums"])
    stroke = np.where(frames["drums"] > 0, frames["drums"] + 7 * max(kit - 1, 0), 0)
    harmony_begun = frames["bass_onset"] + 2 * frames["chord_onset"]
    pitch = np.where(frames["lead"] > 0, frames["lead"] - LOWEST_LEAD + 1, 0)
    return np.stack([sound, stroke, frames["chord"], harmony_begun, pitch, frames["lead_onset"]], axis=-1)


class PrototypeClassifier(nn.Module):
    """The encoder and, for training, the prototypes of each group of its features."""

    def __init__(self, encoder: HubertModel):
        super().__init__()
        self.encoder = encoder
        self.dim = encoder.config.hidden_size // len(FACTORS)
        self.factors = nn.ParameterList(
            nn.Parameter(torch.randn(size, self.dim) * 0.7) for group in FACTORS.values() for size in group.values()
        )
        self.log_scale = nn.Parameter(torch.tensor(-2.0))

    def prototypes(self) -> list[torch.Tensor]:
        """One (first factor's values · second's, dim) for each group."""
        pairs = zip(self.factors[::2], self.factors[1::2], strict=True)
        return [(first[:, None] + second[None]).flatten(0, 1) for first, second in pairs]

    def features(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(batch, samples) → (batch, frames, groups, dim), as the quantizer normalises them."""
        hidden = self.encoder(waveforms).last_hidden_state
        variance, mean = torch.var_mean(hidden, dim=-1, keepdim=True)
        return ((hidden - mean) / torch.sqrt(variance + 1e-7)).unflatten(-1, (len(FACTORS), self.dim))

    def forward(self, waveforms: torch.Tensor) -> list[torch.Tensor]:
        """Logits of each group's prototypes: minus the squared distance, scaled."""
        features, scale = self.features(waveforms), self.log_scale.exp()
        return [
            scale * (2 * features[:, :, i] @ entries.T - entries.square().sum(-1))
            for i, entries in enumerate(self.prototypes())
        ]


def joint_labels(labels: torch.Tensor) -> list[torch.Tensor]:
    """(batch, frames, factors) → for each group the index of the prototype."""
    sizes = [list(group.values()) for group in FACTORS.values()]
    return [labels[..., 2 * i] * sizes[i][1] + labels[..., 2 * i + 1] for i in range(len(sizes))]


def train_semantic_encoder(corpus_folder: Path, work: Path, output: Path, recipe: Recipe) -> None:
    """Save the encoder to `output`, and beside it each group's prototypes, float32 (entries, dim)."""
    device = pick_device()
    corpus = Corpus(corpus_folder, "train", "cpu")
    audio = np.concatenate(
        [resample_to_semantic_rate(part.numpy() / 32767, recipe) for part in corpus.audio.split(100)]
    )
    audio = torch.from_numpy(np.round(audio * 32767).clip(-32768, 32767).astype(np.int16)).to(device)
    labels = torch.from_numpy(np.stack([frame_labels(record) for record in corpus.records])).to(device)
    del corpus
    hop = recipe.semantic_hop
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        classifier = PrototypeClassifier(make_semantic_encoder(recipe)).to(device)

    def compute_loss(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        rows = torch.randint(len(audio), (recipe.semantic.batch_size, 1), generator=generator)
        starts = torch.randint(labels.shape[1] - CROP_IN_FRAMES, rows.shape, generator=generator)
        rows, starts = rows.to(device), starts.to(device)
        # one frame's samples more than the frames are, for the encoder loses one at the end of a crop
        samples = starts * hop + torch.arange((CROP_IN_FRAMES + 1) * hop, device=device)
        targets = joint_labels(labels[rows, starts + torch.arange(CROP_IN_FRAMES, device=device)])
        logits = classifier(normalise_waveform(audio[rows, samples].float() / 32767))
        losses = [
            F.cross_entropy(out.flatten(0, 1), some.flatten()) for out, some in zip(logits, targets, strict=True)
        ]
        right = {
            name: (out.argmax(-1) == some).float().mean()
            for name, out, some in zip(FACTORS, logits, targets, strict=True)
        }
        return {"loss": sum(losses), **right}  # type: ignore[dict-item]

    train(
        "semantic encoder",
        classifier,
        compute_loss,
        last_step=recipe.semantic.num_steps,
        num_schedule_steps=recipe.semantic.num_steps,
        learning_rate=recipe.semantic.learning_rate,
        checkpoint_path=work / "semantic-encoder.pt",
        seed=recipe.seed + 3,
    )
    classifier.encoder.cpu().save_pretrained(output)
    entries = dict(zip(FACTORS, classifier.prototypes(), strict=True))
    save_file({name: some.detach().cpu() for name, some in entries.items()}, output / "prototypes.safetensors")
