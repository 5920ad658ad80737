"""`MusicTokenizer`: audio → CLAP, semantic, coarse and fine tokens, in batches that span files.

every second, 10 s of audio ── CLAP, quantizer ──→ clap_token_ids      (windows, 12)
crops of the whole file ── encoder, quantizer ──→ semantic_token_ids   (50 · seconds - 1, 1)
crops of the whole file ── codec ──→ coarse_token_ids, fine_token_ids  (75 · seconds, 3), (75 · seconds, 5)
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ..models.configuration import MusicLMCoarseConfig, MusicLMFineConfig, MusicLMSemanticConfig
from ..models.streams import TokenStream
from ..pipelines.windows import round_down, to_fraction
from ..tokenizers.compatibility import acoustic_stream, clap_stream, semantic_stream
from ..tokenizers.networks import acoustic_codes, semantic_features
from .batching import CropBatcher
from .clap_spectrogram import clap_embeddings
from .decoding import SILENCE_IN_DB, DecodedAudio
from .networks import load_networks, network_fingerprint
from .overlap import overlapping_crops

#: CLAP windows start on whole seconds, as training crops do
CLAP_STRIDE_IN_S = 1
#: more crops at once leave a CPU's caches, and take 1.4 times as long
CODEC_CROPS_ON_CPU = 2
#: nothing shorter has frames enough of every stream
SHORTEST_IN_S = 1.0


@dataclass(frozen=True)
class TokenizingSettings:
    """What the tokens depend on beside the networks.

    Args:
        crop_in_s: length of the crops that the semantic encoder and the codec read.
        overlap_in_s: how much two neighbouring crops share (see overlap.py).
        clap_window_in_s: length of the audio that one set of CLAP tokens describes.
        clap_stride_in_s: distance between two CLAP windows.
        min_length_in_s: shorter files are left out; at least a second.
        batch_size: crops computed together.
        silence_in_db: a file of which nothing is above this (dB of full scale) is left out.
    """

    crop_in_s: float
    overlap_in_s: float
    clap_window_in_s: float
    min_length_in_s: float
    batch_size: int = 16
    clap_stride_in_s: float = CLAP_STRIDE_IN_S
    silence_in_db: float = SILENCE_IN_DB

    def __post_init__(self) -> None:
        if not self.silence_in_db < 0:
            raise ValueError(f"`silence_in_db` is in dB of full scale and below 0, got {self.silence_in_db}.")
        for name, value in asdict(self).items():
            if name == "silence_in_db":
                continue
            if not math.isfinite(value) or value < 0 or (value == 0 and name != "overlap_in_s"):
                raise ValueError(f"`{name}` must be a positive number, got {value}.")
        if self.overlap_in_s >= self.crop_in_s:
            raise ValueError(f"Crops of {self.crop_in_s} s cannot share {self.overlap_in_s} s.")
        for name in ("crop_in_s", "clap_window_in_s", "min_length_in_s"):
            if getattr(self, name) < SHORTEST_IN_S:
                raise ValueError(f"`{name}` must be at least {SHORTEST_IN_S:g} s, got {getattr(self, name)}.")


class MusicTokenizer:
    """Makes the tokens of whole files with a pipeline's frozen networks.

    Args:
        networks: the components `clap`, `clap_processor`, `clap_quantizer`, `semantic_encoder`, `semantic_quantizer`
            and `codec`, by name.
        num_coarse, num_fine: codebooks of the two acoustic streams.
        settings: see [`TokenizingSettings`].

    Raises:
        ValueError: a component is missing.
    """

    def __init__(self, networks: dict[str, Any], num_coarse: int, num_fine: int, settings: TokenizingSettings):
        needed = ("clap", "clap_processor", "clap_quantizer", "semantic_encoder", "semantic_quantizer", "codec")
        missing = [name for name in needed if networks.get(name) is None]
        if missing:
            raise ValueError(f"Making tokens needs {', '.join(missing)}, which the pipeline does not have.")
        self.networks = {name: networks[name] for name in needed}
        self.num_coarse, self.num_fine = num_coarse, num_fine
        self.settings = settings
        codec, quantizer = networks["codec"], networks["semantic_quantizer"]
        self.streams: list[TokenStream] = [
            clap_stream(networks["clap_quantizer"]),
            semantic_stream(quantizer),
            acoustic_stream(codec, "coarse", 0, num_coarse),
            acoustic_stream(codec, "fine", num_coarse, num_fine),
        ]
        self.clap_rate: int = networks["clap_processor"].feature_extractor.sampling_rate
        self.semantic_rate: int = quantizer.config.sampling_rate
        self.codec_rate: int = codec.config.sampling_rate

    @classmethod
    def from_pretrained(
        cls,
        pipeline: str | os.PathLike,
        codebooks: str | os.PathLike | None = None,
        device: str = "cpu",
        revision: str | None = None,
        **settings: Any,
    ) -> MusicTokenizer:
        """Load what is needed from a pipeline's folder or Hub id; its stages stay where they are.

        Args:
            codebooks: a folder made by `open-musiclm fit-codebooks`, whose quantizers take the place of the pipeline's.
            settings: fields of [`TokenizingSettings`]; the others follow from the pipeline.
        """
        networks, configs = load_networks(pipeline, codebooks, device, revision)
        semantic, coarse, fine = (
            configs.get(name) or default()
            for name, default in (
                ("semantic_model", MusicLMSemanticConfig),
                ("coarse_model", MusicLMCoarseConfig),
                ("fine_model", MusicLMFineConfig),
            )
        )
        defaults = {
            "crop_in_s": float(semantic.window_in_s),
            "clap_window_in_s": float(networks["clap_quantizer"].config.window_in_s),
            "min_length_in_s": float(min(stage.window_in_s for stage in (semantic, coarse, fine))),
        }
        chosen = {**defaults, **{name: value for name, value in settings.items() if value is not None}}
        chosen.setdefault("overlap_in_s", chosen["crop_in_s"] / 5)
        return cls(
            networks,
            coarse.predicted_stream.num_codebooks,
            fine.predicted_stream.num_codebooks,
            TokenizingSettings(**chosen),
        )

    @property
    def sampling_rates(self) -> tuple[int, int, int]:
        """Rates at which audio is needed, in Hz."""
        return self.clap_rate, self.semantic_rate, self.codec_rate

    def describe(self) -> dict[str, Any]:
        """The exact settings, and a fingerprint of each network, for a dataset's record."""
        return {
            **asdict(self.settings),
            "sampling_rates": {"clap": self.clap_rate, "semantic": self.semantic_rate, "codec": self.codec_rate},
            "semantic_layer": self.networks["semantic_quantizer"].config.layer,
            "networks": {
                name: network_fingerprint(self.networks[name]) for name in ("clap", "semantic_encoder", "codec")
            },
            "clap_feature_extractor": json.loads(
                json.dumps(self.networks["clap_processor"].feature_extractor.to_dict(), default=str, sort_keys=True)
            ),
        }

    def tokenize(self, items: Iterable[tuple[Any, DecodedAudio]]) -> Iterator[tuple[Any, dict[str, np.ndarray]]]:
        """Tokens of several files, computed in batches across them.

        The batches depend on the items and their order alone. Only one file's audio is held at a time, and what has
        not filled a batch yet.

        Args:
            items: (key, audio) pairs; the keys come back with the tokens.

        Returns:
            (key, tokens) in the order given; tokens by argument name, (frames, codebooks) uint16 each.
        """
        batchers = {
            "clap": CropBatcher(self._clap_codes, self.settings.batch_size),
            "semantic": CropBatcher(self._semantic_codes, self.settings.batch_size),
            "acoustic": CropBatcher(self._acoustic_codes, self.settings.batch_size),
        }
        waiting: list[tuple[Any, _FileTokens]] = []
        for key, audio in items:
            tokens = self._plan(audio, batchers)
            waiting.append((key, tokens))
            while waiting and waiting[0][1].complete:
                done, first = waiting.pop(0)
                yield done, first.arrays(self.num_coarse)
        for batcher in batchers.values():
            batcher.flush()
        for key, tokens in waiting:
            yield key, tokens.arrays(self.num_coarse)

    # ------------------------------------------------------------------- plan

    def _plan(self, audio: DecodedAudio, batchers: dict[str, CropBatcher]) -> _FileTokens:
        """Queue every crop of one file."""
        tokens = _FileTokens()

        waveform = audio.waveforms[self.clap_rate]
        window = round(self.settings.clap_window_in_s * self.clap_rate)
        stride = round(self.settings.clap_stride_in_s * self.clap_rate)
        num_windows = max((len(waveform) - window) // stride, 0) + 1
        codes = tokens.add("clap", num_windows, self.streams[0].num_codebooks)
        for index in range(num_windows):
            samples = waveform[index * stride : index * stride + window]
            batchers["clap"].add(samples, tokens.fill(codes, slice(index, index + 1), slice(0, 1)))

        for name, rate, stream, num_codebooks in (
            ("semantic", self.semantic_rate, self.streams[1], 1),
            ("acoustic", self.codec_rate, self.streams[2], self.num_coarse + self.num_fine),
        ):
            waveform, frame_rate = audio.waveforms[rate], to_fraction(stream.frame_rate or 0)
            hop = round(rate / frame_rate)
            num_frames, edge = len(waveform) // hop, stream.num_edge_frames
            codes = tokens.add(name, num_frames - edge, num_codebooks)
            crop_frames, overlap = (
                int(round_down(length, 1 / frame_rate) * frame_rate)
                for length in (self.settings.crop_in_s, self.settings.overlap_in_s)
            )
            for crop in overlapping_crops(num_frames, crop_frames, max(overlap, edge), edge):
                samples = waveform[crop.start * hop : crop.stop * hop]
                batchers[name].add(samples, tokens.fill(codes, slice(crop.first, crop.last), crop.kept))
        return tokens

    # ---------------------------------------------------------------- compute

    def _clap_codes(self, windows: np.ndarray) -> np.ndarray:
        """(batch, samples) → (batch, 1, num_quantizers)."""
        networks = self.networks
        embeddings = clap_embeddings(networks["clap"], networks["clap_processor"], windows)
        return networks["clap_quantizer"].encode(embeddings).unsqueeze(1).cpu().numpy()

    def _semantic_codes(self, crops: np.ndarray) -> np.ndarray:
        """(batch, samples) → (batch, frames, 1)."""
        quantizer = self.networks["semantic_quantizer"]
        features = semantic_features(self.networks["semantic_encoder"], quantizer.config, torch.from_numpy(crops))
        return quantizer.encode(features).unsqueeze(-1).cpu().numpy()

    def _acoustic_codes(self, crops: np.ndarray) -> np.ndarray:
        """(batch, samples) → (batch, frames, coarse + fine codebooks)."""
        codec = self.networks["codec"]
        audio = torch.from_numpy(crops).unsqueeze(1).expand(-1, codec.config.audio_channels, -1)
        parts = audio.split(CODEC_CROPS_ON_CPU if codec.device.type == "cpu" else len(audio))
        codes = [acoustic_codes(codec, part, self.num_coarse + self.num_fine) for part in parts]
        return torch.cat(codes).cpu().numpy()


class _FileTokens:
    """One file's codes while they are being computed."""

    def __init__(self) -> None:
        self.codes: dict[str, np.ndarray] = {}
        self.num_pending = 0

    @property
    def complete(self) -> bool:
        return self.num_pending == 0

    def add(self, name: str, num_frames: int, num_codebooks: int) -> np.ndarray:
        self.codes[name] = np.zeros((num_frames, num_codebooks), dtype=np.uint16)
        return self.codes[name]

    def fill(self, codes: np.ndarray, where: slice, kept: slice) -> Callable[[np.ndarray], None]:
        """What a crop's result (frames, codebooks) is handed to."""
        self.num_pending += 1

        def receive(result: np.ndarray) -> None:
            if result[kept].shape != codes[where].shape:
                raise ValueError(
                    f"A crop gave {result.shape[0]} frames where {kept.stop} were expected: the encoder's frame rate or "
                    "`num_edge_frames` is not what its quantizer's config says."
                )
            codes[where] = result[kept]
            self.num_pending -= 1

        return receive

    def arrays(self, num_coarse: int) -> dict[str, np.ndarray]:
        acoustic = self.codes["acoustic"]
        return {
            "clap_token_ids": self.codes["clap"],
            "semantic_token_ids": self.codes["semantic"],
            "coarse_token_ids": acoustic[:, :num_coarse],
            "fine_token_ids": acoustic[:, num_coarse:],
        }
