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
    vowel_window,
)
from .rows import Row, made

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


def _labelled(pipe, name, names, prompts, features, fixed, **asked):
    """A row: of the names asked for, the share that an ear fitted on real clips hears."""
    rate = pipe.sampling_rate

    def real(seed, number):
        return [
            np.stack(
                [features(real_clip(seed + i, LENGTH_IN_S, rate, **{name: each}, **fixed)[0]) for i in range(number)]
            )
            for each in names
        ]

    fit = real(FIT_SEED, NUM_FIT)
    ear = Ear(np.concatenate(fit), np.repeat(np.arange(len(names)), NUM_FIT))
    told = [
        ear.scores(np.stack([features(a) for a in made(pipe, prompts, LENGTH_IN_S, 2, **{name: each}, **asked)]))
        for each in names
    ]
    heard = chosen([ear.scores(part) for part in real(REAL_SEED, NUM_REAL)])
    chance, margin = of_chance(len(names), sum(len(part) for part in told))
    return Row(
        name, f"the asked one of {', '.join(names)} is heard", chosen(told), chance, "%", margin=margin, real=heard
    )


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


def _lyrics(pipe):
    """Lines as the corpus sings them, and the same with every vowel replaced by another: each is asked for equally often."""
    rate = pipe.sampling_rate
    fixed = {"instrument": "voice", "drums": "none", "register": "low", "artist": "Dune", "tempo_in_bpm": 68.18}

    def windows(seed, number):
        features, labels = [], []
        for i in range(number):
            clip, score = real_clip(seed + i, LENGTH_IN_S, rate, **fixed)
            for moment, vowel in sung_moments(score, LENGTH_IN_S):
                features.append(vowel_window(clip, rate, moment))
                labels.append(vowel)
        return np.stack(features), np.array(labels)

    ear = Ear(*windows(FIT_SEED, 2 * NUM_FIT))
    features, labels = windows(REAL_SEED, NUM_REAL)
    heard = 100 * float(np.mean(ear.scores(features).argmax(axis=1) == labels))
    _, score = real_clip(REAL_SEED, LENGTH_IN_S, rate, **fixed)
    moments = sung_moments(score, LENGTH_IN_S)
    shares = []
    for turned in range(len(VOWELS)):
        lines = sung_lines(score, LENGTH_IN_S, turned)
        for audio in made(pipe, VOICES, LENGTH_IN_S, lyrics=lines):
            found = ear.scores(np.stack([vowel_window(audio, rate, moment) for moment, _ in moments])).argmax(axis=1)
            shares.append(np.mean(found == [(vowel + turned) % len(VOWELS) for _, vowel in moments]))
    # the moments of a clip are not independent: a clip counts as one
    margin = 200 * float(np.std(shares, ddof=1) / np.sqrt(len(shares)))
    what = f"the asked vowel of {', '.join(VOWELS)} at the asked time"
    yield Row("lyrics", what, 100 * float(np.mean(shares)), 100 / len(VOWELS), "%", margin=margin, real=heard)
