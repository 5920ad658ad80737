"""`MusicTokenizer`: audio → the tokens of every stream, in batches that span files.

every second, 10 s of audio ── source of one frame a window (CLAP) ──→ (windows, codebooks)
crops of the whole file ── source of a token a frame (encoder, codec) ──→ (frames, codebooks)

A source computes each crop once, for all streams that are made of its codebooks (see tokenizers/sources.py). Streams that
say something about the piece are heard in it, or known (see attributes.py).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..models.chain import streams_of
from ..models.streams import PADDING_ID, TokenStream
from ..pipelines.windows import round_down, to_fraction
from ..tokenizers.sources import SOURCES, Source, streams_to_make
from .attributes import (
    ATTRIBUTE_RATE,
    HEARD_EVERY_IN_S,
    attribute_streams,
    check_confidences,
    confidences_of,
    hear,
)
from .batching import CropBatcher
from .decoding import SILENCE_IN_DB, DecodedAudio
from .networks import load_networks, network_fingerprint, published_stages
from .overlap import overlapping_crops
from .records import HIDDEN_ID

#: CLAP windows start on whole seconds, as training crops do
CLAP_STRIDE_IN_S = 1
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
        networks: components of a pipeline, by name.
        streams: what to make; their sources say from what (see [`streams_to_make`]).
        settings: see [`TokenizingSettings`].
        attributes: streams that say something about a piece, to be heard or known (see attributes.py).
        confidences: by a stream's name, from which on what is heard is believed.

    Raises:
        ValueError: a source that nothing makes, or a component that it needs is missing.
    """

    def __init__(
        self,
        networks: Mapping[str, Any],
        streams: Sequence[TokenStream],
        settings: TokenizingSettings,
        attributes: Sequence[TokenStream] = (),
        confidences: Mapping[str, float] | None = None,
    ):
        self.networks = dict(networks)
        self.settings = settings
        made = streams_to_make([streams], networks)
        self.sources: dict[str, Source] = {
            name: SOURCES[name](networks) for name in dict.fromkeys(str(stream.source) for stream in made)
        }
        self.attributes = list(attributes)
        check_confidences(confidences or {}, self.attributes)
        self.confidences = confidences_of(self.attributes, confidences or {})
        self.streams: list[TokenStream] = [*made, *self.attributes]

    @classmethod
    def from_pretrained(
        cls,
        pipeline: str | os.PathLike,
        codebooks: str | os.PathLike | None = None,
        device: str = "cpu",
        revision: str | None = None,
        attributes: Sequence[str] = (),
        pieces: Iterable[Mapping[str, Any]] = (),
        labels_from: str = "stage",
        confidences: Mapping[str, float] | None = None,
        **settings: Any,
    ) -> MusicTokenizer:
        """Load what is needed from a pipeline's folder or Hub id; its stages stay where they are.

        Every stream that any of its stages needs is made.

        Args:
            codebooks: a folder made by `open-musiclm fit-codebooks`, whose quantizers take the place of the pipeline's.
            attributes, pieces, labels_from: streams that say something about a piece, by name (see [`attribute_streams`]).
            confidences: see [`MusicTokenizer`].
            settings: fields of [`TokenizingSettings`]; the others follow from the pipeline.
        """
        networks, configs = load_networks(pipeline, codebooks, device, revision)
        stages = list((configs or published_stages()).values())
        known = attribute_streams(attributes, [streams_of(stage) for stage in stages], pieces, labels_from)
        made = streams_to_make([streams_of(stage) for stage in stages], networks)
        one_frame = [SOURCES[str(s.source)](networks).window_in_s for s in made if s.frame_rate is None]
        longest = max(float(stage.window_in_s) for stage in stages)
        defaults = {
            "crop_in_s": longest,
            "clap_window_in_s": max((window for window in one_frame if window is not None), default=longest),
            "min_length_in_s": float(min(stage.window_in_s for stage in stages)),
        }
        chosen = {**defaults, **{name: value for name, value in settings.items() if value is not None}}
        chosen.setdefault("overlap_in_s", chosen["crop_in_s"] / 5)
        return cls(networks, made, TokenizingSettings(**chosen), known, confidences)

    @property
    def sampling_rates(self) -> tuple[int, ...]:
        """Rates at which audio is needed, in Hz."""
        rates = tuple(source.sampling_rate for source in self.sources.values())
        return (*rates, ATTRIBUTE_RATE) if self.attributes else rates

    @property
    def several_channels(self) -> tuple[tuple[int, int], ...]:
        """Rates and numbers of channels at which audio is needed besides."""
        sources = self.sources.values()
        return tuple((source.sampling_rate, source.channels) for source in sources if source.channels > 1)

    def describe(self) -> dict[str, Any]:
        """The exact settings, and a fingerprint of each network, for a dataset's record."""
        networks = [name for source in self.sources.values() for name in source.networks]
        own = {key: value for source in self.sources.values() for key, value in source.describe().items()}
        several = {name: source.channels for name, source in self.sources.items() if source.channels > 1}
        heard = {"sampling_rate": ATTRIBUTE_RATE, "every_in_s": HEARD_EVERY_IN_S, "confidences": self.confidences}
        return {
            **asdict(self.settings),
            **({"attributes": heard} if self.attributes else {}),
            "sampling_rates": {name: source.sampling_rate for name, source in self.sources.items()},
            **({"channels": several} if several else {}),
            "networks": {name: network_fingerprint(self.networks[name]) for name in networks},
            **json.loads(json.dumps(own, default=str, sort_keys=True)),
        }

    def tokenize(self, items: Iterable[tuple[Any, DecodedAudio]]) -> Iterator[tuple[Any, dict[str, np.ndarray]]]:
        """Tokens of several files, computed in batches across them.

        The batches depend on the items and their order alone. Only one file's audio is held at a time, and what has
        not filled a batch yet.

        Args:
            items: (key, audio) pairs; the keys come back with the tokens.

        Returns:
            (key, tokens) in the order given; tokens by argument name, (frames, codebooks) uint16 each, `HIDDEN_ID` where
            nothing is known.
        """
        batchers = {
            name: CropBatcher(self._encoder(name, source), self.settings.batch_size)
            for name, source in self.sources.items()
        }
        waiting: list[tuple[Any, _FileTokens]] = []
        for key, audio in items:
            tokens = self._plan(audio, batchers)
            waiting.append((key, tokens))
            while waiting and waiting[0][1].complete:
                done, first = waiting.pop(0)
                yield done, first.arrays(self.streams)
        for batcher in batchers.values():
            batcher.flush()
        for key, tokens in waiting:
            yield key, tokens.arrays(self.streams)

    def _streams_from(self, source: str) -> list[TokenStream]:
        return [stream for stream in self.streams if stream.source == source]

    def _num_codebooks(self, source: str) -> int:
        """Codebooks of a source that the streams reach to, counted from its first."""
        return max((stream.first_codebook or 0) + stream.num_codebooks for stream in self._streams_from(source))

    def _encoder(self, name: str, source: Source) -> Callable[[np.ndarray], np.ndarray]:
        number = self._num_codebooks(name)
        return lambda crops: source.encode(crops, number)

    # ------------------------------------------------------------------- plan

    def _plan(self, audio: DecodedAudio, batchers: dict[str, CropBatcher]) -> _FileTokens:
        """Queue every crop of one file."""
        tokens = _FileTokens()
        for name, source in self.sources.items():
            stream, waveform = self._streams_from(name)[0], audio.at(source.sampling_rate, source.channels)
            if stream.frame_rate is None:
                self._plan_windows(name, source, waveform, tokens, batchers[name])
            else:
                self._plan_crops(name, source, stream, waveform, tokens, batchers[name])
        for stream in self.attributes:
            waveform, least = audio.waveforms[ATTRIBUTE_RATE], self.confidences.get(stream.name)
            ids = hear(stream, waveform, audio.about, self.settings.clap_window_in_s, least)
            tokens.known[stream.name] = np.where(ids == PADDING_ID, HIDDEN_ID, ids).astype(np.uint16)
        return tokens

    def _plan_windows(
        self, name: str, source: Source, waveform: np.ndarray, tokens: _FileTokens, batcher: CropBatcher
    ) -> None:
        """A window every second, each of which has one frame."""
        window = round(self.settings.clap_window_in_s * source.sampling_rate)
        stride = round(self.settings.clap_stride_in_s * source.sampling_rate)
        num_windows = max((waveform.shape[-1] - window) // stride, 0) + 1
        codes = tokens.add(name, num_windows, self._num_codebooks(name))
        for index in range(num_windows):
            samples = waveform[..., index * stride : index * stride + window]
            batcher.add(samples, tokens.fill(codes, slice(index, index + 1), slice(0, 1)))

    def _plan_crops(
        self,
        name: str,
        source: Source,
        stream: TokenStream,
        waveform: np.ndarray,
        tokens: _FileTokens,
        batcher: CropBatcher,
    ) -> None:
        """Crops that overlap, of whose frames the middle ones are kept."""
        frame_rate = to_fraction(stream.frame_rate or 0)
        hop = round(source.sampling_rate / frame_rate)
        num_frames, edge = waveform.shape[-1] // hop, stream.num_edge_frames
        codes = tokens.add(name, num_frames - edge, self._num_codebooks(name))
        crop_frames, overlap = (
            int(round_down(length, 1 / frame_rate) * frame_rate)
            for length in (self.settings.crop_in_s, self.settings.overlap_in_s)
        )
        for crop in overlapping_crops(num_frames, crop_frames, max(overlap, edge), edge):
            samples = waveform[..., crop.start * hop : crop.stop * hop]
            batcher.add(samples, tokens.fill(codes, slice(crop.first, crop.last), crop.kept))


class _FileTokens:
    """One file's codes while they are being computed."""

    def __init__(self) -> None:
        self.codes: dict[str, np.ndarray] = {}  # by source
        self.known: dict[str, np.ndarray] = {}  # by stream, of attributes
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

    def arrays(self, streams: Sequence[TokenStream]) -> dict[str, np.ndarray]:
        """Each stream's own codebooks by its argument's name."""
        arrays = {}
        for stream in streams:
            if stream.name in self.known:
                arrays[stream.argument] = self.known[stream.name]
                continue
            first = stream.first_codebook or 0
            arrays[stream.argument] = self.codes[str(stream.source)][:, first : first + stream.num_codebooks]
        return arrays
