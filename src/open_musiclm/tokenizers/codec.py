"""A codec as everything else sees it: rates, codebooks, audio → codes → audio. Nobody else looks inside one.

    as_codec(model)   picks the adapter by the model's `config.model_type`:

        encodec   codec_encodec.py   EnCodec 24 kHz, 32 kHz, 48 kHz stereo
        dac       codec_dac.py       DAC 44.1, 24, 16 kHz
        mimi      codec_mimi.py      Mimi
        open_musiclm_spectral_codec  codec_spectral.py  this package's own, of spectra

A mono codec becomes one of two channels by the setting `stereo="interleaved"` of its config (codec_stereo.py).

Another codec is a subclass of [`Codec`] and a line of `ADAPTERS`, or a call of [`register_codec`].
"""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

from .fingerprints import codebook_fingerprint

#: length of the pieces that are decoded at a time, in seconds
PIECE_IN_S = 1


class CodecStream(ABC):
    """Codes piece by piece → audio: all pieces together are the whole decoding."""

    @abstractmethod
    def decode(self, codes: torch.Tensor, last: bool = False) -> torch.Tensor:
        """The next codes (batch, frames, codebooks) → the audio (batch, channels, samples) that is ready.

        Ready are all frames but the last [`Codec.lookahead`], which what follows can still change; with `last`, which
        says that nothing follows, all of them.
        """


class RowsApart(CodecStream):
    """A stream for each row of the batch, so that a row's samples do not depend on the others to the last bit.

    On a CPU the shape of a convolution changes how it rounds, and rows together are hardly faster.
    """

    def __init__(self, make_stream: Callable[[], CodecStream]):
        self.make_stream = make_stream
        self.streams: list[CodecStream] = []

    def decode(self, codes: torch.Tensor, last: bool = False) -> torch.Tensor:
        if not self.streams:
            self.streams = [self.make_stream() for _ in codes]
        rows = zip(self.streams, codes.split(1), strict=True)
        return torch.cat([stream.decode(row, last) for stream, row in rows])


class Codec(ABC):
    """What turns audio into codes and codes into audio.

    Args:
        model: the network; it stays where it is, on its device and in its dtype.

    Attributes:
        sampling_rate: of the audio, in Hz.
        channels: of the audio.
        hop_length: samples a frame.
        num_codebooks, codebook_size: of its codes.
        lookahead: frames that have to be known after a frame before its audio is final.
        shortest_piece: frames of a first piece, so that there is something to decode.
    """

    sampling_rate: int
    channels: int = 1
    hop_length: int
    num_codebooks: int
    codebook_size: int
    lookahead: int = 0
    shortest_piece: int = 1

    def __init__(self, model: Any):
        self.model = model

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sampling_rate / self.hop_length

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def frames_a_piece(self) -> int:
        """Frames decoded at a time; a stream uses the same ones, so that it equals a whole decoding bit for bit."""
        return max(math.ceil(PIECE_IN_S * self.frame_rate), self.shortest_piece)

    # ------------------------------------------------------------- of a codec

    @abstractmethod
    def _encode(self, audio: torch.Tensor, num_codebooks: int) -> torch.Tensor:
        """Audio (batch, channels, samples) on the model's device → codes (batch, ceil(samples / hop), num_codebooks)."""

    @abstractmethod
    def stream(self) -> CodecStream:
        """A decoding in pieces."""

    @abstractmethod
    def codebooks(self) -> list[torch.Tensor]:
        """The values of each codebook, (codebook_size, dim)."""

    # -------------------------------------------------------------- of them all

    def batch_stream(self) -> CodecStream:
        """A decoding in pieces of rows that do not depend on one another."""
        return RowsApart(self.stream) if self.device.type == "cpu" else self.stream()

    @torch.no_grad()
    def encode(self, audio: torch.Tensor, num_codebooks: int | None = None) -> torch.Tensor:
        """Audio at the codec's rate → codes.

        Args:
            audio (batch, channels, samples): of any length; one channel stands for all, several are averaged for a
                codec of one.
            num_codebooks: the first so many; by default all.

        Returns:
            (batch, frames, num_codebooks) int64, of ceil(samples / hop_length) frames.

        Raises:
            ValueError: audio of another shape or number of channels; more codebooks than there are.
        """
        if audio.ndim != 3 or not audio.shape[-1]:
            raise ValueError(
                f"Audio to encode must have the shape (batch, channels, samples), got {tuple(audio.shape)}."
            )
        number = self.num_codebooks if num_codebooks is None else num_codebooks
        self._check_codebooks(0, number)
        if audio.shape[1] != self.channels:
            if audio.shape[1] == 1:
                audio = audio.expand(-1, self.channels, -1)
            elif self.channels == 1:
                audio = audio.mean(dim=1, keepdim=True)
            else:
                raise ValueError(f"The codec has {self.channels} channels; the audio has {audio.shape[1]}.")
        return self._encode(audio.to(self.device, self.model.dtype), number)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, num_samples: int | None = None) -> torch.Tensor:
        """Codes (batch, frames, codebooks) → audio (batch, channels, samples), in the memory of a second of audio.

        Args:
            codes: of the first codebooks, as many as there are.
            num_samples: length of the audio; by default frames · hop_length.
        """
        num_frames = codes.shape[1]
        # of its final length from the start: a long piece stands in memory once
        audio = torch.empty(
            len(codes), self.channels, num_frames * self.hop_length, device=self.device, dtype=self.model.dtype
        )
        stream, first, done = self.batch_stream(), 0, 0
        while first < num_frames:
            stop = first + self.frames_a_piece + (0 if first else self.lookahead)
            made = stream.decode(codes[:, first:stop].to(self.device), last=stop >= num_frames)
            audio[..., done : done + made.shape[-1]] = made
            first, done = stop, done + made.shape[-1]
        return audio if num_samples is None else audio[..., :num_samples]

    def fingerprint(self, first: int = 0, last: int | None = None) -> str | None:
        """Fingerprint of the codebooks `first` … `last - 1`.

        Returns:
            `None` for a codec held in less than float32, whose codebooks no longer have the values they were trained
            with.
        """
        self._check_codebooks(first, self.num_codebooks if last is None else last)
        codebooks = torch.stack(self.codebooks()[first:last])
        return codebook_fingerprint(codebooks) if codebooks.dtype == torch.float32 else None

    def _check_codebooks(self, first: int, last: int) -> None:
        if not 0 <= first < last <= self.num_codebooks:
            raise ValueError(f"The codec has {self.num_codebooks} codebooks; asked for {first} to {last}.")


#: model type → the maker of its adapter, or the module and name of one that is imported when it is needed
ADAPTERS: dict[str, Callable[[Any], Codec] | tuple[str, str]] = {
    "encodec": (".codec_encodec", "make_encodec"),
    "dac": (".codec_dac", "DacCodec"),
    "mimi": (".codec_mimi", "MimiCodec"),
    "open_musiclm_spectral_codec": (".codec_spectral", "SpectralCodec"),
}


def register_codec(model_type: str, adapter: Callable[[Any], Codec]) -> None:
    """Let [`as_codec`] make `adapter(model)` for models with this `config.model_type`."""
    ADAPTERS[model_type] = adapter


def as_codec(model: Any) -> Codec:
    """The adapter of a codec model.

    Raises:
        ValueError: there is none for its type.
    """
    if isinstance(model, Codec):
        return model
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    adapter = ADAPTERS.get(str(model_type))
    if adapter is None:
        raise ValueError(
            f"No adapter for a codec of the type {model_type!r}; there are {', '.join(ADAPTERS)}. "
            "Write a subclass of `open_musiclm.tokenizers.codec.Codec` and pass it to `register_codec`."
        )
    if isinstance(adapter, tuple):
        module, name = adapter
        adapter = getattr(importlib.import_module(module, __package__), name)
    layout = getattr(model.config, "stereo", None)
    if layout is None:
        return adapter(model)
    if layout != "interleaved":
        raise ValueError(f'A codec\'s config may say `stereo` "interleaved" or nothing, got {layout!r}.')
    from .codec_stereo import InterleavedStereo

    return InterleavedStereo(adapter(model))


def codec_fingerprint(codec: Any, first: int = 0, last: int | None = None) -> str | None:
    """Fingerprint of a codec model's codebooks `first` … `last - 1`: see [`Codec.fingerprint`]."""
    return as_codec(codec).fingerprint(first, last)
