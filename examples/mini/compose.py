"""Compose short pieces by rule: from a seed and an index to a symbolic score and the truth about it.

A piece is a key, a mode, a tempo, a style and one main instrument; a chord progression carries a melody made of a
repeated motif, an accompaniment, a bass line and drums, as the style has them. Nothing here makes sound.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

KEYS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MODES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
PROGRESSIONS = {  # scale degrees of the chords, one a bar
    "major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 0), (0, 3, 0, 4), (0, 2, 3, 4)),
    "minor": ((0, 5, 2, 6), (0, 3, 4, 0), (0, 5, 3, 4), (0, 6, 5, 4), (0, 3, 5, 4)),
}
INSTRUMENTS = ("piano", "organ", "strings", "flute", "bells", "guitar", "synth", "brass", "bass")
TEMPO_RANGES = {"slow": (60, 80), "medium": (95, 118), "fast": (140, 180)}  # beats a minute; gaps keep them apart
REGISTER_CENTRES = {"low": 50, "middle": 64, "high": 81}  # MIDI note about which the melody moves
LOUDNESS_LEVELS = {"quiet": -30.0, "medium": -21.0, "loud": -13.0}  # dBFS, root mean square of the clip
DRUMS = ("none", "acoustic", "electronic")


@dataclass(frozen=True)
class Style:
    """What a style fixes: metre, who plays, and which tempi and drums suit it."""

    beats_per_bar: int
    accompaniment: str  # none | block | arpeggio | pad | offbeat
    has_bass: bool
    tempi: tuple[str, ...]
    drums: tuple[str, ...]
    reverb: float


STYLES = {
    "solo": Style(4, "none", False, ("slow", "medium", "fast"), ("none",), 0.15),
    "ballad": Style(4, "block", True, ("slow", "medium"), ("none", "acoustic"), 0.25),
    "waltz": Style(3, "offbeat", True, ("medium", "fast"), ("none", "acoustic"), 0.15),
    "ambient": Style(4, "pad", False, ("slow",), ("none",), 0.6),
    "dance": Style(4, "arpeggio", True, ("medium", "fast"), ("electronic",), 0.1),
    "rock": Style(4, "offbeat", True, ("medium", "fast"), ("acoustic",), 0.1),
    "arpeggio": Style(4, "arpeggio", False, ("slow", "medium", "fast"), ("none", "electronic"), 0.25),
}

# Durations in beats that fill a bar, from calm to busy.
RHYTHMS = {
    4: ((2, 2), (2, 1, 1), (1, 1, 2), (1, 1, 1, 1), (1.5, 0.5, 1, 1), (1, 0.5, 0.5, 1, 1), (0.5, 0.5, 1, 0.5, 0.5, 1)),
    3: ((3,), (2, 1), (1, 1, 1), (1.5, 0.5, 1), (1, 0.5, 0.5, 1)),
}


@dataclass(frozen=True)
class Truth:
    """The attributes of a clip, as plain words and numbers."""

    instrument: str
    tempo: str
    tempo_in_bpm: int
    key: str
    mode: str
    drums: str
    register: str
    loudness: str
    style: str

    def as_dict(self) -> dict:
        return asdict(self)


@dataclass(frozen=True)
class Note:
    """One event: `voice` names who plays; `pitch` is a MIDI note, or the drum's name for voice `drums`."""

    voice: str
    start_in_beats: float
    duration_in_beats: float
    pitch: int | str
    velocity: float


@dataclass(frozen=True)
class Score:
    truth: Truth
    notes: tuple[Note, ...]


def draw_truth(rng: np.random.Generator) -> Truth:
    """Draw the attributes: the instrument first, then a style, then what suits both."""
    instrument = str(rng.choice(INSTRUMENTS))
    styles = [s for s in STYLES if not (instrument == "bass" and s == "ambient")]
    style_name = str(rng.choice(styles))
    style = STYLES[style_name]
    tempo = str(rng.choice(style.tempi))
    low, high = TEMPO_RANGES[tempo]
    return Truth(
        instrument=instrument,
        tempo=tempo,
        tempo_in_bpm=int(rng.integers(low, high + 1)),
        key=str(rng.choice(KEYS)),
        mode=str(rng.choice(list(MODES))),
        drums=str(rng.choice(style.drums)),
        register="low" if instrument == "bass" else str(rng.choice(list(REGISTER_CENTRES))),
        loudness=str(rng.choice(list(LOUDNESS_LEVELS))),
        style=style_name,
    )


def compose(truth: Truth, rng: np.random.Generator, duration_in_s: float) -> Score:
    """Write the notes of a piece with these attributes that lasts at least `duration_in_s` seconds."""
    style = STYLES[truth.style]
    num_beats = duration_in_s * truth.tempo_in_bpm / 60
    num_bars = int(np.ceil(num_beats / style.beats_per_bar))
    progression = PROGRESSIONS[truth.mode][rng.integers(len(PROGRESSIONS[truth.mode]))]
    roots = [progression[bar % len(progression)] for bar in range(num_bars)]
    notes = _melody(truth, style, roots, rng)
    notes += _accompaniment(truth, style, roots)
    notes += _bass(truth, style, roots, rng) if style.has_bass and truth.instrument != "bass" else []
    notes += _drums(truth, style, num_bars, rng)
    return Score(truth, tuple(note for note in notes if note.start_in_beats < num_beats))


def scale_pitch(truth: Truth, degree: int) -> int:
    """MIDI note of a scale degree (any integer) in the octave above C0 (12)."""
    scale = MODES[truth.mode]
    octave, step = divmod(degree, len(scale))
    return 12 + KEYS.index(truth.key) + scale[step] + 12 * octave


def _nearest_degree(truth: Truth, pitch: int, among: tuple[int, ...] = tuple(range(7))) -> int:
    """The scale degree, of the classes in `among`, whose pitch is nearest to `pitch`."""
    candidates = [7 * octave + step for octave in range(9) for step in among]
    return min(candidates, key=lambda degree: abs(scale_pitch(truth, degree) - pitch))


def _triad(root: int) -> tuple[int, int, int]:
    return tuple((root + third) % 7 for third in (0, 2, 4))  # type: ignore[return-value]


def _melody(truth: Truth, style: Style, roots: list[int], rng: np.random.Generator) -> list[Note]:
    centre = REGISTER_CENTRES[truth.register] - (14 if truth.instrument == "bass" else 0)
    rhythms = RHYTHMS[style.beats_per_bar]
    busy = {"slow": rhythms, "medium": rhythms[1:], "fast": rhythms[2:]}[truth.tempo]
    if style.accompaniment == "pad":
        busy = rhythms[:1]
    motif = [busy[rng.integers(len(busy))] for _ in range(2)]
    steps = [rng.choice([-2, -1, -1, 1, 1, 2], size=8) for _ in range(2)]
    notes, degree = [], _nearest_degree(truth, centre)
    for bar, root in enumerate(roots):
        start = bar * style.beats_per_bar
        for i, duration in enumerate(motif[bar % 2]):
            if i == 0:  # a chord tone on the first beat
                degree = _nearest_degree(truth, (scale_pitch(truth, degree) + centre) // 2, _triad(root))
            else:
                degree += int(steps[bar % 2][i])
                if abs(scale_pitch(truth, degree) - centre) > 9:
                    degree = _nearest_degree(truth, centre)
            velocity = 1.0 if i == 0 else 0.8
            notes.append(Note("lead", start, duration * 0.95, scale_pitch(truth, degree), velocity))
            start += duration
    return notes


def _accompaniment(truth: Truth, style: Style, roots: list[int]) -> list[Note]:
    centre = min(max(REGISTER_CENTRES[truth.register] - 12, 48), 64)
    length = style.beats_per_bar
    notes = []
    for bar, root in enumerate(roots):
        start = bar * length
        degrees = sorted(_nearest_degree(truth, centre, (step,)) for step in _triad(root))
        pitches = [scale_pitch(truth, degree) for degree in degrees]
        if style.accompaniment == "block":
            hits = [(beat, 2.0) for beat in range(0, length, 2)]
        elif style.accompaniment == "pad":
            hits = [(0, float(length))]
        elif style.accompaniment == "offbeat":
            hits = (
                [(beat, 0.5) for beat in range(1, length)] if length == 3 else [(0.5 + b, 0.4) for b in range(length)]
            )
        else:
            hits = []
        notes += [Note("chords", start + at, held, pitch, 0.45) for at, held in hits for pitch in pitches]
        if style.accompaniment == "arpeggio":
            order = [pitches[0], pitches[1], pitches[2], pitches[1] + 12]
            notes += [Note("chords", start + i / 2, 0.45, order[i % 4], 0.5) for i in range(2 * length)]
    return notes


def _bass(truth: Truth, style: Style, roots: list[int], rng: np.random.Generator) -> list[Note]:
    if truth.style in ("dance", "rock"):
        hits = [(i / 2, 0.45) for i in range(2 * style.beats_per_bar)]
    else:
        hits = [(0, style.beats_per_bar * 0.9)] if rng.random() < 0.5 else [(0, 1.4), (style.beats_per_bar - 1, 0.9)]
    return [
        Note(
            "bass", bar * style.beats_per_bar + at, held, scale_pitch(truth, _nearest_degree(truth, 38, (root,))), 0.8
        )
        for bar, root in enumerate(roots)
        for at, held in hits
    ]


def _drums(truth: Truth, style: Style, num_bars: int, rng: np.random.Generator) -> list[Note]:
    if truth.drums == "none":
        return []
    length = style.beats_per_bar
    if truth.drums == "electronic":
        pattern = [("kick", beat) for beat in range(length)] + [("clap", beat) for beat in range(1, length, 2)]
        pattern += [("hat", beat + 0.5) for beat in range(length)]
        if rng.random() < 0.5:
            pattern += [("hat", beat + quarter) for beat in range(length) for quarter in (0.25, 0.75)]
    elif length == 3:
        pattern = [("kick", 0), ("snare", 1), ("snare", 2)]
    else:
        pattern = [("kick", 0), ("snare", 1), ("kick", 2), ("snare", 3)]
        pattern += [("kick", 2.5)] if rng.random() < 0.5 else []
        pattern += [("hat", i / 2) for i in range(2 * length)]
    velocity = {"kick": 1.0, "snare": 0.8, "clap": 0.8, "hat": 0.4}
    return [
        Note("drums", bar * length + at, 0.25, name, velocity[name]) for bar in range(num_bars) for name, at in pattern
    ]
