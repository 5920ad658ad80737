"""Genre, artist, lyrics: heard by classifiers that were fitted on real clips of the corpus, if the names are the corpus's."""

import numpy as np

from .hearing import (
    FIT_SEED,
    REAL_SEED,
    Ear,
    chosen,
    colour,
    of_chance,
    real_clip,
    rhythm,
    sung_lines,
    sung_moments,
    through_codec,
    vowel_window,
)
from .rows import Row, made, standard_error

# isort: split
from compose import ARTISTS, GENRES, VOWELS  # on the path since .hearing

LENGTH_IN_S = 8.0
TEMPO = 107.14
NUM_FIT, NUM_REAL = 30, 8
BEATS = ("a piano melody with drums", "a guitar with drums", "strings with drums", "a flute with drums")
LEADS = ("a flute melody", "a guitar melody", "bells", "brass")
#: low voices: high ones have too few partials to tell vowels by
VOICES = ("a low voice", "a deep singing voice without drums", "a low singer", "deep vocals")


def run(pipe):
    streams = {str(stream.source): stream for stream in pipe.chain.streams.values()}
    known = {"genre": tuple(GENRES), "artist": tuple(ARTISTS), "lyrics": tuple(VOWELS)}
    for name, names in known.items():
        if name in streams and tuple(streams[name].vocabulary or ()) == names:
            yield from {"genre": _genre, "artist": _artist, "lyrics": _lyrics}[name](pipe)


def ear_for(pipe, name, names, features, fixed, seconds=LENGTH_IN_S) -> tuple[Ear, float]:
    """An ear for labels, fitted on real clips as the codec gives them back, and the share, in %, that it hears of others."""
    rate = pipe.sampling_rate

    def real(seed, number):
        clips = [
            [real_clip(seed + i, seconds, rate, **{name: each}, **fixed)[0] for i in range(number)] for each in names
        ]
        return [np.stack([features(clip) for clip in through_codec(pipe, some)]) for some in clips]

    ear = Ear(np.concatenate(real(FIT_SEED, NUM_FIT)), np.repeat(np.arange(len(names)), NUM_FIT))
    return ear, chosen([ear.scores(part) for part in real(REAL_SEED, NUM_REAL)])


def _labelled(pipe, name, names, prompts, features, fixed, **asked):
    """A row: of the names asked for, the share that an ear hears."""
    ear, heard = ear_for(pipe, name, names, features, fixed)
    told = [
        ear.scores(np.stack([features(a) for a in made(pipe, prompts, LENGTH_IN_S, 2, **{name: each}, **asked)]))
        for each in names
    ]
    chance, margin = of_chance(len(names), sum(len(part) for part in told))
    what = f"the asked one of {', '.join(names)} is heard"
    return Row(name, what, chosen(told), chance, "%", margin=margin, real=heard)


def _genre(pipe):
    rate, has = pipe.sampling_rate, {str(stream.source) for stream in pipe.chain.streams.values()}
    asked = {"tempo": TEMPO} if "tempo" in has else {}
    yield _labelled(
        pipe, "genre", tuple(GENRES), BEATS, lambda audio: rhythm(audio, rate, TEMPO),
        {"drums": "acoustic", "tempo_in_bpm": TEMPO, "tempo": "medium"}, **asked,
    )  # fmt: skip


def _artist(pipe):
    rate = pipe.sampling_rate
    yield _labelled(pipe, "artist", tuple(ARTISTS), LEADS, lambda audio: colour(audio, rate), {"drums": "none"})


SUNG = {"instrument": "voice", "drums": "none", "register": "low", "artist": "Dune", "tempo_in_bpm": 68.18}


def ear_for_vowels(pipe, seconds=LENGTH_IN_S) -> tuple[Ear, float]:
    """An ear for vowels, fitted as [`ear_for`]."""
    rate = pipe.sampling_rate

    def windows(seed, number):
        clips = [real_clip(seed + i, seconds, rate, **SUNG) for i in range(number)]
        features, labels = [], []
        for (_, score), heard in zip(clips, through_codec(pipe, [clip for clip, _ in clips]), strict=True):
            for moment, vowel in sung_moments(score, seconds):
                features.append(vowel_window(heard, rate, moment))
                labels.append(vowel)
        return np.stack(features), np.array(labels)

    ear = Ear(*windows(FIT_SEED, NUM_FIT))
    features, labels = windows(REAL_SEED, NUM_REAL)
    return ear, 100 * float(np.mean(ear.scores(features).argmax(axis=1) == labels))


def _lyrics(pipe):
    """Lines as the corpus sings them, and the same with every vowel replaced by another: each is asked for equally often."""
    rate = pipe.sampling_rate
    ear, heard = ear_for_vowels(pipe)
    _, score = real_clip(REAL_SEED, LENGTH_IN_S, rate, **SUNG)
    shares = [
        vowels_heard(ear, audio, rate, score, LENGTH_IN_S, turned)
        for turned in range(len(VOWELS))
        for audio in made(pipe, VOICES, LENGTH_IN_S, lyrics=sung_lines(score, LENGTH_IN_S, turned))
    ]
    # the moments of a clip are not independent: a clip counts as one
    margin = 200 * standard_error(shares)
    what = f"the asked vowel of {', '.join(VOWELS)} at the asked time"
    yield Row("lyrics", what, 100 * float(np.mean(shares)), 100 / len(VOWELS), "%", margin=margin, real=heard)


def vowels_heard(ear, audio, rate, score, seconds, turned) -> float:
    """Share of a line's moments in which the vowel asked for is heard."""
    moments = sung_moments(score, seconds)
    found = ear.scores(np.stack([vowel_window(audio, rate, moment) for moment, _ in moments])).argmax(axis=1)
    return float(np.mean(found == [(vowel + turned) % len(VOWELS) for _, vowel in moments]))
