"""Melody, tempo, key, timing: what was asked for is measured in the audio; without it, the same seeds are not asked."""

import numpy as np

from open_musiclm.evaluation.metrics.chroma import estimate_key, key_agreement, parse_key
from open_musiclm.evaluation.metrics.tempo import estimate_tempo, tempo_agreement
from open_musiclm.tokenizers.attributes import find_attribute

from .rows import Row, generators, level, pitch_classes_agree

TUNES = [
    [60, 62, 64, 65, 67, 65, 64, 62, 60, 67],
    [69, 69, 72, 72, 76, 76, 74, 72, 71, 69],
    [67, 64, 60, 64, 67, 72, 71, 69, 67, 65],
    [62, 65, 69, 74, 69, 65, 62, 61, 62, 69],
]
PROMPTS = ["a piano melody", "a flute melody", "a loud organ", "strings"]
TEMPOS = [72, 110, 150, 90]
KEYS = ["C major", "A minor", "G major", "D minor"]


def _made(pipe, prompts, seconds=10.0, **asked):
    return [
        pipe(
            prompt, audio_length_in_s=seconds, generator=generators(1, seed), **{n: v[seed] for n, v in asked.items()}
        )
        .audios[0]
        .mean(axis=0)
        for seed, prompt in enumerate(prompts)
    ]


def run(pipe):
    has = {str(stream.source) for stream in pipe.chain.streams.values()}
    rate, rows = pipe.sampling_rate, []
    plain = _made(pipe, PROMPTS)
    if "melody" in has:
        tunes = [[(i, i + 1.0, pitch) for i, pitch in enumerate(tune)] for tune in TUNES]
        stream = next(s for s in pipe.chain.streams.values() if s.source == "melody")
        ids = [find_attribute("melody").from_request(tune, stream, 10.0)[:, 0] for tune in tunes]
        sung = _made(pipe, PROMPTS, melody=tunes)
        agree = [
            np.mean([pitch_classes_agree(a, rate, i, stream.frame_rate) for a, i in zip(audios, ids, strict=True)])
            for audios in (sung, plain)
        ]
        rows.append(Row("melody", "pitch class of the tune that was asked for", *(100 * x for x in agree), "%"))
    if "tempo" in has:
        told = _made(pipe, [f"{p} with drums" for p in PROMPTS], tempo=TEMPOS)
        agree = [
            np.mean([tempo_agreement(estimate_tempo(a, rate), t, 0.08) for a, t in zip(audios, TEMPOS, strict=True)])
            for audios in (told, plain)
        ]
        rows.append(Row("tempo", "tempo within 8 %, octaves allowed", *(100 * x for x in agree), "%"))
    if "key" in has:
        told = _made(pipe, PROMPTS, key=KEYS)
        agree = [
            np.mean([key_agreement(estimate_key(a, rate), parse_key(k)) for a, k in zip(audios, KEYS, strict=True)])
            for audios in (told, plain)
        ]
        rows.append(Row("key", "MIREX key score", *(100 * x for x in agree), "%"))
    if "timing" in has:
        ending = _made(pipe, PROMPTS, timing=[(10.0, 0.0)] * 4)
        middle = _made(pipe, PROMPTS, timing=[(120.0, 60.0)] * 4)
        falls = [np.mean([level(a[:-rate]) - level(a[-rate // 2 :]) for a in audios]) for audios in (ending, middle)]
        rows.append(Row("timing", "fall of the level at the end of a piece, against its middle", *falls, "dB"))
    return rows
