"""Pieces of five minutes: joints of windows are like anywhere else, and what is played at the end is what was asked for."""

import numpy as np
import torch

from open_musiclm.evaluation.metrics.levels import SILENCE_IN_DB
from open_musiclm.pipelines.reranking import clap_embeddings_of_clip
from open_musiclm.pipelines.seams import seam_measure
from open_musiclm.tokenizers.clap import clap_text_embeddings

from .prompts import PROMPTS
from .rows import Row, generators, level, standard_error

LENGTH_IN_S = 300
PART_IN_S = 10
MINUTE = 60 // PART_IN_S
#: how much the last minute may lose, in % and dB; what pieces differ in by chance would let one of them fall silent
NO_LESS = {"moves": 10.0, "level": 3.0, "clap": 3.0}


def run(pipe):
    rate = pipe.sampling_rate
    prompts = PROMPTS[:4]  # unlike one another in level, tempo and instruments
    pieces = pipe(
        list(prompts), audio_length_in_s=float(LENGTH_IN_S), generator=generators(len(prompts)), return_tokens=True
    )
    audios = [audio.mean(axis=0) for audio in pieces.audios]
    yield from _seams(pipe, audios, rate)
    yield from _drift(pipe, audios, rate)
    yield from _semantic_drift(pipe, pieces.tokens)


def _seams(pipe, audios, rate):
    """At the joints of every stage's windows, against moments between two joints, in all pieces: a beat of 0.4 s stands on
    every joint of windows 2 s apart, so one piece alone would say what its beats are, and so would one place between."""
    places = (np.arange(4) + 1) * 0.618034 % 1  # of the way from a joint to the next
    for name, stage in pipe.chain.stages.items():
        window, stride = stage.config.window_in_s, stage.config.window_stride_in_s
        joints = np.arange(window, LENGTH_IN_S - 2.0, stride)
        between = np.concatenate([joints + place * stride for place in places])
        between = between[between < LENGTH_IN_S - 2.0]
        at, elsewhere = (_all_changes(audios, moments, rate) for moments in (joints, between))
        for place, what in enumerate(("level", "spectrum")):
            found, usual = at[:, place], elsewhere[:, place]
            yield Row(
                "long piece",
                f"change of {what} where windows of {name} join, against between them",
                float(found.mean()),
                float(usual.mean()),
                "dB",
                False,
                # no larger: by what two means of so many changes differ by chance
                margin=-2 * float(np.hypot(standard_error(found), standard_error(usual))),
            )
    silent = [np.mean([level(part) < SILENCE_IN_DB for part in np.split(audio, LENGTH_IN_S)]) for audio in audios]
    yield Row(
        "long piece", "seconds that are silent, of all", 100 * float(np.mean(silent)), 0.0, "%", False, margin=-5.0
    )


def _all_changes(audios, moments, rate) -> np.ndarray:
    """(moments, 2): changes of level and spectrum at those where something sounds on both sides; silence is counted apart."""
    half, around, changes = rate // 2, 2 * rate, []  # the rest of the piece says nothing about a moment
    for audio in audios:
        for place in np.round(moments * rate).astype(int):
            sides = audio[place - half : place], audio[place : place + half]
            if min(level(side) for side in sides) < SILENCE_IN_DB:
                continue
            measured = seam_measure(audio[max(place - around, 0) : place + around], min(place, around), rate)
            changes.append((measured["level_in_db"], measured["spectrum_in_db"]))
    return np.array(changes)


def _drift(pipe, audios, rate):
    """CLAP (the model's own ear): is a part still nearest to its own prompt, and how near to the first minute's?"""
    texts = clap_text_embeddings(pipe.clap, pipe.clap_processor, PROMPTS).float()
    own, nearest = [], []
    for number, audio in enumerate(audios):
        parts = [audio[start : start + PART_IN_S * rate] for start in range(0, LENGTH_IN_S * rate, PART_IN_S * rate)]
        sounds = torch.cat(
            [
                clap_embeddings_of_clip(pipe.clap, pipe.clap_processor, part[None], rate).float().mean(0)[None]
                for part in parts
            ]
        )
        similarities = (torch.nn.functional.normalize(sounds) @ texts.T).cpu().numpy()
        own.append(similarities[:, number])
        nearest.append(similarities.argmax(axis=1) == number)
    own, nearest = np.array(own), np.array(nearest)
    minutes = own.reshape(len(own), -1, MINUTE).mean(axis=2)  # (pieces, minutes)
    levels = np.array([[level(part) for part in (audio[: 60 * rate], audio[-60 * rate :])] for audio in audios])
    yield Row(
        "drift",
        "level of the last minute, against the first",
        float(levels[:, 1].mean()),
        float(levels[:, 0].mean()),
        "dB",
        margin=-NO_LESS["level"],
    )
    yield Row(
        "drift",
        "CLAP score (the model's own ear) of the last minute, against the first",
        100 * float(minutes[:, -1].mean()),
        100 * float(minutes[:, 0].mean()),
        "%",
        margin=-NO_LESS["clap"],
    )
    yield Row(
        "drift",
        f"parts of the last minute nearest to their own of {len(PROMPTS)} prompts",
        100 * float(nearest[:, -MINUTE:].mean()),
        100 / len(PROMPTS),
        "%",
        margin=10.0,
    )


def _semantic_drift(pipe, tokens):
    """Of the first stage's tokens: how far the last minute's are from the first's, and whether they still move."""
    stage = next(iter(pipe.chain.stages.values()))
    stream = stage.predicted_stream
    made = tokens[stream.name].reshape(len(tokens[stream.name]), -1, stream.num_codebooks).cpu().numpy()
    minute = round(60 * float(stream.frame_rate))
    ends = [[part.T for part in (row[:minute], row[-minute:])] for row in made]  # (codebooks, frames) each
    counts = np.array(
        [[[np.bincount(q, minlength=stream.codebook_size) for q in part] for part in pair] for pair in ends]
    )
    shares = (counts + 0.5) / (counts + 0.5).sum(axis=-1, keepdims=True)
    pairs = [(i, j) for i in range(len(shares)) for j in range(len(shares))]
    apart = {(i, j): _divergence(shares[i, 0], shares[j, 1]) for i, j in pairs}
    within = [value for (i, j), value in apart.items() if i == j]
    across = [value for (i, j), value in apart.items() if i != j]
    yield Row(
        "drift",
        f"divergence of {stream.name} tokens, last minute from first, against other prompts' pieces",
        float(np.mean(within)),
        float(np.mean(across)),
        "bit",
        False,
        margin=2 * standard_error(across),
    )
    moves = np.array([[100 * np.mean(np.diff(part, axis=1) != 0) for part in pair] for pair in ends])
    yield Row(
        "drift",
        f"{stream.name} tokens that differ from the ones before, last minute against first",
        float(moves[:, 1].mean()),
        float(moves[:, 0].mean()),
        "%",
        margin=-NO_LESS["moves"],
    )


def _divergence(first, second) -> float:
    """Jensen and Shannon's, in bits, mean of the codebooks: 0 for the same shares (codebooks, ids), 1 for none in common."""
    middle = (first + second) / 2
    return float(np.mean([np.sum(part * np.log2(part / middle), axis=-1) for part in (first, second)]))
