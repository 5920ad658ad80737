"""Melody, tempo, key, timing: which of the things asked for is heard, of options asked for equally often."""

import numpy as np

from open_musiclm.tokenizers.attributes import find_attribute

from .hearing import (
    REAL_SEED,
    chosen,
    key_scores_of,
    of_chance,
    real_clip,
    tempo_scores,
    tune_of,
    tune_scores,
)
from .rows import Row, level, made, paired, standard_error

LENGTH_IN_S = 8.0
PROMPTS = ("a piano melody", "a flute melody", "an organ", "strings")
BEATS = ("a piano melody with drums", "a guitar with drums", "a synth with a drum machine", "drums")
TEMPOS = (68.18, 107.14, 166.67)  # no two of them a factor of two apart
KEYS = ("C major", "E major", "Ab major", "D minor", "F# minor", "Bb minor")
NUM_TUNES = 6


def run(pipe):
    has = {str(stream.source) for stream in pipe.chain.streams.values()}
    return [row for name in ("melody", "tempo", "key", "timing") if name in has for row in globals()[f"_{name}"](pipe)]


def _melody(pipe):
    """Tunes as the corpus has them, each in a key of its own."""
    rate = pipe.sampling_rate
    stream = next(s for s in pipe.chain.streams.values() if s.source == "melody")
    real = [
        real_clip(REAL_SEED + i, LENGTH_IN_S, rate, register="high", instrument="flute", drums="none")
        for i in range(NUM_TUNES)
    ]
    tunes = [tune_of(score, LENGTH_IN_S) for _, score in real]
    ids = [find_attribute("melody").from_request(tune, stream, LENGTH_IN_S)[:, 0] for tune in tunes]

    def scores(clips):
        return np.stack([tune_scores(clip, rate, ids, stream.frame_rate) for clip in clips])

    sung = [scores(made(pipe, PROMPTS, LENGTH_IN_S, melody=tune)) for tune in tunes]
    number = sum(len(part) for part in sung)
    chance, margin = of_chance(NUM_TUNES, number)
    heard = chosen([scores([clip]) for clip, _ in real])
    yield Row(
        "melody", f"the asked one of {NUM_TUNES} tunes fits best", chosen(sung), chance, "%", margin=margin, real=heard
    )
    plain = scores(made(pipe, PROMPTS, LENGTH_IN_S))
    gains = [100 * (part[:, asked] - plain[:, asked]) for asked, part in enumerate(sung)]
    yield Row(
        "melody",
        "chroma on the tune's notes, over the mean of all, with the same seeds not asked",
        float(np.mean([100 * part[:, asked].mean() for asked, part in enumerate(sung)])),
        float(100 * plain.mean()),
        "%",
        margin=2 * standard_error(np.concatenate(gains)),
        real=float(np.mean([100 * scores([clip])[0, asked] for asked, (clip, _) in enumerate(real)])),
    )


def _tempo(pipe):
    rate = pipe.sampling_rate
    told = [
        np.stack([tempo_scores(a, rate, TEMPOS) for a in made(pipe, BEATS, LENGTH_IN_S, 2, tempo=tempo)])
        for tempo in TEMPOS
    ]
    real = []
    for tempo in TEMPOS:
        clips = [
            real_clip(REAL_SEED + i, LENGTH_IN_S, rate, tempo_in_bpm=tempo, drums="acoustic")[0] for i in range(8)
        ]
        real.append(np.stack([tempo_scores(clip, rate, TEMPOS) for clip in clips]))
    chance, margin = of_chance(len(TEMPOS), sum(len(part) for part in told))
    what = f"the asked one of {', '.join(f'{tempo:.0f}' for tempo in TEMPOS)} beats a minute fits best"
    yield Row("tempo", what, chosen(told), chance, "%", margin=margin, real=chosen(real))


def _key(pipe):
    rate = pipe.sampling_rate
    told = [
        np.stack([key_scores_of(a, rate, KEYS) for a in made(pipe, PROMPTS, LENGTH_IN_S, 2, key=key)]) for key in KEYS
    ]
    real = []
    for key in KEYS:
        tonic, mode = key.split()
        tonic = {"F#": "F#", "Ab": "Ab", "Bb": "Bb"}.get(tonic, tonic)
        clips = [real_clip(REAL_SEED + i, LENGTH_IN_S, rate, key=tonic, mode=mode, drums="none")[0] for i in range(6)]
        real.append(np.stack([key_scores_of(clip, rate, KEYS) for clip in clips]))
    chance, margin = of_chance(len(KEYS), sum(len(part) for part in told))
    what = f"the asked one of {len(KEYS)} keys fits best"
    yield Row("key", what, chosen(told), chance, "%", margin=margin, real=chosen(real))


def _timing(pipe):
    """A window of a piece's last seconds and one behind them: it falls silent; one of its middle does not."""
    rate, total, behind_in_s = pipe.sampling_rate, 20.0, 1.0

    def falls(clips):
        return np.array([level(a[: -2 * rate]) - level(a[-rate // 2 :]) for a in clips])

    start = total - LENGTH_IN_S + behind_in_s
    ending, middle = (
        falls(made(pipe, PROMPTS, LENGTH_IN_S, 6, timing=(length, start))) for length in (total, 2 * total)
    )
    real = [
        real_clip(REAL_SEED + i, LENGTH_IN_S, rate, total_length_in_s=total, start_in_s=start)[0] for i in range(8)
    ]
    what = "fall of the level at the end of a piece, against its middle"
    yield paired("timing", what, ending, middle, "dB", real=float(np.median(falls(real))))
