"""Configurations of the stages and of the quantizers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from ..registration import register_models
from .configuration_checks import check_ranges
from .streams import TokenStream, resolve_streams

POSITION_BIAS_TYPES = ("continuous", "t5", "none")


def _clap_stream(num_codebooks: int = 12) -> dict:
    return TokenStream("clap", codebook_size=1024, num_codebooks=num_codebooks).to_dict()


def _semantic_stream() -> dict:
    return TokenStream("semantic", codebook_size=1024, frame_rate=50.0, num_edge_frames=1).to_dict()


def _acoustic_stream(name: str, num_codebooks: int, **fields: Any) -> dict:
    stream = TokenStream(
        name, codebook_size=1024, num_codebooks=num_codebooks, frame_rate=75.0, source="codec", **fields
    )
    return stream.to_dict()


@strict
class MusicLMStageConfig(PreTrainedConfig):
    r"""
    A stage of any list of streams; by default a single stage, CLAP tokens → all codebooks of a codec in the delay
    pattern (as MusicGen, Copet et al. 2023). Its subclasses are MusicLM's three stages and differ in defaults only.

    Args:
        streams (`list[dict]`): the token streams in order, the last one predicted; each holds the fields of
            [`TokenStream`]. A stage with other streams (a melody, a genre) is another list, and no other code.
        hidden_size (`int`, defaults to 1024): width of the decoder.
        num_hidden_layers (`int`, defaults to 24): number of layers.
        num_attention_heads (`int`, defaults to 16): query heads; there is one key and one value head.
        head_dim (`int`, defaults to 64): size of a head, whatever `hidden_size` is.
        intermediate_size (`int`, *optional*): inner size of the feed-forward; by default `int(8 · hidden_size / 3)`
            with the convolution and `4 · hidden_size` without.
        use_conv_feed_forward (`bool`, defaults to `True`): a causal depthwise convolution inside the feed-forward.
        conv_kernel_size (`int`, defaults to 3): its kernel.
        position_bias_type (`str`, defaults to `"continuous"`): `"continuous"` (an MLP of the distance), `"t5"`
            (buckets of the distance) or `"none"`.
        relative_attention_num_buckets (`int`, defaults to 32), relative_attention_max_distance (`int`, defaults to
            128): of the `"t5"` bias.
        max_position_embeddings (`int`, *optional*): rows of each stream's table of learned absolute positions; `None`
            for no such tables.
        non_causal_prefix_size (`int`, defaults to 0): the first so many positions see one another both ways.
        gradient_shrink (`float`, defaults to 0.1): scale of the gradient that reaches the embeddings.
        forgetful_mask_prob (`float`, defaults to 0.15): share of key positions hidden at random in training.
        condition_dropout (`float`, defaults to 0.0): probability with which training hides all conditioning streams of a
            sample, and each optional one by itself. Above 0 every conditioning stream is optional, and `generate` has
            guidance.
        attention_dropout (`float`, defaults to 0.0), hidden_dropout (`float`, defaults to 0.1): dropout on the
            attention weights and its output, and inside the feed-forward.
        layer_norm_eps (`float`, defaults to 1e-5): of every layer norm.
        loss_weights (`list[float]`, *optional*): weight of each stream in the loss; by default the last one's alone.
        sampling_defaults (`dict`, *optional*): sampling settings that `generate` starts from, as
            generation_config.json has them. They stand here too because diffusers downloads a component's weights and
            config.json alone; saving a stage writes them.
        window_in_s (`float`): length of the audio that one sequence of this stage describes.
        window_stride_in_s (`float`): how far the next window starts behind one; the rest is carried over.
    """

    model_type = "open_musiclm_stage"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    streams: list | None = None
    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    head_dim: int = 64
    intermediate_size: int | None = None
    use_conv_feed_forward: bool = True
    conv_kernel_size: int = 3
    position_bias_type: str = "continuous"
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    max_position_embeddings: int | None = None
    non_causal_prefix_size: int = 0
    gradient_shrink: float = 0.1
    forgetful_mask_prob: float = 0.15
    condition_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.1
    layer_norm_eps: float = 1e-5
    loss_weights: list | None = None
    sampling_defaults: dict | None = None
    window_in_s: float | int = 10.0
    window_stride_in_s: float | int = 5.0
    use_cache: bool = True

    def __post_init__(self, **kwargs):
        register_models()
        if self.streams is None:
            self.streams = self._default_streams()
        self.streams = [stream.to_dict() for stream in resolve_streams(self.streams)]
        self.intermediate_size = self.inner_size
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of `@strict`-powered validation."""
        names = [stream["name"] for stream in self.streams or []]
        if not names:
            raise ValueError(
                f"{type(self).__name__} needs `streams`: a list of token streams, the last one predicted."
            )
        if len(set(names)) != len(names):
            raise ValueError(f"Streams must have different names, got {names}.")
        if self.position_bias_type not in POSITION_BIAS_TYPES:
            raise ValueError(
                f"`position_bias_type` must be one of {POSITION_BIAS_TYPES}, got {self.position_bias_type!r}."
            )
        if self.loss_weights is not None and len(self.loss_weights) != len(names):
            raise ValueError(f"`loss_weights` needs one weight for each of the {len(names)} streams {names}.")
        check_ranges(self, "stage")
        predicted = self.predicted_stream
        if predicted.optional or predicted.context != "same":
            raise ValueError(f"The predicted stream {names[-1]!r} can be neither optional nor of another time.")
        if not 0 <= self.condition_dropout < 1:
            raise ValueError(f"`condition_dropout` must lie in [0, 1), got {self.condition_dropout}.")
        if not 0 < self.window_stride_in_s <= self.window_in_s:
            raise ValueError(
                f"`window_stride_in_s` must lie in (0, window_in_s], got {self.window_stride_in_s} of "
                f"{self.window_in_s}."
            )

    @classmethod
    def _default_streams(cls) -> list[dict]:
        clap = TokenStream("clap", codebook_size=1024, num_codebooks=12, pattern="parallel")
        return [clap.to_dict(), _acoustic_stream("acoustic", 8, pattern="delay")]

    @classmethod
    def from_preset(cls, preset: str, **overrides: Any):
        """A published size: `"small"`, `"large"` (open-musiclm) or `"paper"` (MusicLM, section 4 and appendix).

        The stage of any streams also has `"single_stage"`: small, and with the conditioning hidden at times in
        training, so that `generate` has guidance (MusicGen, section 3.2).
        """
        presets = {"small": SMALL, "large": LARGE, "paper": LARGE | cls._paper_preset()}
        if cls is MusicLMStageConfig:
            presets["single_stage"] = SMALL | {"condition_dropout": 0.2}
        if preset not in presets:
            raise ValueError(f"Unknown preset {preset!r}; there are {sorted(presets)}.")
        return cls(**{**presets[preset], **overrides})

    @classmethod
    def _paper_preset(cls) -> dict:
        return {}

    @property
    def token_streams(self) -> list[TokenStream]:
        """The streams in order, the predicted one last; with `condition_dropout` all others are optional."""
        *conditions, predicted = [TokenStream(**stream) for stream in self.streams or ()]
        if self.condition_dropout > 0:
            conditions = [replace(stream, optional=True) for stream in conditions]
        return [*conditions, predicted]

    @property
    def predicted_stream(self) -> TokenStream:
        return self.token_streams[-1]

    @property
    def inner_size(self) -> int:
        """`intermediate_size`, or what it is by default."""
        if self.intermediate_size is not None:
            return self.intermediate_size
        return 8 * self.hidden_size // 3 if self.use_conv_feed_forward else 4 * self.hidden_size

    @property
    def num_key_value_heads(self) -> int:
        """Multi-query attention: one key and one value head."""
        return 1

    @property
    def layer_types(self) -> list[str]:
        """What a cache holds for each layer: keys and values, and with the convolution its last inputs."""
        return ["hybrid" if self.use_conv_feed_forward else "full_attention"] * self.num_hidden_layers


SMALL = {"num_hidden_layers": 6, "num_attention_heads": 8}
LARGE = {"num_hidden_layers": 24, "num_attention_heads": 16}


@strict
class MusicLMSemanticConfig(MusicLMStageConfig):
    """CLAP tokens → semantic tokens, windows of 10 s (12 + 499 tokens). See [`MusicLMStageConfig`]."""

    model_type = "open_musiclm_semantic"

    @classmethod
    def _default_streams(cls) -> list[dict]:
        return [_clap_stream(), _semantic_stream()]

    @classmethod
    def _paper_preset(cls) -> dict:
        return {"intermediate_size": 4096, "window_in_s": 30.0, "window_stride_in_s": 15.0}


@strict
class MusicLMCoarseConfig(MusicLMStageConfig):
    """CLAP and semantic tokens → coarse acoustic tokens, windows of 4 s (12 + 199 + 3 · 300 tokens)."""

    model_type = "open_musiclm_coarse"

    window_in_s: float | int = 4.0
    window_stride_in_s: float | int = 2.0

    @classmethod
    def _default_streams(cls) -> list[dict]:
        return [_clap_stream(), _semantic_stream(), _acoustic_stream("coarse", 3)]

    @classmethod
    def _paper_preset(cls) -> dict:
        streams = [_clap_stream(), _semantic_stream(), _acoustic_stream("coarse", 4)]
        return {"intermediate_size": 4096, "window_in_s": 10.0, "window_stride_in_s": 5.0, "streams": streams}


@strict
class MusicLMFineConfig(MusicLMStageConfig):
    """CLAP and coarse tokens → fine acoustic tokens, windows of 2 s side by side (12 + 3 · 150 + 5 · 150 tokens)."""

    model_type = "open_musiclm_fine"

    window_in_s: float | int = 2.0
    window_stride_in_s: float | int = 2.0

    @classmethod
    def _default_streams(cls) -> list[dict]:
        return [_clap_stream(), _acoustic_stream("coarse", 3), _acoustic_stream("fine", 5)]

    @classmethod
    def _paper_preset(cls) -> dict:
        streams = [_clap_stream(), _acoustic_stream("coarse", 4), _acoustic_stream("fine", 8)]
        return {"intermediate_size": 4096, "window_in_s": 3.0, "window_stride_in_s": 3.0, "streams": streams}


@strict
class ClapQuantizerConfig(PreTrainedConfig):
    """
    Residual quantizer of a CLAP embedding.

    Args:
        codebook_size (`int`, defaults to 1024): entries of each codebook.
        num_quantizers (`int`, defaults to 12): residual steps, so tokens an embedding.
        embedding_dim (`int`, defaults to 512): size of the CLAP embedding.
        window_in_s (`float`, defaults to 10.0): length of the audio that one embedding describes.
    """

    model_type = "open_musiclm_clap_quantizer"

    codebook_size: int = 1024
    num_quantizers: int = 12
    embedding_dim: int = 512
    window_in_s: float | int = 10.0

    def __post_init__(self, **kwargs):
        register_models()
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of `@strict`-powered validation."""
        check_ranges(self, "clap quantizer")


@strict
class SemanticQuantizerConfig(PreTrainedConfig):
    """
    k-means over the features of one layer of a speech or music encoder.

    Args:
        codebook_size (`int`, defaults to 1024): number of centroids.
        num_codebooks (`int`, defaults to 1): groups that a feature vector is cut into, equal in size; each has centroids
            of its own and makes one token a frame.
        feature_dim (`int`, defaults to 768): size of a feature vector.
        layer (`int`, defaults to 7): index into the encoder's `hidden_states`.
        normalize (`bool`, defaults to `True`): bring each vector to zero mean and unit variance over its features.
        frame_rate (`float`, defaults to 50.0): features a second.
        sampling_rate (`int`, defaults to 16000): of the audio that the encoder reads, in Hz.
        num_edge_frames (`int`, defaults to 1): frames that the encoder loses at the end of a crop.
    """

    model_type = "open_musiclm_semantic_quantizer"

    codebook_size: int = 1024
    num_codebooks: int = 1
    feature_dim: int = 768
    layer: int = 7
    normalize: bool = True
    frame_rate: float | int = 50.0
    sampling_rate: int = 16_000
    num_edge_frames: int = 1

    def __post_init__(self, **kwargs):
        register_models()
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of `@strict`-powered validation."""
        check_ranges(self, "semantic quantizer")
        if self.feature_dim % self.num_codebooks:
            raise ValueError(
                f"`num_codebooks` must divide the {self.feature_dim} features into equal groups, got {self.num_codebooks}."
            )


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

    def __post_init__(self, **kwargs):
        register_models()
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of `@strict`-powered validation."""
        check_ranges(self, "spectral codec")
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


for _config in (
    MusicLMStageConfig,
    MusicLMSemanticConfig,
    MusicLMCoarseConfig,
    MusicLMFineConfig,
    ClapQuantizerConfig,
    SemanticQuantizerConfig,
    SpectralCodecConfig,
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
