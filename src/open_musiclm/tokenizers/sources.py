"""Who makes a stream of tokens: one object a source, from a pipeline's components. The table is `SOURCES`.

    clap       windows of audio (or a text) ── ClapModel, ClapQuantizer ──→ one set of tokens a window
    semantic   crops of audio ── encoder, SemanticQuantizer ──→ a token a frame
    codec      crops of audio ── Codec ──→ a token a frame and codebook

A stream says its source and its place among the source's codebooks; its name is free. Another source is a subclass of
[`Source`] and a line of `SOURCES`, or a call of [`register_source`].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from ..models.streams import TokenStream
from .codec import as_codec
from .fingerprints import codebook_fingerprint

#: more crops at once leave a CPU's caches, and take 1.4 times as long
CODEC_CROPS_ON_CPU = 2


class Source(ABC):
    """What makes the tokens of one source.

    Attributes:
        parts: components of a pipeline that it is made of, all of which have to be there.
        codebook_parts: those that describe its streams; enough for [`stream`].
        networks: those whose weights the tokens depend on beside the codebooks.
        sampling_rate: of the audio that it reads, in Hz.
        channels: of that audio; a file of others is averaged for one, and dealt out for several.
        window_in_s: for streams of one frame: length of the audio that a frame describes, else `None`.
    """

    parts: ClassVar[tuple[str, ...]] = ()
    codebook_parts: ClassVar[tuple[str, ...]] = ()
    networks: ClassVar[tuple[str, ...]] = ()
    window_in_s: float | None = None
    channels: int = 1

    def __init__(self, components: Mapping[str, Any]):
        self.components = components

    @property
    @abstractmethod
    def sampling_rate(self) -> int: ...

    @abstractmethod
    def stream(self, name: str, first_codebook: int = 0, num_codebooks: int | None = None) -> TokenStream:
        """The stream of its codebooks from `first_codebook` on under this name.

        Args:
            num_codebooks: how many, by default all from the first on.
        """

    @abstractmethod
    def encode(self, crops: np.ndarray, num_codebooks: int) -> np.ndarray:
        """Crops of audio (batch, samples), of several channels (batch, channels, samples) → tokens (batch, frames,
        num_codebooks)."""

    def describe(self) -> dict[str, Any]:
        """What else the tokens depend on, for a dataset's record."""
        return {}


class ClapSource(Source):
    parts = ("clap", "clap_processor", "clap_quantizer")
    codebook_parts = ("clap_quantizer",)
    networks = ("clap",)

    @property
    def window_in_s(self) -> float:  # type: ignore[override]
        return float(self.components["clap_quantizer"].config.window_in_s)

    @property
    def sampling_rate(self) -> int:
        return self.components["clap_processor"].feature_extractor.sampling_rate

    def stream(self, name: str, first_codebook: int = 0, num_codebooks: int | None = None) -> TokenStream:
        codebooks = self.components["clap_quantizer"].codebooks[first_codebook:][:num_codebooks]
        return TokenStream(
            name,
            codebooks.shape[1],
            len(codebooks),
            codebook_fingerprint=codebook_fingerprint(codebooks),
            source="clap",
            first_codebook=first_codebook,
        )

    def encode(self, crops: np.ndarray, num_codebooks: int) -> np.ndarray:
        from .clap_spectrogram import clap_embeddings

        embeddings = clap_embeddings(self.components["clap"], self.components["clap_processor"], crops)
        codes = self.components["clap_quantizer"].encode(embeddings)[..., :num_codebooks]
        return codes.unsqueeze(1).cpu().numpy()

    def describe(self) -> dict[str, Any]:
        extractor = self.components["clap_processor"].feature_extractor
        return {"clap_feature_extractor": extractor.to_dict()}


class SemanticSource(Source):
    parts = ("semantic_encoder", "semantic_quantizer")
    codebook_parts = ("semantic_quantizer",)
    networks = ("semantic_encoder",)

    @property
    def sampling_rate(self) -> int:
        return self.components["semantic_quantizer"].config.sampling_rate

    def stream(self, name: str, first_codebook: int = 0, num_codebooks: int | None = None) -> TokenStream:
        quantizer = self.components["semantic_quantizer"]
        config = quantizer.config
        return TokenStream(
            name,
            config.codebook_size,
            config.num_codebooks - first_codebook if num_codebooks is None else num_codebooks,
            float(config.frame_rate),
            config.num_edge_frames,
            quantizer.fingerprint,
            source="semantic",
            first_codebook=first_codebook,
        )

    def encode(self, crops: np.ndarray, num_codebooks: int) -> np.ndarray:
        from .semantic import semantic_features

        quantizer = self.components["semantic_quantizer"]
        features = semantic_features(self.components["semantic_encoder"], quantizer.config, torch.from_numpy(crops))
        codes = quantizer.encode(features).reshape(*features.shape[:2], -1)  # (batch, frames, codebooks)
        return codes[..., :num_codebooks].cpu().numpy()

    def describe(self) -> dict[str, Any]:
        return {"semantic_layer": self.components["semantic_quantizer"].config.layer}


class CodecSource(Source):
    parts = ("codec",)
    codebook_parts = ("codec",)
    networks = ("codec",)

    @property
    def sampling_rate(self) -> int:
        return as_codec(self.components["codec"]).sampling_rate

    @property
    def channels(self) -> int:  # type: ignore[override]
        return as_codec(self.components["codec"]).channels

    def stream(self, name: str, first_codebook: int = 0, num_codebooks: int | None = None) -> TokenStream:
        codec = as_codec(self.components["codec"])
        number = codec.num_codebooks - first_codebook if num_codebooks is None else num_codebooks
        return TokenStream(
            name,
            codec.codebook_size,
            number,
            codec.frame_rate,
            codebook_fingerprint=codec.fingerprint(first_codebook, first_codebook + number),
            source="codec",
            first_codebook=first_codebook,
        )

    def encode(self, crops: np.ndarray, num_codebooks: int) -> np.ndarray:
        codec = as_codec(self.components["codec"])
        audio = torch.from_numpy(crops if crops.ndim == 3 else crops[:, None])
        parts = audio.split(CODEC_CROPS_ON_CPU if codec.device.type == "cpu" else len(audio))
        return torch.cat([codec.encode(part, num_codebooks) for part in parts]).cpu().numpy()


#: source of a stream → what makes it
SOURCES: dict[str, type[Source]] = {"clap": ClapSource, "semantic": SemanticSource, "codec": CodecSource}


def register_source(name: str, source: type[Source]) -> None:
    """Let streams of the source `name` be made by `source`."""
    SOURCES[name] = source


def describing_source(name: str | None, components: Mapping[str, Any]) -> Source | None:
    """The source of that name if the components that describe its streams are there, else `None`."""
    source = SOURCES.get(str(name))
    if source is None or any(components.get(part) is None for part in source.codebook_parts):
        return None
    return source(components)


def stream_as_made(stream: TokenStream, components: Mapping[str, Any]) -> TokenStream | None:
    """A stream as these components make it, `None` if they do not make its source.

    Raises:
        ValueError: the source has fewer codebooks than the stream is of.
    """
    source = describing_source(stream.source, components)
    if source is None:
        return None
    return source.stream(stream.name, stream.first_codebook or 0, stream.num_codebooks)


def streams_to_make(stages: Sequence[Sequence[TokenStream]], components: Mapping[str, Any]) -> list[TokenStream]:
    """Every stream of any stage, once, as these components make it from audio.

    Streams of the time after a window are left out: their codebooks stand in another stream. So are optional ones that
    nothing here makes.

    Raises:
        ValueError: a stream that is not optional has a source that nothing here makes, or whose components are missing.
    """
    made: dict[str, TokenStream] = {}
    for stream in (stream for streams in stages for stream in streams):
        if stream.name in made or stream.context != "same":
            continue
        source = SOURCES.get(str(stream.source))
        missing = [part for part in (source.parts if source else ()) if components.get(part) is None]
        if source is None or missing:
            if stream.optional:
                continue
            what = (
                f"{', '.join(missing)}, which the pipeline does not have" if missing else f"a source {stream.source!r}"
            )
            raise ValueError(
                f"Making tokens of the stream {stream.name!r} needs {what}; there are {', '.join(SOURCES)} "
                "(`open_musiclm.tokenizers.sources.register_source` takes another)."
            )
        made[stream.name] = source(components).stream(stream.name, stream.first_codebook or 0, stream.num_codebooks)
    return list(made.values())
