"""Every number of the mini recipe in one place: sizes, rates, step counts. The same on a CPU and on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Training:
    """How long and how fast one network trains."""

    num_steps: int
    batch_size: int
    learning_rate: float


@dataclass(frozen=True)
class Recipe:
    seed: int = 0
    # corpus
    num_train_clips: int = 3000
    num_heldout_clips: int = 200
    num_token_clips: int = 4000  # further ones, for the acoustic stages
    clip_length_in_s: int = 10
    sampling_rate: int = 24_000
    frame_rate: int = 25  # of the truth and of every stream of tokens
    # CLAP
    vocab_size: int = 640
    clap_text: Training = Training(1500, 192, 1e-3)
    clap: Training = Training(700, 48, 1e-3)
    # semantic encoder: 16 kHz, one frame in 640 samples
    semantic_sampling_rate: int = 16_000
    semantic_hop: int = 640
    semantic_layer: int = 2
    semantic: Training = Training(900, 24, 1.5e-3)
    # codec: spectra of 24 kHz audio, 25 frames of codes a second
    codec_hidden_size: int = 256
    codec_num_codebooks: int = 6  # in training; the first ones are kept
    num_coarse: int = 3
    num_fine: int = 1
    codec_codebook_size: int = 1024
    codec_crop_in_s: float = 2.0
    codec: Training = Training(3600, 16, 1.5e-3)
    # codebooks
    num_clap_quantizers: int = 8
    clap_codebook_size: int = 128
    clap_noise: float = 0.035  # a dimension: about how far the audio tower misses
    # stages
    stage_hidden_size: tuple[int, int, int] = (256, 192, 128)  # semantic, coarse, fine
    stage_num_layers: tuple[int, int, int] = (5, 4, 2)
    condition_dropout: float = 0.1
    after_in_s: float = 1.0  # how much of what follows the coarse stage may be told
    num_score_workers: int = 4  # processes that compose for the semantic stage, where there is a GPU
    num_short_windows: int = 14  # a batch of the semantic stage, where they take the place of whole ones
    # how much more the first frame and the first ones weigh in the loss, and how many frames that takes to fade
    early_weights: tuple[tuple[float, float, float], ...] = ((60.0, 6.0, 20.0), (25.0, 4.0, 8.0), (0.0, 0.0, 1.0))
    sung_weight: float = 5.0  # added where the semantic stage is told which vowel is sung
    harmony_weight: float = 15.0  # added to the harmony of the semantic stage: whether a piece goes on
    semantic_stage: Training = Training(2400, 8, 1.5e-3)
    coarse_stage: Training = Training(2600, 8, 2e-3)
    fine_stage: Training = Training(800, 16, 3e-3)
    # what each stage samples with unless told otherwise
    sampling: tuple[dict, dict, dict] = (
        {"temperature": 0.7, "top_k": 60, "guidance_scale": 3.0},
        {"temperature": 0.8, "top_k": 100, "guidance_scale": None},
        {"temperature": 0.5, "top_k": 50, "guidance_scale": None},
    )


def tiny_recipe() -> Recipe:
    """The same path in a minute or two, to see that it runs; what comes out is noise."""
    return replace(
        Recipe(),
        num_train_clips=100,
        num_heldout_clips=100,
        num_token_clips=100,
        vocab_size=400,
        clap_text=Training(4, 16, 1e-3),
        clap=Training(3, 8, 1e-3),
        semantic=Training(3, 4, 1e-3),
        codec=Training(4, 4, 1e-3),
        codec_codebook_size=32,
        clap_codebook_size=16,
        num_short_windows=4,
        semantic_stage=Training(3, 2, 1e-3),
        coarse_stage=Training(3, 4, 1e-3),
        fine_stage=Training(3, 4, 1e-3),
    )
