"""Fitting the CLAP residual quantizer and the semantic k-means to audio, file by file.

files, shuffled ── decode ──┬─ CLAP, every second ──→ embeddings ──→ residual k-means
                            └─ encoder, crops ──────→ features ───→ MiniBatchKMeans
every tenth file is held out: what the report measures
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data.decoding import DecodedAudio, SkippedFile, decode_ahead
from ..data.discovery import AudioFile
from ..extras import extra_needed
from ..models.configuration import ClapQuantizerConfig, SemanticQuantizerConfig
from ..tokenizers.clap_spectrogram import clap_embeddings
from ..tokenizers.quantizers import ClapQuantizer, SemanticQuantizer
from ..tokenizers.semantic import semantic_features
from .codebook_report import codebook_report
from .residual_kmeans import ResidualKMeans

#: one file of so many is held out
HELD_OUT_EVERY = 10
#: vectors of held-out files kept for the report
MAX_HELD_OUT = 65_536
#: vectors of a batch: so many an entry of the codebook
VECTORS_AN_ENTRY = 4


@dataclass(frozen=True)
class FittingSettings:
    """How codebooks are fitted.

    Args:
        clap_codebook_size, num_quantizers: of the CLAP quantizer; 0 quantizers leave it out.
        semantic_codebook_size: centroids of the semantic quantizer; 0 leaves it out.
        crop_in_s: length of the crops that the semantic encoder reads.
        clap_stride_in_s: distance between two CLAP windows.
        min_length_in_s: shorter files are left out.
        max_hours: of audio; more is not read.
        batch_size: crops computed together.
        seed: of the order of files, and of both fits.
    """

    clap_codebook_size: int = 1024
    num_quantizers: int = 12
    semantic_codebook_size: int = 1024
    crop_in_s: float = 10.0
    clap_stride_in_s: float = 1.0
    min_length_in_s: float = 2.0
    max_hours: float | None = None
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_quantizers < 0 or self.semantic_codebook_size < 0 or self.clap_codebook_size < 1:
            raise ValueError("Codebooks need at least one entry.")
        if not self.num_quantizers and not self.semantic_codebook_size:
            raise ValueError("There is nothing to fit: both quantizers are left out.")
        if not self.crop_in_s >= 1:
            raise ValueError(f"Crops must be at least 1 s long, got {self.crop_in_s}.")
        if self.max_hours is not None and not self.max_hours > 0:
            raise ValueError(f"The hours of audio must be a positive number, got {self.max_hours}.")


class VectorBatches:
    """Vectors as they come, in batches of one size; some are put by for the report."""

    def __init__(self, batch_size: int):
        self.batch_size = batch_size
        self.num_seen = 0
        self._waiting: list[torch.Tensor] = []
        self._held_out: list[torch.Tensor] = []

    def add(self, vectors: torch.Tensor) -> Iterator[torch.Tensor]:
        self.num_seen += len(vectors)
        self._waiting.append(vectors)
        while sum(map(len, self._waiting)) >= 2 * self.batch_size:  # what is left at the end is a whole batch too
            together = torch.cat(self._waiting)
            yield together[: self.batch_size]
            self._waiting = [together[self.batch_size :]]

    def rest(self) -> Iterator[torch.Tensor]:
        if self._waiting:
            yield torch.cat(self._waiting)
            self._waiting = []

    def hold_out(self, vectors: torch.Tensor) -> None:
        if sum(map(len, self._held_out)) < MAX_HELD_OUT:
            self._held_out.append(vectors)

    @property
    def held_out(self) -> torch.Tensor | None:
        return torch.cat(self._held_out) if self._held_out else None


class CodebookFit:
    """Both fits, one file after another."""

    def __init__(self, networks: dict[str, Any], settings: FittingSettings):
        self.networks, self.settings = networks, settings
        self.clap: ResidualKMeans | None = None
        self.clap_batches = VectorBatches(VECTORS_AN_ENTRY * settings.clap_codebook_size)
        self.semantic: Any = None
        self.semantic_batches = VectorBatches(VECTORS_AN_ENTRY * max(settings.semantic_codebook_size, 256))
        if settings.num_quantizers:
            dim = networks["clap"].config.projection_dim
            self.clap = ResidualKMeans(settings.num_quantizers, settings.clap_codebook_size, dim, seed=settings.seed)
        if settings.semantic_codebook_size:
            with extra_needed():
                from sklearn.cluster import MiniBatchKMeans

            self.semantic = MiniBatchKMeans(
                settings.semantic_codebook_size, random_state=settings.seed, n_init=3, init_size=None
            )
        given = networks.get("semantic_quantizer")
        self.semantic_config = SemanticQuantizerConfig(
            **{
                **(_fields(given.config) if given is not None else {}),
                "codebook_size": max(settings.semantic_codebook_size, 1),
                "feature_dim": networks["semantic_encoder"].config.hidden_size,
            }
        )
        given = networks.get("clap_quantizer")
        self.clap_window_in_s = 10.0 if given is None else float(given.config.window_in_s)
        self.normalizer = SemanticQuantizer(self.semantic_config)

    @property
    def sampling_rates(self) -> tuple[int, int]:
        extractor = self.networks["clap_processor"].feature_extractor
        return extractor.sampling_rate, self.semantic_config.sampling_rate

    def add(self, audio: DecodedAudio, held_out: bool) -> None:
        """Learn from one file, or keep it for the report."""
        if self.clap is not None:
            for embeddings in self._embeddings(audio):
                if held_out:
                    self.clap_batches.hold_out(embeddings)
                else:
                    self.clap.fit(self.clap_batches.add(embeddings))
        if self.semantic is not None:
            for features in self._features(audio):
                if held_out:
                    self.semantic_batches.hold_out(features)
                else:
                    for batch in self.semantic_batches.add(features):
                        self._learn_semantic(batch)

    def finish(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The quantizers by component name, and the report."""
        quantizers: dict[str, Any] = {}
        report: dict[str, Any] = {}
        if self.clap is not None:
            self.clap.fit(self.clap_batches.rest())
            quantizers["clap_quantizer"] = self._clap_quantizer()
            report["clap"] = self._report(self.clap.codebooks, self.clap_batches)
            report["clap"]["num_restarted"] = self.clap.num_restarts
        if self.semantic is not None:
            for batch in self.semantic_batches.rest():
                self._learn_semantic(batch)
            quantizer = SemanticQuantizer(self.semantic_config)
            with torch.no_grad():
                quantizer.codebook.copy_(torch.from_numpy(self.semantic.cluster_centers_))
            quantizers["semantic_quantizer"] = quantizer
            report["semantic"] = self._report(quantizer.codebook[None], self.semantic_batches)
        for name, quantizer in quantizers.items():
            report[name.removesuffix("_quantizer")]["fingerprint"] = quantizer.fingerprint
        return quantizers, report

    def _report(self, codebooks: torch.Tensor, batches: VectorBatches) -> dict[str, Any]:
        held_out = batches.held_out
        if held_out is None:
            raise ValueError("No file was held out for the report.")
        return {
            "num_vectors": batches.num_seen,
            "num_held_out": len(held_out),
            "codebooks": codebook_report(codebooks.detach(), held_out),
        }

    def _clap_quantizer(self) -> ClapQuantizer:
        if self.clap is None or not self.clap.started:
            raise ValueError("There was no audio to fit the CLAP quantizer to.")
        num_quantizers, codebook_size, dim = self.clap.codebooks.shape
        quantizer = ClapQuantizer(
            ClapQuantizerConfig(
                codebook_size=codebook_size,
                num_quantizers=num_quantizers,
                embedding_dim=dim,
                window_in_s=self.clap_window_in_s,
            )
        )
        with torch.no_grad():
            quantizer.codebooks.copy_(self.clap.codebooks)
        return quantizer

    def _learn_semantic(self, batch: torch.Tensor) -> None:
        if len(batch) < self.settings.semantic_codebook_size:
            if hasattr(self.semantic, "cluster_centers_"):
                return
            raise ValueError(
                f"{self.settings.semantic_codebook_size} semantic centroids need at least as many features, got "
                f"{len(batch)}. Give more audio, or a smaller codebook."
            )
        self.semantic.partial_fit(batch.numpy())

    # ---------------------------------------------------------------- features

    def _embeddings(self, audio: DecodedAudio) -> Iterator[torch.Tensor]:
        """CLAP embeddings of a file's windows, a batch at a time: (n, dim)."""
        rate = self.sampling_rates[0]
        waveform = audio.waveforms[rate]
        window, stride = round(self.clap_window_in_s * rate), round(self.settings.clap_stride_in_s * rate)
        starts = range(0, max(len(waveform) - window, 0) + 1, stride)
        windows = [waveform[start : start + window] for start in starts]
        for first in range(0, len(windows), self.settings.batch_size):
            batch = np.stack(windows[first : first + self.settings.batch_size])
            yield clap_embeddings(self.networks["clap"], self.networks["clap_processor"], batch).float().cpu()

    def _features(self, audio: DecodedAudio) -> Iterator[torch.Tensor]:
        """Normalised features of a file's crops, side by side, a batch at a time: (n, dim)."""
        rate = self.semantic_config.sampling_rate
        waveform = audio.waveforms[rate]
        length = min(round(self.settings.crop_in_s * rate), len(waveform))
        crops = [waveform[start : start + length] for start in range(0, len(waveform) - length + 1, length)]
        for first in range(0, len(crops), self.settings.batch_size):
            batch = torch.from_numpy(np.stack(crops[first : first + self.settings.batch_size]))
            features = semantic_features(self.networks["semantic_encoder"], self.semantic_config, batch)
            yield self.normalizer.normalize(features.float().cpu()).flatten(0, 1)


def _fields(config: SemanticQuantizerConfig) -> dict[str, Any]:
    return {
        name: getattr(config, name)
        for name in ("layer", "normalize", "frame_rate", "sampling_rate", "num_edge_frames")
    }


def fit_codebooks(
    files: Sequence[AudioFile], networks: dict[str, Any], settings: FittingSettings, progress: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fit the quantizers to audio files.

    Args:
        files: what to read; the order is drawn from the seed.
        networks: `clap`, `clap_processor`, `semantic_encoder`, and the present quantizers if any (for their settings).

    Returns:
        The quantizers by component name, and the report: for each, `codebooks` (see `codebook_report`), measured on
        held-out files, how many vectors there were, and what files were skipped.

    Raises:
        ValueError: too little audio.
    """
    from tqdm import tqdm

    fit = CodebookFit(networks, settings)
    order = np.random.default_rng(settings.seed).permutation(len(files))
    decoded = decode_ahead((files[index] for index in order), fit.sampling_rates, settings.min_length_in_s)
    skipped, seconds, num_used = [], 0.0, 0
    with tqdm(total=len(files), unit=" files", disable=None if progress else True) as bar:
        for file, audio in decoded:
            bar.update(1)
            if isinstance(audio, SkippedFile):
                skipped.append({"path": file.name, "reason": audio.reason, "detail": audio.detail})
                continue
            fit.add(audio, held_out=num_used % HELD_OUT_EVERY == 0)
            num_used += 1
            seconds += audio.duration_in_s
            bar.set_postfix_str(f"{seconds / 3600:.2f} h of audio", refresh=False)
            if settings.max_hours is not None and seconds >= 3600 * settings.max_hours:
                break
    if num_used < 2:
        raise ValueError(f"Fitting needs at least 2 usable files (one is held out); {num_used} of {len(files)} are.")
    quantizers, report = fit.finish()
    return quantizers, {**report, "num_files": num_used, "hours": round(seconds / 3600, 6), "skipped": skipped}
