"""Spectrograms as small PNG pictures, written with zlib."""

from __future__ import annotations

import base64
import itertools
import struct
import zlib

import numpy as np

from ..metrics.spectrum import power_spectrogram

__all__ = ["data_uri", "png", "spectrogram_png"]

RANGE_IN_DB = 80.0
# dark violet to pale yellow in even steps of lightness (after matplotlib's "magma", CC0)
COLOURS = np.array(
    [
        (0, 0, 4), (20, 14, 54), (59, 15, 112), (100, 26, 128), (140, 41, 129), (183, 55, 121), (222, 73, 104),
        (247, 112, 92), (254, 159, 109), (254, 207, 146), (252, 253, 191),
    ],
    dtype=np.float64,
)  # fmt: skip


def spectrogram_png(waveform: np.ndarray, sampling_rate: int, width: int = 360, height: int = 110) -> bytes:
    """Picture of a clip (samples,): time to the right, pitch upward (logarithmic, 40 Hz to 16 kHz), 80 dB of range."""
    n_fft = 2048
    hop = max(len(waveform) // (width * 2), 64)
    power = power_spectrogram(waveform, n_fft, hop)
    top = min(16000.0, sampling_rate / 2)
    edges = np.geomspace(40.0, top, height + 1) * n_fft / sampling_rate
    rows = []
    for low, high in itertools.pairwise(edges):
        first, last = int(low), max(int(np.ceil(high)), int(low) + 1)
        rows.append(power[:, first : min(last, power.shape[1])].mean(axis=1))
    decibels = 10.0 * np.log10(np.maximum(np.stack(rows[::-1]), 1e-12))
    loudest = decibels.max()
    shades = np.clip((decibels - loudest + RANGE_IN_DB) / RANGE_IN_DB, 0.0, 1.0) if loudest > -119 else decibels * 0
    columns = np.linspace(0, shades.shape[1] - 1, width).astype(int)
    return png(_colour(shades[:, columns]))


def png(pixels: np.ndarray) -> bytes:
    """(height, width, 3) uint8 as a PNG file."""
    height, width, _ = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, width * 3)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def data_uri(data: bytes, media_type: str) -> str:
    """`data:` address of some bytes, for an `src`."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _colour(shades: np.ndarray) -> np.ndarray:
    places = np.linspace(0, 1, len(COLOURS))
    channels = [np.interp(shades, places, COLOURS[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
