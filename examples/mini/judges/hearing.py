"""What judges from other people's packages say about a clip: numbers in named groups, kept in a cache.

Each group is one package's view of one side of the music ("librosa chroma", "essentia rhythm"). None of them has seen
this project's model. The weights of those that are networks (basic-pitch, swift-f0) come inside their wheels.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import io
import logging
import multiprocessing
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

RATE = 22_050  # of librosa's features, and of basic-pitch
ESSENTIA_RATE, SWIFT_RATE = 44_100, 16_000
MAJOR = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])
MINOR = np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17])
EPSILON = 1e-9

Numbers = dict[str, np.ndarray]


@dataclass(frozen=True)
class Clip:
    """A WAV file, or a clip of the corpus that is rendered when it is asked for."""

    path: str | None = None
    seed: int = 0
    index: int = 0
    length_in_s: float = 10.0

    def audio(self) -> tuple[np.ndarray, int]:
        """float32 (samples,) mono, and its rate."""
        if self.path is None:
            from recipe import Recipe
            from render import make_clip

            rate = Recipe().sampling_rate
            samples, _ = make_clip(self.index, "heldout", self.seed, self.length_in_s, rate)
            return samples.astype(np.float32) / 32767, rate
        import soundfile

        audio, rate = soundfile.read(self.path, dtype="float32", always_2d=True)
        return audio.mean(axis=1), rate

    def key(self) -> str:
        """Names what is heard and who listens: another clip, or other code that makes or hears it, has another key."""
        if self.path is None:
            what = f"{code_version('compose', 'render', 'instruments')} {self.seed} {self.index} {self.length_in_s}".encode()
        else:
            what = Path(self.path).read_bytes()
        who = f"{code_version('judges/hearing')} {[name for name in GROUPS if is_installed(name)]}"
        return hashlib.sha1(what + who.encode()).hexdigest()


@lru_cache
def code_version(*modules: str) -> str:
    """Changes with the code of modules of this example, but not with its layout or comments."""
    folder = Path(__file__).parents[1]
    trees = [ast.dump(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))) for name in modules]
    return hashlib.sha1("".join(trees).encode()).hexdigest()


def listen(clip: Clip) -> Numbers:
    """All groups of one clip. What is silent, or too short to be heard, gives zeros."""
    audio, rate = clip.audio()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        heard = {name: hear(audio, rate) for name, hear in GROUPS.items() if is_installed(name)}
    return {name: np.nan_to_num(np.asarray(values, dtype=np.float64)) for name, values in heard.items()}


def listen_to_all(clips: Sequence[Clip], cache: Path, workers: int, title: str) -> list[Numbers]:
    """`listen` for many clips, in `workers` processes, with what was heard before read from `cache`."""
    cache.mkdir(parents=True, exist_ok=True)
    paths = [cache / f"{clip.key()}.npz" for clip in clips]
    missing = [(clip, path) for clip, path in zip(clips, paths, strict=True) if not path.exists()]
    if missing:
        for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, "1")  # the processes are what uses the cores
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            progress = tqdm(
                pool.imap_unordered(_listen_and_keep, missing), title, len(missing), unit="clip", mininterval=5
            )
            for _ in progress:
                pass
    return [dict(np.load(path)) for path in paths]


def _listen_and_keep(job: tuple[Clip, Path]) -> None:
    clip, path = job
    numbers = listen(clip)
    aside = path.with_suffix(f".{os.getpid()}.part")
    with open(aside, "wb") as file:
        np.savez(file, **numbers)
    os.replace(aside, path)


def resampled(audio: np.ndarray, rate: int, to: int) -> np.ndarray:
    if rate == to:
        return audio
    import soxr

    return np.ascontiguousarray(soxr.resample(audio, rate, to), dtype=np.float32)


# ------------------------------------------------------------------ librosa


def level(audio: np.ndarray, rate: int) -> list[float]:
    import librosa

    rms = 20 * np.log10(librosa.feature.rms(y=audio, frame_length=4096, hop_length=2048)[0] + 1e-5)
    return [20 * np.log10(np.sqrt(np.mean(audio**2)) + 1e-5), *np.percentile(rms, (10, 50, 90, 100))]


def timbre(audio: np.ndarray, rate: int) -> np.ndarray:
    """Shape of the spectrum, level taken out."""
    import librosa

    audio = _at_one_level(resampled(audio, rate, RATE))
    power = np.abs(librosa.stft(audio, n_fft=2048, hop_length=512)) ** 2
    mel = librosa.power_to_db(librosa.feature.melspectrogram(S=power, sr=RATE, n_mels=96))
    cepstrum = librosa.feature.mfcc(S=mel, n_mfcc=24)[1:]
    magnitude = np.sqrt(power)
    shapes = [
        librosa.feature.spectral_centroid(S=magnitude, sr=RATE),
        librosa.feature.spectral_bandwidth(S=magnitude, sr=RATE),
        librosa.feature.spectral_rolloff(S=magnitude, sr=RATE),
        100 * librosa.feature.spectral_flatness(S=magnitude),
        librosa.feature.spectral_contrast(S=magnitude, sr=RATE),
    ]
    rows = np.concatenate([cepstrum, *shapes])
    changes = np.abs(np.diff(cepstrum, axis=1)).mean(axis=1)
    return np.concatenate([rows.mean(axis=1), rows.std(axis=1), np.median(rows, axis=1), changes])


def percussion(audio: np.ndarray, rate: int) -> np.ndarray:
    """How much of the sound is struck: the percussive share by bands, and how sharply sound sets in."""
    import librosa

    audio = _at_one_level(resampled(audio, rate, RATE))
    magnitude = np.sqrt(librosa.feature.melspectrogram(y=audio, sr=RATE, n_fft=1024, hop_length=256, n_mels=64))
    _, percussive = librosa.decompose.hpss(magnitude)
    share = percussive.sum(axis=1) / (magnitude.sum(axis=1) + EPSILON)
    rises = np.maximum(np.diff(np.log(magnitude + 1e-3), axis=1), 0)
    bands = rises.reshape(8, 8, -1).mean(axis=1)
    return np.concatenate(
        [share.reshape(8, 8).mean(axis=1), bands.mean(axis=1), bands.std(axis=1), np.percentile(bands, 98, axis=1)]
    )


def pulse(audio: np.ndarray, rate: int) -> np.ndarray:
    """librosa's beat tracker, and the tempogram over tempos from 40 to 320 a minute."""
    import librosa

    audio = resampled(audio, rate, RATE)
    onsets = librosa.onset.onset_strength(y=audio, sr=RATE)
    tempo = np.atleast_1d(librosa.feature.tempo(onset_envelope=onsets, sr=RATE))[0]
    tempogram = librosa.feature.tempogram(onset_envelope=onsets, sr=RATE).mean(axis=1)
    tempos = librosa.tempo_frequencies(len(tempogram), sr=RATE)
    wanted = np.geomspace(40, 320, 36)
    return np.concatenate([[tempo, np.log2(max(tempo, 1))], np.interp(wanted, tempos[:0:-1], tempogram[:0:-1])])


def chroma(audio: np.ndarray, rate: int) -> np.ndarray:
    import librosa

    audio = resampled(audio, rate, RATE)
    smooth = librosa.feature.chroma_cens(y=audio, sr=RATE).mean(axis=1)
    return np.concatenate(
        [mode_of(smooth), mode_of(librosa.feature.chroma_stft(y=audio, sr=RATE, n_fft=8192).mean(axis=1))]
    )


def mode_of(profile: np.ndarray) -> np.ndarray:
    """Twelve pitch classes → how well the best major and the best minor key fit, and the classes from the tonic up."""
    if profile.std() < EPSILON:
        return np.zeros(15)
    fits = np.array(
        [[np.corrcoef(np.roll(template, k), profile)[0, 1] for k in range(12)] for template in (MAJOR, MINOR)]
    )
    best = fits.max(axis=1)
    tonic = int(np.unravel_index(fits.argmax(), fits.shape)[1])
    return np.concatenate([[*best, best[0] - best[1]], np.roll(profile, -tonic) / profile.max()])


def _at_one_level(audio: np.ndarray) -> np.ndarray:
    return audio * (0.1 / max(float(np.sqrt(np.mean(audio**2))), 1e-5))


# ----------------------------------------------------------------- essentia


@lru_cache
def _essentia():
    import essentia

    essentia.log.infoActive = essentia.log.warningActive = False
    import essentia.standard

    return essentia.standard


def rhythm(audio: np.ndarray, rate: int) -> np.ndarray:
    """Essentia's beat tracker (Zapata et al. 2014), what its beats say, and how many onsets there are a second."""
    standard = _essentia()
    audio = resampled(audio, rate, ESSENTIA_RATE)
    bpm, beats, confidence, _, intervals = standard.RhythmExtractor2013(
        method="multifeature", maxTempo=208, minTempo=40
    )(audio)
    first, _, spread, second, *_ = standard.BpmHistogramDescriptors()(intervals) if len(intervals) else (0.0,) * 7
    onsets = standard.OnsetRate()(audio)[1]
    gap = float(np.median(np.diff(beats))) if len(beats) > 1 else 0.0
    return np.array([bpm, np.log2(max(bpm, 1)), confidence, gap, first, spread, second, onsets])


def key(audio: np.ndarray, rate: int) -> list[float]:
    """Essentia's key finder with five sets of profiles: how strongly major (above 0) or minor (below)."""
    standard = _essentia()
    audio = resampled(audio, rate, ESSENTIA_RATE)
    found = [
        standard.KeyExtractor(profileType=name)(audio)
        for name in ("bgate", "edma", "temperley", "krumhansl", "shaath")
    ]
    signed = [strength if scale == "major" else -strength for _, scale, strength in found]
    return [*signed, float(np.mean(np.sign(signed)))]


def loudness(audio: np.ndarray, rate: int) -> list[float]:
    """EBU R 128, in LUFS; silence is -70."""
    standard = _essentia()
    audio = resampled(audio, rate, ESSENTIA_RATE)
    momentary, short, integrated, span = standard.LoudnessEBUR128()(np.stack([audio, audio], axis=1))
    return [max(float(value), -70.0) for value in (np.max(momentary), np.median(short), integrated)] + [float(span)]


# ------------------------------------------------------ basic-pitch, swift-f0


@lru_cache
def _note_finder():
    """basic-pitch's network in ONNX: other formats would need TensorFlow. One thread: the processes use the cores."""
    logging.disable(logging.WARNING)  # it warns of each format whose package is not there
    import basic_pitch
    import onnxruntime
    from basic_pitch.inference import Model

    logging.disable(logging.NOTSET)
    path = Path(basic_pitch.__file__).parent / "saved_models" / "icassp_2022" / "nmp.onnx"
    model = Model(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model.model = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return model


def notes(audio: np.ndarray, rate: int) -> np.ndarray:
    """basic-pitch (Bittner et al. 2022): `num_notes` and `confidence` first, then where, when and which they are."""
    import soundfile

    finder = _note_finder()
    from basic_pitch.inference import predict

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = os.path.join(folder, "clip.wav")
        soundfile.write(path, audio, rate)
        events = predict(path, finder)[2]
    if not events:
        return np.zeros(2 + 5 + 5 + 9 + 14 + 15)
    starts, ends, pitches, amplitudes = (np.array([event[i] for event in events], dtype=np.float64) for i in range(4))
    lengths = ends - starts
    order = np.sort(starts)
    gaps = np.diff(order[np.concatenate([[True], np.diff(order) > 0.03])])  # of chords one
    octaves = np.histogram(pitches, bins=np.arange(24, 133, 12), weights=lengths * amplitudes)[0]
    classes = np.bincount(pitches.astype(int) % 12, weights=lengths * amplitudes, minlength=12)
    times = np.histogram(gaps, bins=np.geomspace(0.05, 3.2, 15))[0] / max(len(gaps), 1)
    return np.concatenate(
        [
            [len(events), amplitudes.mean()],
            np.percentile(pitches, (10, 50, 75, 90, 100)),
            [lengths.mean(), np.median(lengths), np.median(gaps) if len(gaps) else 0.0, lengths.sum() / 10, len(gaps)],
            octaves / octaves.sum() if octaves.sum() else octaves,
            times,
            mode_of(classes),
        ]
    )


@lru_cache
def _pitch_tracker():
    from swift_f0 import SwiftF0

    return SwiftF0(threads=1, spin=False)


def melody(audio: np.ndarray, rate: int) -> np.ndarray:
    """swift-f0: where the loudest pitch moves (MIDI notes), how sure it is, and how much it wavers."""
    found = _pitch_tracker().detect(resampled(audio, rate, SWIFT_RATE), SWIFT_RATE)
    voiced = found.confidence > 0.5
    if voiced.sum() < 10:
        return np.zeros(11)
    midi = 69 + 12 * np.log2(found.pitch_hz[voiced] / 440)
    bands = np.histogram(midi, bins=(24, 45, 57, 69, 120))[0] / len(midi)
    wavering = np.abs(np.diff(midi, n=2))
    return np.array(
        [
            *np.percentile(midi, (10, 50, 90)),
            midi.std(),
            voiced.mean(),
            found.confidence.mean(),
            *bands,
            np.median(wavering),
        ]
    )


def partials(audio: np.ndarray, rate: int) -> np.ndarray:
    """Partials of the pitch that swift-f0 finds, where it is sure: their shares in dB, and of what lies between them."""
    size, hop, num_partials = 2048, 256, 12  # at 16 kHz; the tracker's own hop
    audio = resampled(audio, rate, SWIFT_RATE)
    found = _pitch_tracker().detect(audio, SWIFT_RATE)
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(audio, (size // 2, size)), size)[::hop]
    number = min(len(frames), len(found.pitch_hz))
    sure = np.flatnonzero(found.confidence[:number] > 0.7)[::3]
    if len(sure) < 10:
        return np.zeros(4 * num_partials + 2)
    spectra = np.abs(np.fft.rfft(frames[sure] * np.hanning(size), axis=1)) ** 2
    bins = np.arange(1, num_partials + 1) * found.pitch_hz[sure, None] * size / SWIFT_RATE
    total = spectra.sum(axis=1, keepdims=True) + EPSILON
    shares = []
    for at in (bins, bins + bins[:, :1] / 2):
        near = np.clip(np.round(at).astype(int)[..., None] + np.arange(-1, 2), 0, spectra.shape[1] - 1)
        energy = np.take_along_axis(spectra[:, None], near, axis=2).sum(axis=2)
        shares.append(10 * np.log10(np.where(at < size / 2, energy / total, 0) + 1e-5))
    inside, between = shares
    level = 10 * np.log10(total[:, 0])
    falls = np.diff(level)[np.diff(sure) == 3]  # how the tone dies away
    return np.concatenate(
        [
            np.median(inside, axis=0),
            inside.std(axis=0),
            np.median(between, axis=0),
            np.mean(inside, axis=0) - np.mean(between, axis=0),
            [np.median(falls) if len(falls) else 0.0, falls.std() if len(falls) else 0.0],
        ]
    )


GROUPS: dict[str, Callable[[np.ndarray, int], np.ndarray | list[float]]] = {
    "librosa level": level,
    "librosa timbre": timbre,
    "librosa percussion": percussion,
    "librosa pulse": pulse,
    "librosa chroma": chroma,
    "essentia rhythm": rhythm,
    "essentia key": key,
    "essentia loudness": loudness,
    "basic-pitch notes": notes,
    "swift-f0 melody": melody,
    "swift-f0 partials": partials,
}


def is_installed(group: str) -> bool:
    """Whether there is the package that a group is named after."""
    return importlib.util.find_spec(group.split()[0].replace("-", "_")) is not None
