"""A codec whose codes say how loud each frequency is, and no phase.

    audio ─ STFT, log magnitudes ─ encoder ─ residual vector quantizer ─ decoder ─ magnitudes ─ phases ─ audio

A waveform codec spends most of its bits on phase, which a small language model can neither predict nor do without. Here
a held note is a constant code. The decoder finds phases that fit the magnitudes: at spectral peaks they are carried on
from frame to frame (single pass spectrogram inversion, Beauregard et al. 2015), and a few rounds of the fast Griffin-Lim
algorithm (Perraudin et al. 2013) make neighbouring frames agree. It works in blocks of a second, each continuing the
samples before it, so that decoding in pieces gives the samples of decoding the whole.

The calls are those of transformers' `EncodecModel`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.models.encodec.modeling_encodec import EncodecDecoderOutput, EncodecEncoderOutput

#: magnitudes are encoded as log(magnitude + FLOOR); a sine of amplitude 1 has the magnitude fft_size / 4
FLOOR = 0.02
#: what log magnitudes are divided by on their way into the encoder
LOG_SCALE = 3.0


@strict
class SpectralCodecConfig(PreTrainedConfig):
    r"""
    Args:
        sampling_rate (`int`, defaults to 24000): samples a second.
        audio_channels (`int`, defaults to 1): only mono is possible.
        fft_size (`int`, defaults to 2048), fft_hop (`int`, defaults to 480): of the Hann-windowed STFT, in samples.
        spectra_per_frame (`int`, defaults to 2): STFT frames that one frame of codes stands for.
        hidden_size (`int`, defaults to 320): width of the convolutions.
        num_decoder_blocks (`int`, defaults to 2): residual blocks at the rate of the codes.
        codebook_size (`int`, defaults to 1024), codebook_dim (`int`, defaults to 96), num_codebooks (`int`, defaults to
            6): of the residual vector quantizer.
        num_phase_iterations (`int`, defaults to 8): rounds of the fast Griffin-Lim algorithm.
    """

    model_type = "open_musiclm_spectral_codec"

    sampling_rate: int = 24_000
    audio_channels: int = 1
    fft_size: int = 2048
    fft_hop: int = 480
    spectra_per_frame: int = 2
    hidden_size: int = 320
    num_decoder_blocks: int = 2
    codebook_size: int = 1024
    codebook_dim: int = 96
    num_codebooks: int = 6
    num_phase_iterations: int = 8

    def validate_architecture(self):
        """Part of `@strict`-powered validation."""
        if self.audio_channels != 1:
            raise ValueError(f"A spectral codec is mono; got audio_channels={self.audio_channels}.")
        if not 0 < self.fft_hop <= self.fft_size // 4:
            raise ValueError(
                f"`fft_hop` must be at most a quarter of `fft_size` ({self.fft_size}), or phases cannot be found; got "
                f"{self.fft_hop}."
            )

    @property
    def hop_length(self) -> int:
        """Samples that one frame of codes stands for."""
        return self.fft_hop * self.spectra_per_frame

    @property
    def frame_rate(self) -> float:
        """Frames of codes a second."""
        return self.sampling_rate / self.hop_length

    @property
    def target_bandwidths(self) -> list[float]:
        """kbit/s with one codebook, two, …"""
        bits = math.log2(self.codebook_size) * self.frame_rate / 1000
        return [round(bits * count, 6) for count in range(1, self.num_codebooks + 1)]

    # what EnCodec's configuration has and this codec never does
    @property
    def normalize(self) -> bool:
        return False

    @property
    def chunk_length_s(self) -> None:
        return None


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

    def get_num_quantizers_for_bandwidth(self, bandwidth: float | None = None) -> int:
        """How many codebooks the bandwidth, in kbit/s, pays for."""
        if bandwidth is None:
            return len(self.layers)
        return max(sum(known <= bandwidth + 1e-6 for known in self.config.target_bandwidths), 1)

    def encode(self, latents: torch.Tensor, num_codebooks: int) -> torch.Tensor:
        """(batch, dim, frames) → (num_codebooks, batch, frames) int64."""
        residual, codes = latents.transpose(1, 2).to(self.layers[0].codebook.embed), []
        for layer in self.layers[:num_codebooks]:
            codes.append(layer.codebook.encode(residual))
            residual = residual - layer.codebook.embed[codes[-1]]
        return torch.stack(codes)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """(codebooks, batch, frames) → (batch, dim, frames); fewer codebooks than there are will do."""
        vectors = sum(layer.codebook.embed[some] for layer, some in zip(self.layers, codes, strict=False))
        return vectors.transpose(1, 2)


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
        hidden = hidden.view(batch, self.stride, -1, frames).permute(0, 2, 3, 1).reshape(batch, -1, frames * self.stride)
        return self.last(self.last_block(hidden)) * LOG_SCALE


class SpectralCodecModel(PreTrainedModel):
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
    ) -> EncodecEncoderOutput | tuple:
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
        return EncodecEncoderOutput(codes, [None], 0) if return_dict is not False else (codes, [None], 0)

    @torch.no_grad()
    def decode(
        self,
        audio_codes: torch.Tensor,
        audio_scales: list | None = None,
        padding_mask: torch.Tensor | None = None,
        return_dict: bool | None = None,
        last_frame_pad_length: int | None = 0,
    ) -> EncodecDecoderOutput | tuple:
        """Codes (1, batch, codebooks, frames) → `audio_values` (batch, 1, frames · hop_length).

        `audio_scales` and `last_frame_pad_length` are EnCodec's and mean nothing here.
        """
        if audio_codes.ndim != 4 or len(audio_codes) != 1:
            raise ValueError(f"Codes must have the shape (1, batch, codebooks, frames), got {tuple(audio_codes.shape)}.")
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
        self.past = config.fft_size  # samples known before a block
        reach = (config.fft_size // 2 - 1) // config.fft_hop  # spectra beside an edge whose windows cross it
        self.num_spectra_around = reach
        self.num_frames_ahead = -(-(reach + 1) // config.spectra_per_frame) + codec.decoder.context_after
        self.window = torch.hann_window(config.fft_size, device=codec.device)
        self.codes: torch.Tensor | None = None  # (batch, frames, codebooks), from `first` on
        self.first = self.done = 0  # frames
        self.audio: torch.Tensor | None = None  # (batch, past): the last samples
        self.phases: torch.Tensor | None = None  # (batch, bins) of the last spectrum before the block

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
        config, decoder = self.codec.config, self.codec.decoder
        start = max(self.done - decoder.context_before - self.num_frames_ahead, 0)
        stop = self.done + num_frames + self.num_frames_ahead
        some = self.codes[:, start - self.first : stop - self.first]
        latents = self.codec.quantizer.decode(some.permute(2, 0, 1)).to(self.codec.dtype)
        log_magnitudes = decoder(latents).float()
        magnitudes = (torch.exp(log_magnitudes.clamp(max=math.log(config.fft_size))) - FLOOR).clamp(min=0)
        stride = config.spectra_per_frame
        # silence before the piece and after it; in the block's spectra, `around` on each side
        around, offset = self.num_spectra_around, (self.done - start) * stride
        magnitudes = F.pad(magnitudes, (max(around - offset, 0), stride * self.num_frames_ahead))
        offset = max(offset, around)
        magnitudes = magnitudes[..., offset - around : offset + num_frames * stride + around + 1]
        audio = self._find_phases(magnitudes, num_frames * stride)
        self.done += num_frames
        keep = max(self.done - decoder.context_before - self.num_frames_ahead, 0)
        self.codes = self.codes[:, max(keep - self.first, 0) :]
        self.first = max(keep, self.first)
        return audio

    def _find_phases(self, magnitudes: torch.Tensor, num_spectra: int) -> torch.Tensor:
        """Magnitudes (batch, bins, around + num_spectra + around + 1) → audio (batch, num_spectra · fft_hop)."""
        hop, around = self.codec.config.fft_hop, self.num_spectra_around
        batch, bins, total = magnitudes.shape
        if self.audio is None:
            self.audio = magnitudes.new_zeros(batch, self.past)
            self.phases = magnitudes.new_zeros(batch, bins)
        # the buffer: `past` known samples, then as far as the last window reaches
        first_start = self.past - around * hop - len(self.window) // 2
        size = first_start + (total - 1) * hop + len(self.window)
        known = self.audio
        silence = known.new_zeros(batch, size - self.past)
        weights = self._overlap_add(self.window.square()[None, :, None].expand(1, -1, total), first_start, size)
        weights = weights.clamp(min=1e-3)

        spectra = self._analyse(torch.cat([known, silence], dim=1), first_start, total)
        phases = torch.cat([spectra[..., :around].angle(), self._carry_phases(magnitudes[..., around:])], dim=-1)
        estimate = torch.polar(magnitudes, phases)
        before: torch.Tensor | None = None
        for iteration in range(self.codec.config.num_phase_iterations + 1):
            frames = torch.fft.irfft(estimate, n=len(self.window), dim=1) * self.window[:, None]
            audio = self._overlap_add(frames, first_start, size) / weights
            audio = torch.cat([known, audio[:, self.past :]], dim=1)
            spectra = self._analyse(audio, first_start, total)
            if iteration == self.codec.config.num_phase_iterations:
                break
            moved = spectra if before is None else spectra + 0.99 * (spectra - before)
            before = spectra
            estimate = magnitudes * moved / moved.abs().clamp(min=1e-9)
        self.phases = spectra[..., around + num_spectra - 1].angle()
        end = self.past + num_spectra * hop
        self.audio = audio[:, end - self.past : end]
        return audio[:, self.past : end]

    def _analyse(self, audio: torch.Tensor, first_start: int, total: int) -> torch.Tensor:
        frames = audio[:, first_start:].unfold(1, len(self.window), self.codec.config.fft_hop)[:, :total]
        return torch.fft.rfft(frames * self.window, dim=2).transpose(1, 2)

    def _overlap_add(self, frames: torch.Tensor, first_start: int, size: int) -> torch.Tensor:
        """(batch, window, spectra) → (batch, size)."""
        total, hop = frames.shape[2], self.codec.config.fft_hop
        length = (total - 1) * hop + len(self.window)
        added = F.fold(frames, (1, length), (1, len(self.window)), stride=(1, hop))[:, 0, 0]
        return F.pad(added, (first_start, size - first_start - length))

    def _carry_phases(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """(batch, bins, spectra) → phases: each peak's goes on at the peak's frequency, its neighbours follow it."""
        config = self.codec.config
        batch, bins, total = magnitudes.shape
        logs = torch.log(magnitudes + 1e-9)
        left, right = F.pad(logs[:, :-1], (0, 0, 1, 0), value=1e9), F.pad(logs[:, 1:], (0, 0, 0, 1), value=1e9)
        is_peak = (logs > left) & (logs >= right)
        curvature = left - 2 * logs + right
        shift = torch.where(is_peak, 0.5 * (left - right) / curvature.clamp(max=-1e-6), 0.0).clamp(-0.5, 0.5)
        index = torch.arange(bins, device=magnitudes.device)[None, :, None].expand_as(magnitudes)
        advance = 2 * math.pi * config.fft_hop / config.fft_size * (index + shift)
        far = 2 * bins
        below = torch.where(is_peak, index, -far).cummax(dim=1).values
        above = torch.where(is_peak, index, 2 * far).flip(1).cummin(dim=1).values.flip(1)
        nearest = torch.where(index - below <= above - index, below, above)
        nearest = torch.where((nearest < 0) | (nearest >= bins), index, nearest)
        turn = math.pi * ((index - nearest) % 2)  # a centred Hann window: neighbours of a peak alternate in sign
        phases, current = [], self.phases
        for i in range(total):
            at = nearest[..., i]
            current = torch.remainder((current + advance[..., i]).gather(1, at) + turn[..., i], 2 * math.pi)
            phases.append(current)
        return torch.stack(phases, dim=-1)


AutoConfig.register(SpectralCodecConfig.model_type, SpectralCodecConfig, exist_ok=True)
AutoModel.register(SpectralCodecConfig, SpectralCodecModel, exist_ok=True)
