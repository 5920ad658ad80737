"""A second CLAP, trained apart from the model's: other clips, another seed, another architecture, another loss.

Words and pairs of words in a bag on one side; on the other a convolution over log-mel frames, and the rhythm of eight
bands of them. It knows nothing of transformers' CLAP, so what that one overlooks need not escape this one. It is
trained where it is asked for, in some minutes on two cores, and kept in the work folder.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from .hearing import Clip, code_version, resampled

SEED, NUM_CLIPS, NUM_CAPTIONS = 2_000_003, 1000, 8
NUM_STEPS, BATCH_SIZE, LEARNING_RATE = 1200, 128, 2e-3
RATE, FRAME_RATE, FFT_SIZE, NUM_MELS, LENGTH_IN_S = 24_000, 50, 1024, 64, 10.0
NUM_FRAMES = int(LENGTH_IN_S * FRAME_RATE)
VOCABULARY, EMBEDDING_DIM = 4096, 64


@lru_cache
def _mel_bank() -> np.ndarray:
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(FFT_SIZE // 2 + 1, NUM_MELS, 30.0, RATE / 2, RATE, norm="slaney", mel_scale="slaney")


def log_mel(clip: Clip) -> np.ndarray:
    """float16 (NUM_FRAMES, NUM_MELS), powers of ten. A longer clip is cut, a shorter one is followed by silence."""
    audio, rate = clip.audio()
    if rate != RATE:
        audio = resampled(audio, rate, RATE)
    audio = audio[: int(LENGTH_IN_S * RATE)]
    audio = np.pad(audio, (FFT_SIZE // 2, FFT_SIZE // 2 + int(LENGTH_IN_S * RATE) - len(audio)))
    frames = np.lib.stride_tricks.sliding_window_view(audio, FFT_SIZE)[:: RATE // FRAME_RATE][:NUM_FRAMES]
    power = np.abs(np.fft.rfft(frames * np.hanning(FFT_SIZE).astype(np.float32), axis=1)) ** 2
    return np.log10(power @ _mel_bank() + 1e-6).astype(np.float16)


def fresh_clip(index: int) -> tuple[np.ndarray, dict]:
    """The spectrogram, truth and captions of a training clip."""
    from render import make_score

    score, captions = make_score(index, "heldout", SEED, LENGTH_IN_S)
    return log_mel(Clip(seed=SEED, index=index, length_in_s=LENGTH_IN_S)), {
        "truth": score.truth.as_dict(),
        "captions": captions[:NUM_CAPTIONS],
    }


def words(text: str) -> list[int]:
    """Rows of the table of words: of each word, and of each pair that follow one another."""
    parts = text.lower().replace(",", " ").replace(":", " ").split()
    pairs = [f"{a} {b}" for a, b in itertools.pairwise(parts)]
    return [zlib.crc32(part.encode()) % VOCABULARY for part in parts + pairs] or [0]


class SecondClap(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(VOCABULARY, 128, mode="sum")
        self.text = nn.Sequential(nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, EMBEDDING_DIM))
        self.frames = nn.Sequential(
            nn.Conv1d(NUM_MELS, 96, 5, stride=2), nn.GELU(), nn.Conv1d(96, 128, 3, stride=2), nn.GELU(),
            nn.Conv1d(128, 128, 3, stride=2), nn.GELU(),
        )  # fmt: skip
        self.rhythm = nn.Sequential(nn.Linear(8 * 100, 96), nn.GELU())
        self.audio = nn.Sequential(nn.Linear(2 * 128 + 96, 128), nn.GELU(), nn.Linear(128, EMBEDDING_DIM))
        self.scale, self.bias = nn.Parameter(torch.tensor(10.0)), nn.Parameter(torch.tensor(-5.0))

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """(texts, EMBEDDING_DIM), of unit length."""
        rows = [words(text) for text in texts]
        offsets = torch.tensor([0, *(len(row) for row in rows[:-1])]).cumsum(0)
        bags = self.bag(torch.tensor([word for row in rows for word in row]), offsets)
        return F.normalize(self.text(bags), dim=-1)

    def embed_audio(self, mels: torch.Tensor) -> torch.Tensor:
        """(clips, NUM_FRAMES, NUM_MELS) → (clips, EMBEDDING_DIM), of unit length."""
        mels = mels.float() + 2.0
        made = self.frames(mels.transpose(1, 2))
        rises = mels.diff(dim=1).clamp(min=0).unflatten(2, (8, -1)).mean(-1)  # (clips, frames - 1, bands)
        rises = rises - rises.mean(1, keepdim=True)
        spectrum = torch.fft.rfft(rises, dim=1)[:, 1:101].abs()  # of the rhythm: 0.1 to 10 Hz
        rhythm = self.rhythm(torch.log1p(spectrum).flatten(1))
        return F.normalize(self.audio(torch.cat([made.mean(-1), made.std(-1), rhythm], dim=-1)), dim=-1)


def captions_that_fit(records: Sequence[dict]) -> torch.Tensor:
    """bool (clips · captions, clips): whether a clip has all that a caption asks for."""
    names = sorted({name for record in records for caption in record["captions"] for name in caption["requires"]})
    captions = [caption["requires"] for record in records for caption in record["captions"]]
    fits = np.ones((len(captions), len(records)), dtype=bool)
    for name in names:
        values = sorted({record["truth"][name] for record in records})
        of_clip = np.array([values.index(record["truth"][name]) for record in records])
        allowed = np.array([[value in caption.get(name, values) for value in values] for caption in captions])
        fits &= allowed[:, of_clip]
    return torch.from_numpy(fits)


def train(mels: torch.Tensor, records: Sequence[dict], num_steps: int = NUM_STEPS, seed: int = SEED) -> SecondClap:
    """Every pair of a batch is a yes or a no (Zhai et al. 2023, "Sigmoid loss"), and the truth says which."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        clap = SecondClap()
    fits = captions_that_fit(records)
    texts = [caption["text"] for record in records for caption in record["captions"]]
    a_clip = len(texts) // len(records)
    optimizer = torch.optim.AdamW(clap.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=num_steps, pct_start=0.1)
    for _ in tqdm(range(num_steps), "second CLAP", unit="step", mininterval=10):
        clips = torch.randperm(len(records), generator=generator)[:BATCH_SIZE]
        captions = clips * a_clip + torch.randint(a_clip, clips.shape, generator=generator)
        shift = int(torch.randint(NUM_FRAMES, (), generator=generator))
        audio = clap.embed_audio(mels[clips].roll(shift, dims=1))
        text = clap.embed_texts([texts[i] for i in captions])
        logits = clap.scale * text @ audio.T + clap.bias
        loss = F.binary_cross_entropy_with_logits(logits, fits[captions][:, clips].float(), reduction="sum") / len(
            clips
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clap.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return clap.eval()


def second_clap(work: Path, workers: int, num_clips: int = NUM_CLIPS, num_steps: int = NUM_STEPS) -> SecondClap:
    """The trained one from the work folder; it is trained first if it isn't there, or if the corpus has changed."""
    version = code_version("compose", "captions", "render", "instruments", "judges/second_clap")[:12]
    path = work / f"second-clap-{version}-{num_clips}-{num_steps}.pt"
    if path.exists():
        clap = SecondClap()
        clap.load_state_dict(torch.load(path, weights_only=True))
        return clap.eval()
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        made = pool.imap(fresh_clip, range(num_clips), chunksize=8)
        made = list(tqdm(made, "render for the second CLAP", num_clips, unit="clip", mininterval=10))
    clap = train(torch.from_numpy(np.stack([mel for mel, _ in made])), [record for _, record in made], num_steps)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(clap.state_dict(), f"{path}.part")
    os.replace(f"{path}.part", path)
    return clap


@torch.no_grad()
def embed(clap: SecondClap, clips: Sequence[Clip]) -> np.ndarray:
    """(clips, EMBEDDING_DIM)."""
    return np.concatenate([clap.embed_audio(torch.from_numpy(log_mel(clip))[None]).numpy() for clip in clips])


@torch.no_grad()
def embed_prompts(clap: SecondClap, texts: Sequence[str]) -> np.ndarray:
    return clap.embed_texts(texts).numpy()


def area_under_curve(scores: np.ndarray, fits: np.ndarray) -> float:
    """How often a fitting pair scores higher than one that does not fit; ties count half."""
    return float(np.mean(np.sign(scores[fits][:, None] - scores[~fits][None])) / 2 + 0.5)
