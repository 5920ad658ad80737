"""Spectrograms with their prompts, for the eye: notes are level lines, a buzz is a comb, noise is fog."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .hearing import Clip, resampled

RATE = 16_000


def draw(clips: Sequence[Clip], titles: Sequence[str], path: Path) -> None:
    """Log-frequency spectrograms from 40 Hz to 8 kHz, two a row, over a range of 80 dB below the loudest of each."""
    from matplotlib.figure import Figure

    num_rows = -(-len(clips) // 2)
    figure = Figure(figsize=(13, 2.5 * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, 2, squeeze=False, sharex=True, sharey=True).flatten()
    for axis, clip, title in zip(axes, clips, titles, strict=False):
        audio, rate = clip.audio()
        audio = resampled(audio, rate, RATE)
        size, hop = 2048, 256
        audio = np.pad(audio, (size // 2, size))
        frames = np.lib.stride_tricks.sliding_window_view(audio, size)[::hop] * np.hanning(size)
        power = 20 * np.log10(np.abs(np.fft.rfft(frames, axis=1)) + 1e-6)
        wanted = np.geomspace(40, RATE / 2, 300)
        picture = np.stack([np.interp(wanted, np.fft.rfftfreq(size, 1 / RATE), frame) for frame in power], axis=1)
        times = np.arange(picture.shape[1]) * hop / RATE
        axis.pcolormesh(
            times, wanted, picture, vmin=picture.max() - 80, vmax=picture.max(), cmap="magma", rasterized=True
        )
        axis.set_yscale("log")
        axis.set_yticks([100, 1000], ["100 Hz", "1 kHz"])
        axis.set_title("\n".join(textwrap.wrap(title, 78)), fontsize=9)
    for axis in axes[len(clips) :]:
        axis.remove()
    for axis in axes[max(len(clips) - 2, 0) : len(clips)]:
        axis.set_xlabel("seconds")
    figure.savefig(path, dpi=90)
