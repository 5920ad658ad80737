"""A codec whose codes say how loud each frequency is, and no phase.

    audio ─ STFT, log magnitudes ─ encoder ─ residual vector quantizer ─ decoder ─ magnitudes ─ phases ─ audio

A waveform codec spends most of its bits on phase, which a small language model can neither predict nor do without. Here
a held note is a constant code, and the decoder finds phases that fit the magnitudes (phases.py). It works in blocks of a
second, each continuing the samples before it, so that decoding in pieces gives the samples of decoding the whole.

The calls are those of transformers' `EncodecModel`.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.models.encodec.modeling_encodec import EncodecDecoderOutput, EncodecEncoderOutput

from ..hub.publishing import PublishedModel
from .configuration import SpectralCodecConfig
from .phases import PhaseFinder

#: magnitudes are encoded as log(magnitude + FLOOR); a sine of amplitude 1 has the magnitude fft_size / 4
FLOOR = 0.02
#: what log magnitudes are divided by on their way into the encoder
LOG_SCALE = 3.0
#: samples beyond this are bent, so that none reaches 1
KNEE, CEILING = 0.7, 0.98


def bend_peaks(audio: torch.Tensor) -> torch.Tensor:
    """Samples within ±`KNEE` as they are, those beyond bent to stay within ±`CEILING`.

    Loud music was limited before it was encoded; with phases that are found, not kept, its peaks come out higher again.
    """
    room = CEILING - KNEE
    return torch.where(
        audio.abs() <= KNEE, audio, audio.sign() * (KNEE + room * torch.tanh((audio.abs() - KNEE) / room))
    )


class SpectralCodebook(nn.Module):
    """One step of the residual quantizer: the entry nearest to what the steps before left."""

    def __init__(self, config: SpectralCodecConfig):
        super().__init__()
        self.embed = nn.Parameter(torch.empty(config.codebook_size, config.codebook_dim), requires_grad=False)

    def encode(self, vectors: torch.Tensor) -> torch.Tensor:
        """(…, dim) → (…) int64."""
        return (vectors @ self.embed.T - self.embed.square().sum(-1) / 2).argmax(-1)


class SpectralQuantizerLayer(nn.Module):
    def __init__(self, config: SpectralCodecConfig):
        super().__init__()
        self.codebook = SpectralCodebook(config)


class SpectralQuantizer(nn.Module):
    """Residual vector quantizer."""

    def __init__(self, config: SpectralCodecConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList([SpectralQuantizerLayer(config) for _ in range(config.num_codebooks)])

    @property
    def codebooks(self) -> list[SpectralCodebook]:
        return [cast(SpectralQuantizerLayer, layer).codebook for layer in self.layers]

    def get_num_quantizers_for_bandwidth(self, bandwidth: float | None = None) -> int:
        """How many codebooks the bandwidth, in kbit/s, pays for."""
        if bandwidth is None:
            return len(self.layers)
        return max(sum(known <= bandwidth + 1e-6 for known in self.config.target_bandwidths), 1)

    def encode(self, latents: torch.Tensor, num_codebooks: int) -> torch.Tensor:
        """(batch, dim, frames) → (num_codebooks, batch, frames) int64."""
        residual, codes = latents.transpose(1, 2).to(self.codebooks[0].embed), []
        for codebook in self.codebooks[:num_codebooks]:
            codes.append(codebook.encode(residual))
            residual = residual - codebook.embed[codes[-1]]
        return torch.stack(codes)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """(codebooks, batch, frames) → (batch, dim, frames); fewer codebooks than there are will do."""
        vectors = [codebook.embed[some] for codebook, some in zip(self.codebooks, codes, strict=False)]
        return torch.stack(vectors).sum(dim=0).transpose(1, 2)


class SpectralBlock(nn.Module):
    """x + pointwise(GELU(convolution(x))); `before` and `after` say how far the convolution sees."""

    def __init__(self, size: int, before: int, after: int):
        super().__init__()
        self.padding = (before, after)
        self.conv = nn.Conv1d(size, size, before + after + 1)
        self.out = nn.Conv1d(size, size, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.out(F.gelu(self.conv(F.pad(F.gelu(hidden), self.padding))))


class SpectralEncoder(nn.Module):
    """Log magnitudes (batch, bins, spectra) → latents (batch, dim, frames)."""

    def __init__(self, config: SpectralCodecConfig):
        super().__init__()
        size, stride = config.hidden_size, config.spectra_per_frame
        self.layers = nn.Sequential(
            nn.Conv1d(config.fft_size // 2 + 1, size, 1),
            SpectralBlock(size, 1, 1),
            nn.Conv1d(size, size, stride, stride=stride),
            SpectralBlock(size, 0, 0),
            nn.Conv1d(size, config.codebook_dim, 1),
        )

    def forward(self, log_magnitudes: torch.Tensor) -> torch.Tensor:
        return self.layers(log_magnitudes / LOG_SCALE)


class SpectralDecoder(nn.Module):
    """Latents (batch, dim, frames) → log magnitudes (batch, bins, spectra).

    A frame's spectra depend on `context_before` frames before it and `context_after` after it.
    """

    def __init__(self, config: SpectralCodecConfig):
        super().__init__()
        size, self.stride = config.hidden_size, config.spectra_per_frame
        self.first = nn.Conv1d(config.codebook_dim, size, 3, padding=1)
        self.blocks = nn.Sequential(*[SpectralBlock(size, 2, 0) for _ in range(config.num_decoder_blocks)])
        self.spread = nn.Conv1d(size, size * self.stride, 1)
        self.last_block = SpectralBlock(size, 1, 1)
        self.last = nn.Conv1d(size, config.fft_size // 2 + 1, 1)
        self.context_before = 1 + 2 * config.num_decoder_blocks + 1
        self.context_after = 2

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        hidden = self.spread(self.blocks(self.first(latents)))
        batch, _, frames = hidden.shape
        hidden = (
            hidden.view(batch, self.stride, -1, frames).permute(0, 2, 3, 1).reshape(batch, -1, frames * self.stride)
        )
        return self.last(self.last_block(hidden)) * LOG_SCALE


class SpectralCodecModel(PublishedModel, PreTrainedModel):  # type: ignore[misc]  # `push_to_hub` is ours
    """Audio → codes of magnitudes → audio, with the calls of `EncodecModel`."""

    config: SpectralCodecConfig
    config_class = SpectralCodecConfig
    base_model_prefix = "spectral_codec"
    main_input_name = "input_values"

    def __init__(self, config: SpectralCodecConfig):
        super().__init__(config)
        self.encoder = SpectralEncoder(config)
        self.quantizer = SpectralQuantizer(config)
        self.decoder = SpectralDecoder(config)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv1d):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, SpectralCodebook):
            init.normal_(module.embed)

    def magnitudes(self, audio: torch.Tensor) -> torch.Tensor:
        """(batch, samples) → (batch, bins, spectra): of every hop's beginning, whole frames of codes only."""
        config = self.config
        audio = audio.float()
        num_spectra = audio.shape[1] // config.hop_length * config.spectra_per_frame
        window = torch.hann_window(config.fft_size, device=audio.device)
        spectra = torch.stft(
            audio, config.fft_size, config.fft_hop, window=window, pad_mode="constant", return_complex=True
        )
        return spectra[..., :num_spectra].abs()

    @torch.no_grad()
    def encode(
        self,
        input_values: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        bandwidth: float | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Audio (batch, 1, samples) → `audio_codes` (1, batch, codebooks, frames).

        Args:
            padding_mask: (batch, samples) or (batch, 1, samples), 0 where the audio is to be silent.
            bandwidth: kbit/s, one of the config's `target_bandwidths`; by default all codebooks.

        Raises:
            ValueError: more than one channel, less than one frame, or an unknown bandwidth.
        """
        config = self.config
        if input_values.ndim != 3 or input_values.shape[1] != 1:
            raise ValueError(f"Audio must have the shape (batch, 1, samples), got {tuple(input_values.shape)}.")
        if input_values.shape[2] < config.hop_length:
            raise ValueError(f"Audio needs at least {config.hop_length} samples, got {input_values.shape[2]}.")
        if bandwidth is not None and not any(abs(bandwidth - known) < 1e-6 for known in config.target_bandwidths):
            raise ValueError(f"`bandwidth` must be one of {config.target_bandwidths} kbit/s, got {bandwidth}.")
        audio = input_values[:, 0]
        if padding_mask is not None:
            audio = audio * padding_mask.reshape(audio.shape)
        logs = torch.log(self.magnitudes(audio) + FLOOR).to(self.dtype)
        num_codebooks = self.quantizer.get_num_quantizers_for_bandwidth(bandwidth)
        codes = self.quantizer.encode(self.encoder(logs), num_codebooks).transpose(0, 1)[None]
        output: Any = (codes, [None], 0)  # what there is no scale of
        return EncodecEncoderOutput(*output) if return_dict is not False else output

    @torch.no_grad()
    def decode(
        self,
        audio_codes: torch.Tensor,
        audio_scales: list | None = None,
        padding_mask: torch.Tensor | None = None,
        return_dict: bool | None = None,
        last_frame_pad_length: int | None = 0,
    ) -> Any:
        """Codes (1, batch, codebooks, frames) → `audio_values` (batch, 1, frames · hop_length).

        `audio_scales` and `last_frame_pad_length` are EnCodec's and mean nothing here.
        """
        if audio_codes.ndim != 4 or len(audio_codes) != 1:
            raise ValueError(
                f"Codes must have the shape (1, batch, codebooks, frames), got {tuple(audio_codes.shape)}."
            )
        stream = SpectralCodecStream(self)
        codes = audio_codes[0].transpose(1, 2)
        audio = torch.cat([stream.push(codes), stream.finish()], dim=-1)
        if padding_mask is not None:
            audio = audio[..., : padding_mask.shape[-1]]
        return EncodecDecoderOutput(audio) if return_dict is not False else (audio,)

    def forward(
        self, input_values: torch.Tensor, padding_mask: torch.Tensor | None = None, bandwidth: float | None = None
    ) -> torch.Tensor:
        """Audio (batch, 1, samples) → what the codec makes of it, (batch, 1, whole frames)."""
        return self.decode(self.encode(input_values, padding_mask, bandwidth).audio_codes).audio_values


class SpectralCodecStream:
    """Decodes codes as they come, in blocks of about a second: the samples of one whole decoding.

    A block waits for a few frames after its end (`num_frames_ahead`), so audio lags behind the codes by these.
    """

    def __init__(self, codec: SpectralCodecModel):
        config = codec.config
        self.codec = codec
        self.block = max(round(config.frame_rate), 1)  # frames of codes
        self.phases = PhaseFinder(config.fft_size, config.fft_hop, config.num_phase_iterations, codec.device)
        crossing = self.phases.num_spectra_around + 1
        self.num_frames_ahead = -(-crossing // config.spectra_per_frame) + codec.decoder.context_after
        self.codes: torch.Tensor | None = None  # (batch, frames, codebooks), from `first` on
        self.first = self.done = 0  # frames

    def push(self, codes: torch.Tensor) -> torch.Tensor:
        """The next codes (batch, frames, codebooks) → the audio that is ready, (batch, 1, samples), perhaps none."""
        self.codes = codes if self.codes is None else torch.cat([self.codes, codes], dim=1)
        pieces = [codes.new_zeros(len(codes), 0, dtype=torch.float32)]
        while self.first + self.codes.shape[1] >= self.done + self.block + self.num_frames_ahead:
            pieces.append(self._decode_block(self.block))
        return torch.cat(pieces, dim=1)[:, None]

    def finish(self) -> torch.Tensor:
        """No more codes will come: the rest of the audio."""
        if self.codes is None:
            raise ValueError("There are no codes to finish: push some first.")
        pieces = [self.codes.new_zeros(len(self.codes), 0, dtype=torch.float32)]
        while (left := self.first + self.codes.shape[1] - self.done) > 0:
            pieces.append(self._decode_block(min(left, self.block)))
        return torch.cat(pieces, dim=1)[:, None]

    def _decode_block(self, num_frames: int) -> torch.Tensor:
        """Audio (batch, samples) of the frames from `done` on; forgets what no later block needs."""
        config, decoder, codes = self.codec.config, self.codec.decoder, self.codes
        assert codes is not None
        start = max(self.done - decoder.context_before - self.num_frames_ahead, 0)
        stop = self.done + num_frames + self.num_frames_ahead
        some = codes[:, start - self.first : stop - self.first]
        latents = self.codec.quantizer.decode(some.permute(2, 0, 1)).to(self.codec.dtype)
        log_magnitudes = decoder(latents).float()
        magnitudes = (torch.exp(log_magnitudes.clamp(max=math.log(config.fft_size))) - FLOOR).clamp(min=0)
        stride = config.spectra_per_frame
        # silence before the piece and after it; in the block's spectra, `around` on each side
        around, offset = self.phases.num_spectra_around, (self.done - start) * stride
        magnitudes = F.pad(magnitudes, (max(around - offset, 0), stride * self.num_frames_ahead))
        offset = max(offset, around)
        magnitudes = magnitudes[..., offset - around : offset + num_frames * stride + around + 1]
        audio = bend_peaks(self.phases.find(magnitudes, num_frames * stride))
        self.done += num_frames
        keep = max(self.done - decoder.context_before - self.num_frames_ahead, 0)
        self.codes = codes[:, max(keep - self.first, 0) :]
        self.first = max(keep, self.first)
        return audio


AutoModel.register(SpectralCodecConfig, SpectralCodecModel, exist_ok=True)
