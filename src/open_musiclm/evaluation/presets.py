"""Constants of the evaluations that published figures come from, each as its source sets it.

A preset fixes everything but the networks: rates, levels, windows, tails, constants. What its source did with a network
that transformers does not have (VGGish, PaSST) is said in `source_backbones`; a figure made with another network
carries a warning and may not be set beside the source's.

- `audiocraft`: facebookresearch/audiocraft at 896ec7c: `config/solver/musicgen/default.yaml`, `audiocraft/metrics/`.
- `fadtk`: microsoft/fadtk at ec74b1f: `fadtk/model_loader.py` (`CLAPLaionModel`), `fadtk/fad.py`.
- `google`: google-research/frechet_audio_distance: `create_embeddings_main.py`, `audioset_model.py`.
- `default`: windows of 10 s side by side, which CLAP and AST were trained on; the last one ends with the clip.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .records import Windowing

__all__ = ["PRESETS", "Preset", "fit_windowing", "get_preset"]

TEN_SECONDS = Windowing()


@dataclass(frozen=True)
class Preset:
    """One source's constants.

    Attributes:
        distance: Windows for FAD, FAD∞ and KAD.
        embedding_dtype: Embeddings are rounded to this before the distances (fadtk stores float16).
        fad_num_steps, fad_min_samples, fad_replace: FAD∞, see `frechet_infinity`.
        classifier: Windows for the KL divergence.
        kl_direction, kl_epsilon: See `paired_kl_divergence`.
        clap: Windows for the CLAP score.
        clap_first_window_only: Score only the first window of a clip.
        chroma_n_fft, chroma_hop_length, chroma_sampling_rate: See `chroma_agreement`.
        source_backbones: Metric -> the network of the source.
        deviations: What of the source is not done here, in words.
    """

    name: str
    source: str
    distance: Windowing = TEN_SECONDS
    embedding_dtype: str = "float64"
    fad_num_steps: int = 25
    fad_min_samples: int = 500
    fad_replace: bool = False
    classifier: Windowing = TEN_SECONDS
    kl_direction: str = "reference||generated"
    kl_epsilon: float = 1e-6
    clap: Windowing = TEN_SECONDS
    clap_first_window_only: bool = False
    chroma_n_fft: int = 2**14
    chroma_hop_length: int = 2**12
    chroma_sampling_rate: int = 32000
    source_backbones: dict[str, str] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()


# VGGish on 1 s cuts every 0.5 s (8,000 samples), each of which makes one 0.96 s example; a rest of less than 1 s is lost
GOOGLE_DISTANCE = Windowing(
    window_in_s=1.0, hop_in_s=0.5, tail="drop", starts="covering", sampling_rate=16000, level="google_peak"
)

PRESETS = {
    "default": Preset(name="default", source="this package"),
    "audiocraft": Preset(
        name="audiocraft",
        source="https://github.com/facebookresearch/audiocraft/tree/896ec7c47f5e5d1e5aa1e4b260c4405328bf009d",
        # Google's tool; both sets are first written at −1 dB peak, which its own division by the largest sample undoes
        distance=GOOGLE_DISTANCE,
        # PaSST: 20 s pieces side by side at 32 kHz, the last one short, none of 0.15 s and less
        classifier=Windowing(window_in_s=20.0, hop_in_s=20.0, tail="keep", min_tail_in_s=0.15, sampling_rate=32000),
        kl_direction="reference||generated",
        kl_epsilon=1e-6,
        # laion_clap: one 10 s window a clip, shorter clips repeated, which `back` does too
        clap=TEN_SECONDS,
        clap_first_window_only=True,
        source_backbones={
            "FAD": "VGGish (TensorFlow)",
            "KL divergence": "PaSST, 20 s (hear21passt.base20sec)",
            "CLAP score": "laion music_audioset_epoch_15_esc_90.14, HTSAT-base, no fusion",
        },
        deviations=(
            "CLAP score: of a clip longer than 10 s the source takes a random 10 s; here it is the first 10 s.",
            "Resampling is by soxr; the source uses julius.",
            "Audio is rounded through 16-bit integers before CLAP; the source does not round it.",
            "Means are over clips; the source's are over windows and frames, the same for clips of one length.",
            "A reference is not cut to the generated clip's length, as the source has it; give clips of one length.",
        ),
    ),
    "fadtk": Preset(
        name="fadtk",
        source="https://github.com/microsoft/fadtk/tree/ec74b1f96d5576ec04e721985fa0f0d14d965d9b",
        # 10 s every second up to the end of the clip, each rest filled with zeros, samples through int16
        distance=Windowing(window_in_s=10.0, hop_in_s=1.0, tail="zero", starts="all", sampling_rate=48000, int16=True),
        embedding_dtype="float16",
        fad_num_steps=25,
        fad_min_samples=500,
        fad_replace=True,
        source_backbones={
            "FAD": "clap-laion-audio (630k-audioset-best, HTSAT-tiny) or clap-laion-music (HTSAT-base)",
            "FAD∞": "clap-laion-audio (630k-audioset-best, HTSAT-tiny) or clap-laion-music (HTSAT-base)",
        },
        deviations=(
            "Resampling is by soxr; the source uses torchaudio's sinc_interp_kaiser.",
            "FAD∞ of fewer windows than 501 starts at a quarter of them; the source draws 500 from them all the same.",
            "KAD, KL divergence, CLAP score and chroma are not the source's; they are as in the default preset.",
        ),
    ),
    "google": Preset(
        name="google",
        source="https://github.com/google-research/google-research/tree/master/frechet_audio_distance",
        distance=GOOGLE_DISTANCE,
        source_backbones={"FAD": "VGGish (TensorFlow)"},
        deviations=("All but FAD is as in the default preset.",),
    ),
}


def get_preset(name: str) -> Preset:
    """The preset of that name."""
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; the presets are {', '.join(PRESETS)}.")
    return PRESETS[name]


def fit_windowing(windowing: Windowing, max_window_in_s: float | None) -> tuple[Windowing, tuple[str, ...]]:
    """Shortens windows to the longest that a network takes, and says so."""
    if max_window_in_s is None or (windowing.window_in_s or float("inf")) <= max_window_in_s + 1e-9:
        return windowing, ()
    hop = min(windowing.hop_in_s or max_window_in_s, max_window_in_s)
    said = f"windows of {windowing.window_in_s or 'any length in'} s cut to {max_window_in_s:g} s, the longest the network takes"
    return replace(windowing, window_in_s=max_window_in_s, hop_in_s=hop), (said,)
