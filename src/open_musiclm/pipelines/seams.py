"""Joining generated audio to a recording whose samples must stay as they are.

    recording ………………│                   the last sample that is kept
    decoded   ………………│………………           the codec's own version of it, and what was generated behind it
    joined    recording│predicted → decoded   the recording goes on as linear prediction has it, and gives way

At the joint the codec's version differs from the recording, so cutting from the one to the other clicks. The recording is
therefore continued past its end for some milliseconds by linear prediction (Burg's method; Kauppinen and Roth 2002, "Audio
signal extrapolation") and faded into the decoded audio; what is kept is not touched.
"""

from __future__ import annotations

import math

import numpy as np

#: length of the fade from the predicted recording to the decoded audio
FADE_IN_S = 0.04
#: what is predicted from, and by how many coefficients
CONTEXT_IN_S = 0.2
ORDER_IN_S = 0.012
#: levels are compared over so much on either side of a joint, and what is made gives way to its own level within so much
LEVEL_WINDOW_IN_S = 0.5
LEVEL_GIVES_WAY_IN_S = 2.0
#: how much a recording's level changes from one half second to the next is heard in its last seconds; held notes hardly do,
#: and music with drums by no more than this
USUAL_CHANGE_FROM_IN_S = 5.0
LARGEST_USUAL_CHANGE_IN_DB = 3.0
#: no joint is evened by more
LARGEST_CHANGE_IN_DB = 12.0


def burg(signal: np.ndarray, order: int) -> np.ndarray:
    """Coefficients a of the prediction x[n] ≈ Σ a[k] x[n - 1 - k], k = 0 … order - 1, by Burg's method (stable)."""
    forward = np.asarray(signal, dtype=np.float64)[1:].copy()
    backward = np.asarray(signal, dtype=np.float64)[:-1].copy()
    filter_ = np.array([1.0])
    for _ in range(min(order, len(signal) - 1)):
        power = forward @ forward + backward @ backward
        if power <= 1e-20:
            break
        reflection = -2.0 * (backward @ forward) / power
        padded = np.concatenate([filter_, [0.0]])
        filter_ = padded + reflection * padded[::-1]
        forward, backward = (forward + reflection * backward)[1:], (backward + reflection * forward)[:-1]
        if not len(forward):
            break
    return -filter_[1:]


def extrapolate(signal: np.ndarray, num_samples: int, order: int) -> np.ndarray:
    """`num_samples` that go on behind a signal (samples,), by linear prediction."""
    coefficients = burg(signal, order)
    if not len(coefficients):
        return np.zeros(num_samples)
    reach = len(coefficients)
    history = np.concatenate([np.asarray(signal, dtype=np.float64)[-reach:], np.zeros(num_samples)])
    history = np.pad(history, (reach + num_samples - len(history), 0))
    backwards = coefficients[::-1]
    for n in range(reach, reach + num_samples):
        history[n] = history[n - reach : n] @ backwards
    return history[reach:]


def join_after(kept: np.ndarray, decoded: np.ndarray, sampling_rate: int) -> np.ndarray:
    """What follows a recording: `decoded`, its beginning faded in from the recording's own continuation.

    Args:
        kept: (channels, samples) before the joint; they are not changed.
        decoded: (channels, samples) from the joint on.

    Returns:
        (channels, samples) to put behind `kept`.
    """
    fade = min(round(FADE_IN_S * sampling_rate), decoded.shape[-1])
    context = round(CONTEXT_IN_S * sampling_rate)
    if fade == 0 or kept.shape[-1] < 2:
        return decoded
    joined = decoded.astype(np.float64, copy=True)
    # equal gain, not equal power: both are versions of one signal
    weights = 0.5 + 0.5 * np.cos(np.pi * (np.arange(fade) + 1) / (fade + 1))
    for channel in range(decoded.shape[0]):
        before = kept[channel, -context:]
        order = max(min(round(ORDER_IN_S * sampling_rate), len(before) // 3), 1)
        predicted = np.clip(extrapolate(before, fade, order), -1.5 * _peak(before), 1.5 * _peak(before))
        joined[channel, :fade] = weights * predicted + (1 - weights) * joined[channel, :fade]
    return joined.astype(decoded.dtype)


def join_before(decoded: np.ndarray, kept: np.ndarray, sampling_rate: int) -> np.ndarray:
    """What precedes a recording that goes on behind it: [`join_after`] with time turned round."""
    return join_after(kept[:, ::-1], decoded[:, ::-1], sampling_rate)[:, ::-1].copy()


def even_level(kept: np.ndarray, made: np.ndarray, sampling_rate: int) -> np.ndarray:
    """What follows a recording, led from its level to its own: a jump beyond what the recording does is spread over two
    seconds.

    Args:
        kept, made: (channels, samples) before and behind the joint; silence on either side is left as it is.
    """
    window = round(LEVEL_WINDOW_IN_S * sampling_rate)
    usual = usual_change(kept[:, -round(USUAL_CHANGE_FROM_IN_S * sampling_rate) :], window)
    before, after = (
        float(np.sqrt(np.mean(np.square(part, dtype=np.float64)))) if part.size else 0.0
        for part in (kept[:, -window:], made[:, :window])
    )
    if min(before, after) <= 1e-4:
        return made
    jump = 20 * math.log10(before / after)
    beyond = math.copysign(min(max(abs(jump) - usual, 0.0), LARGEST_CHANGE_IN_DB), jump)
    length = min(round(LEVEL_GIVES_WAY_IN_S * sampling_rate), made.shape[-1])
    curve = np.zeros(made.shape[-1])
    curve[:length] = beyond * (0.5 + 0.5 * np.cos(np.pi * np.arange(length) / length))
    return (made * 10 ** (curve / 20)).astype(made.dtype)


def usual_change(audio: np.ndarray, window: int) -> float:
    """The median change of level, in dB, from one window to the next of (channels, samples), at most
    `LARGEST_USUAL_CHANGE_IN_DB`; that where there are too few to tell."""
    power = np.mean(np.square(audio, dtype=np.float64), axis=0)
    starts = np.arange(0, len(power) - window + 1, max(window // 2, 1))
    if len(starts) < 5:
        return LARGEST_USUAL_CHANGE_IN_DB
    levels = 10 * np.log10(np.maximum([power[start : start + window].mean() for start in starts], 1e-12))
    return min(float(np.median(np.abs(levels[2:] - levels[:-2]))), LARGEST_USUAL_CHANGE_IN_DB)


def _peak(signal: np.ndarray) -> float:
    return float(np.abs(signal).max(initial=0.0))


def match_level(decoded: np.ndarray, reference: np.ndarray, longest_in_db: float = 6.0) -> float:
    """The gain that brings the codec's version of a stretch to the recording's level, at most `longest_in_db` either way.

    Args:
        decoded, reference: (channels, samples) of the same stretch.
    """
    ours, theirs = (float(np.sqrt(np.mean(np.square(part, dtype=np.float64)))) for part in (decoded, reference))
    if ours <= 1e-6 or theirs <= 1e-6:
        return 1.0
    limit = 10 ** (longest_in_db / 20)
    return float(np.clip(theirs / ours, 1 / limit, limit))


def seam_measure(audio: np.ndarray, joint: int, sampling_rate: int, window_in_s: float = 0.5) -> dict[str, float]:
    """How a joint compares with the rest of a piece.

    Args:
        audio: (samples,) mono.
        joint: the first sample behind it.

    Returns:
        `click`: the largest second difference within 2 ms of the joint over the 99.9th percentile elsewhere;
        `level_in_db`: the level's change over the joint, and `level_elsewhere_in_db`, the mean change from one window to
        the next elsewhere; `spectrum_in_db` and `spectrum_elsewhere_in_db`, the same of the distance between log spectra in
        third octaves.
    """
    audio = np.asarray(audio, dtype=np.float64)
    bend = np.abs(np.diff(audio, n=2))
    near = round(0.002 * sampling_rate)
    around = slice(max(joint - near, 0), joint + near)
    elsewhere = np.concatenate([bend[: around.start], bend[around.stop :]])
    window = round(window_in_s * sampling_rate)
    at_joint = _change(audio, joint, window)
    places = (place for place in range(window, len(audio) - window, window // 2) if abs(place - joint) >= window)
    changes = (_change(audio, place, window) for place in places)
    others = [change for change in changes if change is not None] or [(0.0, 0.0)]
    level, spectrum = at_joint if at_joint is not None else (0.0, 0.0)
    return {
        "click": float(bend[around].max(initial=0.0) / max(np.percentile(elsewhere, 99.9), 1e-12)),
        "level_in_db": level,
        "level_elsewhere_in_db": float(np.mean([change[0] for change in others])),
        "spectrum_in_db": spectrum,
        "spectrum_elsewhere_in_db": float(np.mean([change[1] for change in others])),
    }


def _change(audio: np.ndarray, place: int, window: int) -> tuple[float, float] | None:
    before, after = audio[max(place - window, 0) : place], audio[place : place + window]
    if len(before) < window // 2 or len(after) < window // 2:
        return None
    bands = [_third_octaves(part) for part in (before, after)]
    floor = max(max(part.max(initial=0.0) for part in bands) * 1e-6, 1e-12)
    logs = [10.0 * np.log10(np.maximum(part, floor)) for part in bands]
    levels = [10.0 * np.log10(max(float(np.mean(part**2)), 1e-12)) for part in (before, after)]
    return abs(levels[1] - levels[0]), float(np.sqrt(np.mean((logs[1] - logs[0]) ** 2)))


def _third_octaves(part: np.ndarray) -> np.ndarray:
    power = np.abs(np.fft.rfft(part * np.hanning(len(part)))) ** 2 / len(part)
    edges = np.unique(np.geomspace(2, len(power), 25).astype(int))
    return np.add.reduceat(power, edges[:-1]) / np.diff(edges)
