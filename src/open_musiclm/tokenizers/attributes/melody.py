"""The dominant pitch class over time: MusicGen's chromagram bottleneck (Copet et al. 2023, section 2.3) made discrete.

Ids 0 … 11 are C … B, 12 is silence. From audio, the pitch is that whose first harmonics hold most of the spectrum; the
octave, in which such a search errs most, is dropped. MusicGen takes drums and bass out with Demucs first; here pitches
below a mixture's bass are not looked at, and a solo (a hum, a whistle) is heard over the whole range of voices.
"""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...audio import read_audio, resample
from ...evaluation.metrics.spectrum import power_spectrogram
from ...given import lies_in, shown
from ...models.streams import TokenStream
from .base import Attribute, UnknownRequest, frame_times, num_frames

NUM_CHROMA = 12
SILENCE = NUM_CHROMA
#: spectra of 0.13 s, which tell semitones apart from about 200 Hz on by their first harmonics together
N_FFT_IN_S = 0.128
ANALYSIS_RATE = 16_000
NUM_HARMONICS = 6
HARMONIC_DECAY = 0.75
HIGHEST_PITCH = 96  # C7
LOWEST_OF_SOLO = 40  # E2
LOWEST_OF_MIXTURE = 54  # F#3: above most basses
#: semitones that make up for half the strength, where there is more than one voice
HALF_AS_DEAR = 24.0
#: a frame so far below the loudest one is silent
SILENCE_IN_DB = -45.0
#: how far the strongest pitch must stand above the mean of all to be a pitch at all
LEAST_SALIENCE = 2.0
#: bytes of a MIDI file: hours of music have less than one of them
LARGEST_MIDI = 16 << 20


class Note(NamedTuple):
    """A note of a melody: from `start` to `stop`, in seconds, at the MIDI `pitch` (60 is middle C)."""

    start: float
    stop: float
    pitch: float


class Melody(Attribute):
    """A hummed, whistled, played or written melody."""

    name = "melody"
    takes = "(audio, sampling rate), a sound or MIDI file, or a list of notes (start, stop, MIDI pitch)"
    #: share of the frames with sound that have a pitch
    least_confidence = 0.5
    reads_files = True

    def default_stream(self, **fields: Any) -> TokenStream:
        return TokenStream(
            **{"name": self.name, "codebook_size": NUM_CHROMA + 1, "frame_rate": 12.5, "optional": True, **fields}
        )

    def from_request(self, request: Any, stream: TokenStream, duration_in_s: float) -> np.ndarray:
        if isinstance(request, str | Path):
            path = Path(request)
            if len(str(path)) > 4096:
                raise UnknownRequest(f"`melody` takes {self.takes}; no file has so long a name: {shown(request)}.")
            if path.suffix.lower() in (".mid", ".midi"):
                request = read_midi_melody(path)
            else:
                audio, rate = read_audio(path)
                request = (audio, rate)
        if _is_audio(request):
            waveform, sampling_rate = request
            waveform = np.asarray(waveform, dtype=np.float64)
            waveform = waveform.mean(axis=0) if waveform.ndim == 2 else waveform
            if waveform.ndim != 1 or not len(waveform) or not np.isfinite(waveform).all():
                raise UnknownRequest(
                    "`melody`: the audio must be (samples,) or (channels, samples) of finite numbers."
                )
            ids = dominant_pitch_classes(waveform, sampling_rate, stream.frame_rate, LOWEST_OF_SOLO)
        else:
            ids = self._from_notes(request, stream, duration_in_s)
        if (ids == SILENCE).all():
            raise UnknownRequest(
                "`melody`: no pitch was found in it. Hum or play a single line, louder, or give notes."
            )
        length = num_frames(stream, duration_in_s)
        return np.pad(ids[:length], (0, max(length - len(ids), 0)), constant_values=SILENCE)[:, None]

    def from_audio(
        self,
        waveform: np.ndarray,
        sampling_rate: int,
        stream: TokenStream,
        about: Mapping[str, Any] | None = None,
        least_confidence: float | None = None,
    ) -> np.ndarray:
        length = num_frames(stream, len(waveform) / sampling_rate)
        ids, sounding = _pitches_and_sound(waveform, sampling_rate, stream.frame_rate, LOWEST_OF_MIXTURE)
        least = self.least_confidence if least_confidence is None else least_confidence
        if (ids == SILENCE).all() or (ids[sounding] != SILENCE).mean() < least:
            return self.nothing(stream, len(waveform) / sampling_rate)
        return np.pad(ids[:length], (0, max(length - len(ids), 0)), constant_values=SILENCE)[:, None]

    def _from_notes(self, request: Any, stream: TokenStream, duration_in_s: float) -> np.ndarray:
        notes: list[Any] = list(request) if isinstance(request, Sequence) else []
        for note in notes:
            if (
                not isinstance(note, tuple | list)
                or len(note) != 3
                or not all(lies_in(value, -1e9, 1e9) for value in note)
                or not 0 <= note[0] < note[1]
                or not 0 <= note[2] <= 127
            ):
                raise UnknownRequest(f"`melody` takes {self.takes}, got the note {shown(note)}.")
        if not notes:
            raise UnknownRequest(f"`melody` takes {self.takes}, got {type(request).__name__}.")
        times = frame_times(stream, duration_in_s)
        ids = np.full(len(times), SILENCE, dtype=np.int64)
        for start, stop, pitch in sorted(notes, key=lambda note: (note[0], note[2])):  # of a chord the highest stays
            ids[(times >= start) & (times < stop)] = round(pitch) % NUM_CHROMA
        return ids


def _is_audio(request: Any) -> bool:
    return (
        isinstance(request, tuple)
        and len(request) == 2
        and hasattr(request[0], "shape")
        and isinstance(request[1], numbers.Integral)
    )


def dominant_pitch_classes(
    waveform: np.ndarray, sampling_rate: int, frame_rate: float | None, lowest_pitch: int = LOWEST_OF_MIXTURE
) -> np.ndarray:
    """Pitch class of each frame, int64 (frames,), 12 for silence.

    Args:
        waveform: (samples,).
        frame_rate: frames a second; frame i is around the time (i + ½) / frame_rate.
        lowest_pitch: MIDI pitch from which on pitches are looked for.
    """
    return _pitches_and_sound(waveform, sampling_rate, frame_rate, lowest_pitch)[0]


def _pitches_and_sound(
    waveform: np.ndarray, sampling_rate: int, frame_rate: float | None, lowest_pitch: int
) -> tuple[np.ndarray, np.ndarray]:
    """[`dominant_pitch_classes`], and which of the frames are not silent (frames,)."""
    if frame_rate is None:
        raise ValueError("A melody needs a stream with a frame rate.")
    hop = max(round(ANALYSIS_RATE / frame_rate), 1)
    rate = round(hop * frame_rate)
    audio = resample(np.asarray(waveform, dtype=np.float32), sampling_rate, rate)
    n_fft = 2 ** round(np.log2(N_FFT_IN_S * rate))
    # frames are centred on multiples of the hop: half a hop earlier makes that the middle of ours
    power = power_spectrogram(np.concatenate([audio[hop // 2 :], np.zeros(hop)]), n_fft, hop)
    power = power[: max(int(np.ceil(len(audio) / hop)), 1)]
    pitches, salience = _salience(np.sqrt(power), n_fft, rate, lowest_pitch)
    if lowest_pitch > LOWEST_OF_SOLO:  # a tune stands over its accompaniment
        salience *= 2.0 ** ((pitches - lowest_pitch) / HALF_AS_DEAR)
    energy = 10.0 * np.log10(np.maximum(power.sum(axis=1), 1e-20))
    sounding = (energy > energy.max() + SILENCE_IN_DB) & (power.sum(axis=1) > 1e-8)
    voiced = sounding & (salience.max(axis=1) > LEAST_SALIENCE * np.maximum(salience.mean(axis=1), 1e-20))
    ids = np.where(voiced, pitches[salience.argmax(axis=1)] % NUM_CHROMA, SILENCE)
    return _without_blips(ids), sounding


def _salience(magnitudes: np.ndarray, n_fft: int, rate: int, lowest_pitch: int) -> tuple[np.ndarray, np.ndarray]:
    """MIDI pitches (pitches,) and how much of each frame's spectrum stands on their harmonics (frames, pitches)."""
    pitches = np.arange(lowest_pitch, HIGHEST_PITCH + 1)
    fundamentals = 440.0 * 2.0 ** ((pitches - 69) / 12)
    total = np.zeros((len(magnitudes), len(pitches)))
    for harmonic in range(1, NUM_HARMONICS + 1):
        place = fundamentals * harmonic * n_fft / rate
        inside = place < magnitudes.shape[1] - 2
        low = np.floor(np.where(inside, place, 0)).astype(int)
        share = np.where(inside, place - low, 0.0)
        # a Hann window spreads a partial over its neighbours: between two bins it stands in both
        value = np.maximum(magnitudes[:, low] * (1 - share), magnitudes[:, low + 1] * share)
        total += np.where(inside, HARMONIC_DECAY ** (harmonic - 1) * value, 0.0)
    return pitches, total


def _without_blips(ids: np.ndarray) -> np.ndarray:
    """A single frame between two of one value takes it."""
    ids = ids.copy()
    blip = (ids[:-2] == ids[2:]) & (ids[1:-1] != ids[:-2])
    ids[1:-1][blip] = ids[:-2][blip]
    return ids.astype(np.int64)


def read_midi_melody(path: str | Path) -> list[Note]:
    """The notes of a MIDI file, percussion left out.

    Raises:
        ImportError: mido is not installed.
        UnknownRequest: the file is no MIDI file.
    """
    try:
        import mido
    except ImportError as error:
        raise ImportError("MIDI files are read by mido: `pip install mido`, or `open-musiclm[midi]`.") from error
    if Path(path).stat().st_size > LARGEST_MIDI:
        raise UnknownRequest(
            f"`melody`: {Path(path).name} has more than {LARGEST_MIDI >> 20} MB, as no MIDI file of a tune has."
        )
    try:
        events = list(mido.MidiFile(path))
    except Exception as error:  # whatever mido stumbles over in a damaged file
        told = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnknownRequest(f"`melody`: {Path(path).name} cannot be read as a MIDI file ({told}).") from error
    notes: list[Note] = []
    sounding: dict[tuple[int, int], float] = {}
    now = 0.0
    for event in events:
        now += event.time
        if event.type not in ("note_on", "note_off") or event.channel == 9:
            continue
        key = (event.channel, event.note)
        if key in sounding and now > sounding[key]:
            notes.append(Note(sounding.pop(key), now, event.note))
        if event.type == "note_on" and event.velocity > 0:
            sounding[key] = now
    return sorted(notes)
