"""Silence and clipping: faults that distances between embeddings can overlook."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Levels", "measure_levels"]

FRAME_IN_S = 0.1
SILENCE_IN_DB = -60.0  # of full scale, RMS of a frame
FULL_SCALE = 0.999
MIN_RUN = 3  # samples in a row at full scale; a single one may be a true peak


@dataclass(frozen=True)
class Levels:
    """Levels of one clip.

    Attributes:
        silent_share: Share of 0.1 s frames whose RMS is below −60 dB of full scale.
        clipped_share: Share of samples in runs of three and more at |x| ≥ 0.999.
        peak: Largest |x|.
        rms_in_db: RMS of the clip in dB of full scale; −inf for digital silence.
    """

    silent_share: float
    clipped_share: float
    peak: float
    rms_in_db: float

    @property
    def is_silent(self) -> bool:
        return self.silent_share >= 1.0

    @property
    def is_clipped(self) -> bool:
        return self.clipped_share > 0.0


def measure_levels(waveform: np.ndarray, sampling_rate: int) -> Levels:
    """Levels of a clip.

    Args:
        waveform: (channels, samples) or (samples,), full scale at ±1. A frame is silent if all channels are.
    """
    audio = np.atleast_2d(np.asarray(waveform, dtype=np.float64))
    if audio.shape[1] == 0:
        raise ValueError("a clip has no samples.")
    frame = min(max(round(FRAME_IN_S * sampling_rate), 1), audio.shape[1])
    num_frames = audio.shape[1] // frame
    frames = audio[:, : num_frames * frame].reshape(len(audio), num_frames, frame)
    rms = np.sqrt((frames**2).mean(axis=2)).max(axis=0)
    whole_rms = float(np.sqrt((audio**2).mean()))
    return Levels(
        silent_share=float(np.mean(rms < 10.0 ** (SILENCE_IN_DB / 20.0))),
        clipped_share=float(np.mean([_share_in_runs(np.abs(channel) >= FULL_SCALE) for channel in audio])),
        peak=float(np.abs(audio).max()),
        rms_in_db=float(20.0 * np.log10(whole_rms)) if whole_rms > 0 else -np.inf,
    )


def _share_in_runs(mask: np.ndarray) -> float:
    steps = np.diff(np.concatenate([[0], mask.astype(np.int8), [0]]))
    lengths = np.flatnonzero(steps == -1) - np.flatnonzero(steps == 1)
    return float(lengths[lengths >= MIN_RUN].sum() / len(mask))
