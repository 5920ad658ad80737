"""Compose pieces by rule: from random numbers to a symbolic score, and the truth about it clip by clip and frame by frame.

A piece has a key, a mode, a tempo, a genre (metre, bass, chords and drums), an artist (who plays the chords, and a habit
of melody) and a lead instrument. A progression with a cadence carries a motif that is moved from chord to chord. It begins
with an intro without the lead and ends on a held tonic chord; a clip is a window of a piece. All notes begin on a grid of
half token frames (20 ms), so that what a frame says is crisp. Nothing here makes sound.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

FRAME_RATE = 25  # frames a second of the truth, and of all tokens
KEYS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MODES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 11)}  # the minor one harmonic
# one chord a bar: (semitones above the tonic, quality); every one begins on the tonic and ends in or on a cadence
PROGRESSIONS = {
    "major": (
        ((0, "major"), (5, "major"), (7, "major"), (0, "major")),
        ((0, "major"), (9, "minor"), (5, "major"), (7, "major")),
        ((0, "major"), (5, "major"), (0, "major"), (7, "major")),
    ),
    "minor": (
        ((0, "minor"), (5, "minor"), (7, "major"), (0, "minor")),
        ((0, "minor"), (8, "major"), (5, "minor"), (7, "major")),
        ((0, "minor"), (5, "minor"), (0, "minor"), (7, "major")),
    ),
}
THIRDS = {"major": 4, "minor": 3}
INSTRUMENTS = ("piano", "organ", "strings", "flute", "bells", "guitar", "synth", "brass", "bass", "voice")
BEAT_IN_FRAMES = {
    "slow": (20, 22, 24),
    "medium": (13, 14),
    "fast": (9, 10),
}  # 75 … 62, 115 and 107, 167 and 150 a minute
REGISTER_CENTRES = {"low": 50, "high": 77}  # MIDI note about which the melody moves
BASS_LEAD_CENTRE, BASS_CENTRE, CHORD_CENTRE = 40, 38, 62
LOUDNESS_LEVELS = {"quiet": -32.0, "medium": -22.0, "loud": -13.0}  # dBFS, about the root mean square of the clip
DRUMS = ("none", "acoustic", "electronic")
DRUM_NAMES = ("kick", "snare", "hat")
VOWELS = ("a", "e", "i", "o", "u")


@dataclass(frozen=True)
class Genre:
    """What a genre fixes, in beats of its bar: (start, length) of bass and chords, and where drums strike."""

    beats_per_bar: int
    bass: tuple[tuple[float, float], ...]
    chords: tuple[tuple[float, float], ...]
    drums: dict[str, tuple[float, ...]]


GENRES = {
    "ballad": Genre(4, ((0, 2), (2, 2)), ((0, 2), (2, 2)), {"kick": (0, 2.5), "snare": (2,), "hat": (0, 1, 2, 3)}),
    "waltz": Genre(3, ((0, 1),), ((1, 0.5), (2, 0.5)), {"kick": (0,), "snare": (1, 2), "hat": (0, 1, 2)}),
    "dance": Genre(
        4,
        ((0, 0.5), (1, 0.5), (2, 0.5), (3, 0.5)),
        ((0.5, 0.5), (1.5, 0.5), (2.5, 0.5), (3.5, 0.5)),
        {"kick": (0, 1, 2, 3), "snare": (1, 3), "hat": (0.5, 1.5, 2.5, 3.5)},
    ),
    "rock": Genre(
        4,
        tuple((i / 2, 0.5) for i in range(8)),
        ((0, 1), (1.5, 0.5), (2, 1), (3.5, 0.5)),
        {"kick": (0, 2, 2.5), "snare": (1, 3), "hat": tuple(i / 2 for i in range(8))},
    ),
}


@dataclass(frozen=True)
class Artist:
    """A palette and a habit: who plays the chords, and (start, length, choices of steps from the chord's root)."""

    chord_instrument: str
    rhythms: dict[int, tuple[tuple[float, float], ...]]
    steps: tuple[tuple[int, ...], ...]  # one motif is drawn; a step counts notes of the scale


ARTISTS = {
    "Aurora": Artist(  # flowing runs
        "strings",
        {4: ((0, 1), (1, 0.5), (1.5, 0.5), (2, 1), (3, 0.5), (3.5, 0.5)), 3: ((0, 1), (1, 1), (2, 0.5), (2.5, 0.5))},
        ((0, 1, 2, 4, 3, 2), (4, 3, 2, 0, 1, 2), (2, 3, 4, 2, 1, 0)),
    ),
    "Basalt": Artist(  # leaps between chord tones
        "organ",
        {4: ((0, 1), (1, 1), (2, 1), (3, 1)), 3: ((0, 1), (1, 1), (2, 1))},
        ((0, 4, 2, 4), (4, 0, 4, 2), (2, 0, 4, 0)),
    ),
    "Cobalt": Artist(  # repeated notes with rests
        "synth",
        {4: ((0, 0.5), (0.5, 0.5), (1, 1), (2, 0.5), (2.5, 0.5)), 3: ((0, 0.5), (0.5, 0.5), (1, 1))},
        ((0, 0, 2, 2, 0), (4, 4, 2, 2, 4), (2, 2, 2, 0, 0)),
    ),
    "Dune": Artist(  # long notes
        "piano",
        {4: ((0, 2), (2, 1), (3, 1)), 3: ((0, 2), (2, 1))},
        ((0, 2, 1), (4, 2, 3), (2, 4, 3)),
    ),
}


@dataclass(frozen=True)
class Truth:
    """The attributes of a clip, as plain words and numbers; `start_in_s` is where in its piece it begins."""

    instrument: str
    tempo: str
    tempo_in_bpm: float
    key: str
    mode: str
    drums: str
    register: str
    loudness: str
    genre: str
    artist: str
    total_length_in_s: float
    start_in_s: float

    def as_dict(self) -> dict:
        return asdict(self)

    @property
    def beat_in_frames(self) -> int:
        return round(60 * FRAME_RATE / self.tempo_in_bpm)


@dataclass(frozen=True)
class Note:
    """One event in token frames from the beginning of the piece.

    `voice` is lead, chords, bass or drums; `pitch` a MIDI note or a drum's name; `vowel` what a singer sings.
    """

    voice: str
    start: float
    length: float
    pitch: int | str
    vowel: str | None = None


@dataclass(frozen=True)
class Chord:
    """A chord from `start` on, for `length` frames; `root` is a pitch class."""

    start: float
    length: float
    root: int
    quality: str


@dataclass(frozen=True)
class Score:
    truth: Truth
    notes: tuple[Note, ...]
    chords: tuple[Chord, ...]


def draw_truth(rng: np.random.Generator, duration_in_s: float = 10.0) -> Truth:
    """Draw every attribute by itself (a bass guitar alone is always low), and the window of the piece.

    Half of the windows begin with the piece, some hold its end.
    """
    instrument = str(rng.choice(INSTRUMENTS))
    tempo = str(rng.choice(list(BEAT_IN_FRAMES)))
    beat = int(rng.choice(BEAT_IN_FRAMES[tempo]))
    genre = str(rng.choice(list(GENRES)))
    drums = "none" if rng.random() < 0.5 else str(rng.choice(DRUMS[1:]))
    bar_in_s = beat * GENRES[genre].beats_per_bar / FRAME_RATE
    num_bars = max(round(rng.uniform(12.0, 45.0) / bar_in_s), 4)
    total = num_bars * bar_in_s
    where = rng.random()
    latest = max(total - duration_in_s, 0.0)
    start = 0.0 if where < 0.5 else rng.uniform(0.0, latest) if where < 0.8 else latest + rng.uniform(0.0, 1.5)
    return Truth(
        instrument=instrument,
        tempo=tempo,
        tempo_in_bpm=round(60 * FRAME_RATE / beat, 2),
        key=str(rng.choice(KEYS)),
        mode=str(rng.choice(list(MODES))),
        drums=drums,
        register="low" if instrument == "bass" else str(rng.choice(list(REGISTER_CENTRES))),
        loudness=str(rng.choice(list(LOUDNESS_LEVELS), p=(0.4, 0.2, 0.4))),
        genre=genre,
        artist=str(rng.choice(list(ARTISTS))),
        total_length_in_s=round(total, 2),
        start_in_s=round(round(start * FRAME_RATE) / FRAME_RATE, 2),
    )


def compose(truth: Truth, rng: np.random.Generator) -> Score:
    """Write the whole piece."""
    genre, artist = GENRES[truth.genre], ARTISTS[truth.artist]
    beat, length = truth.beat_in_frames, genre.beats_per_bar
    num_bars = round(truth.total_length_in_s * FRAME_RATE / (beat * length))
    progression = PROGRESSIONS[truth.mode][rng.integers(len(PROGRESSIONS[truth.mode]))]
    tonic = KEYS.index(truth.key)
    motif = artist.steps[rng.integers(len(artist.steps))]
    vowels = [str(v) for v in rng.choice(VOWELS, size=8)]
    intro = 2 if truth.tempo == "slow" else length  # beats without the lead
    notes: list[Note] = []
    chords: list[Chord] = []
    num_sung = 0

    def add(voice: str, bar: int, at: float, held: float, pitch: int | str, vowel: str | None = None) -> None:
        notes.append(Note(voice, (bar * length + at) * beat, held * beat, pitch, vowel))

    for bar in range(num_bars):
        last = bar == num_bars - 1
        above, quality = progression[0] if last else progression[bar % 4]
        root = (tonic + above) % 12
        chords.append(Chord(bar * length * beat, length * beat, root, quality))
        triad = [_near(root + step, CHORD_CENTRE) for step in (0, THIRDS[quality], 7)]
        bass = _near(root, BASS_CENTRE)
        if last:
            for pitch in triad:
                add("chords", bar, 0, length, pitch)
            if truth.instrument != "bass":
                add("bass", bar, 0, length, bass)
            add("lead", bar, 0, length, _near(root, _lead_centre(truth)), vowels[0])
            if truth.drums != "none":
                add("drums", bar, 0, 0.5, "kick")
            continue
        for at, held in genre.chords:
            for pitch in triad:
                add("chords", bar, at, held, pitch)
        if truth.instrument != "bass":
            for at, held in genre.bass:
                add("bass", bar, at, held, bass)
        if truth.drums != "none":
            for name, beats in genre.drums.items():
                for at in beats:
                    add("drums", bar, at, 0.5, name)
        for i, (at, held) in enumerate(artist.rhythms[length]):
            if bar * length + at >= intro:
                pitch = _melody_pitch(truth, root, quality, motif[i % len(motif)])
                add("lead", bar, at, held, pitch, vowels[num_sung % 8])
                num_sung += 1
    return Score(truth, tuple(notes), tuple(chords))


def _lead_centre(truth: Truth) -> int:
    return BASS_LEAD_CENTRE if truth.instrument == "bass" else REGISTER_CENTRES[truth.register]


def _near(pitch: int, centre: int) -> int:
    """The note of this pitch class nearest to `centre` (of two, the lower one)."""
    return centre + (pitch - centre + 5) % 12 - 5


def _melody_pitch(truth: Truth, root: int, quality: str, step: int) -> int:
    """The note `step` steps of the scale above the chord's root, the even steps its own notes."""
    tonic = KEYS.index(truth.key)
    own = {0: 0, 2: THIRDS[quality], 4: 7}
    if step in own:
        above = own[step]
    else:
        classes = sorted((tonic + degree - root) % 12 for degree in MODES[truth.mode])
        low, high = own[step - 1], own[step + 1]
        between = [c for c in classes if low < c < high]
        above = between[len(between) // 2] if between else low
    return _near(root, _lead_centre(truth) - 3) + above


def frame_truth(score: Score, duration_in_s: float) -> dict[str, np.ndarray]:
    """What sounds in each token frame of the clip: int64 (frames,) by name.

    - lead, bass: MIDI note, 0 for none; lead_onset, bass_onset, chord_onset: 1 where a note begins
    - chord: 1 + root + 12 if minor, 0 for none
    - drums: a bit for each of `DRUM_NAMES` where it is struck
    - vowel: 1 + index in `VOWELS` where the lead is a voice, else 0
    """
    num_frames = round(duration_in_s * FRAME_RATE)
    first = round(score.truth.start_in_s * FRAME_RATE)
    names = ("lead", "lead_onset", "bass", "bass_onset", "chord", "chord_onset", "drums", "vowel")
    frames = {name: np.zeros(num_frames, dtype=np.int64) for name in names}
    for note in score.notes:
        start, stop = int(note.start) - first, round(note.start + note.length) - first
        if stop <= 0 or start >= num_frames:
            continue
        held = slice(max(start, 0), min(stop, num_frames))
        if note.voice in ("lead", "bass"):
            frames[note.voice][held] = note.pitch
            if note.voice == "lead" and score.truth.instrument == "voice":
                frames["vowel"][held] = 1 + VOWELS.index(str(note.vowel))
        if start < 0:
            continue
        if note.voice == "drums":
            frames["drums"][start] |= 1 << DRUM_NAMES.index(str(note.pitch))
        else:
            frames[{"chords": "chord"}.get(note.voice, note.voice) + "_onset"][start] = 1
    for chord in score.chords:
        start, stop = int(chord.start) - first, round(chord.start + chord.length) - first
        if stop > 0 and start < num_frames:
            frames["chord"][max(start, 0) : stop] = 1 + chord.root + (12 if chord.quality == "minor" else 0)
    return frames
