"""The mechanism of streams that need training, whatever the model in the box has learnt: one small stage, trained here in minutes.

It predicts the codec's first codebooks from the streams that a request fills, on a few real clips for each thing that can
be asked for, and is heard by the same ears as the model in the box. Its rows say "small stage".
"""

import time
from functools import partial

import numpy as np
import torch

from open_musiclm import MusicLMPipeline, MusicLMStageConfig, MusicLMStageModel, TokenStream
from open_musiclm.tokenizers.attributes import find_attribute
from open_musiclm.tokenizers.codec import as_codec
from open_musiclm.tokenizers.compatibility import acoustic_stream

from .attributes import TEMPOS
from .hearing import (
    FIT_SEED,
    REAL_SEED,
    chosen,
    colour,
    of_chance,
    real_clip,
    rhythm,
    sung_lines,
    tempo_scores,
)
from .labels import ARTISTS, GENRES, SUNG, TEMPO, VOWELS, ear_for, ear_for_vowels, vowels_heard
from .rows import Row, generators, level, standard_error

LENGTH_IN_S = 5.0
NUM_CODEBOOKS = 2
NUM_CLIPS = 6
NUM_STEPS = 120
BATCH = 16
#: what is the same in all clips but for what is asked for: little to learn
PLAIN = {"instrument": "guitar", "key": "C", "mode": "major", "register": "low", "artist": "Basalt", "genre": "rock"}
BEATING = {**PLAIN, "drums": "acoustic", "tempo": "medium", "tempo_in_bpm": TEMPO}
TOTAL_IN_S = 20.0
ENDING = (TOTAL_IN_S, TOTAL_IN_S - LENGTH_IN_S + 1.0)
MIDDLE = (2 * TOTAL_IN_S, ENDING[1])


def lessons():
    """(what is asked for, the attributes of real clips that are so) of each thing that can be asked for."""
    for genre in GENRES:
        yield {"genre": genre}, {**BEATING, "genre": genre}
    for artist in ARTISTS:
        yield {"artist": artist}, {**PLAIN, "drums": "none", "artist": artist}
    for tempo in TEMPOS:
        yield {"tempo": tempo}, {**BEATING, "tempo_in_bpm": tempo}
    for timing in (ENDING, MIDDLE):
        total, start = timing
        yield {"timing": timing}, {**BEATING, "total_length_in_s": total, "start_in_s": start}
    yield {"lyrics": None}, {**SUNG, "key": "C", "mode": "major", "genre": "ballad"}


def run(pipe):
    small = trained(pipe)
    rate = pipe.sampling_rate

    def told(**request):
        audios = small(
            audio_length_in_s=LENGTH_IN_S, num_waveforms_per_prompt=8, generator=generators(8), **request
        ).audios
        return [audio.mean(axis=0) for audio in audios]

    beats, lone = (
        {k: v for k, v in fixed.items() if k != name} for fixed, name in ((BEATING, "genre"), (PLAIN, "artist"))
    )
    for name, names, features, fixed in (
        ("genre", tuple(GENRES), lambda audio: rhythm(audio, rate, TEMPO), beats),
        ("artist", tuple(ARTISTS), lambda audio: colour(audio, rate), {**lone, "drums": "none"}),
    ):
        ear, heard = ear_for(pipe, name, names, features, fixed, LENGTH_IN_S)
        scores = [ear.scores(np.stack([features(a) for a in told(**{name: each})])) for each in names]
        chance, margin = of_chance(len(names), 8 * len(names))
        what = f"the asked one of {', '.join(names)} is heard"
        yield Row(f"{name}, small stage", what, chosen(scores), chance, "%", margin=margin, real=heard)
    scores = [np.stack([tempo_scores(a, rate, TEMPOS) for a in told(tempo=tempo)]) for tempo in TEMPOS]
    chance, margin = of_chance(len(TEMPOS), 8 * len(TEMPOS))
    what = f"the asked one of {', '.join(f'{tempo:.0f}' for tempo in TEMPOS)} beats a minute fits best"
    yield Row("tempo, small stage", what, chosen(scores), chance, "%", margin=margin)
    falls = [
        np.array([level(a[: -2 * rate]) - level(a[-rate // 2 :]) for a in told(timing=timing)])
        for timing in (ENDING, MIDDLE)
    ]
    yield Row(
        "timing, small stage",
        "fall of the level at the end of a piece, against its middle",
        float(falls[0].mean()),
        float(falls[1].mean()),
        "dB",
        margin=2 * standard_error(falls[0] - falls[1]),
    )
    ear, heard = ear_for_vowels(pipe, LENGTH_IN_S)
    _, score = real_clip(REAL_SEED, LENGTH_IN_S, rate, **SUNG)
    shares = [
        vowels_heard(ear, audio, rate, score, LENGTH_IN_S, turned)
        for turned in range(len(VOWELS))
        for audio in told(lyrics=sung_lines(score, LENGTH_IN_S, turned))[:4]
    ]
    what = f"the asked vowel of {', '.join(VOWELS)} at the asked time"
    margin = 200 * standard_error(shares)
    yield Row(
        "lyrics, small stage", what, 100 * float(np.mean(shares)), 100 / len(VOWELS), "%", margin=margin, real=heard
    )


def trained(pipe, num_steps: int = NUM_STEPS) -> MusicLMPipeline:
    """A pipeline of one small stage, of the streams that a request fills and the codec's first codebooks."""
    torch.manual_seed(0)
    codec, rate = as_codec(pipe.codec), pipe.sampling_rate
    requested = {
        "genre": {"vocabulary": tuple(GENRES), "codebook_size": len(GENRES)},
        "artist": {"vocabulary": tuple(ARTISTS), "codebook_size": len(ARTISTS)},
        "tempo": {},
        "timing": {},
        "lyrics": {"vocabulary": VOWELS, "frame_rate": 5.0},
    }
    attributes = {name: find_attribute(name) for name in requested}
    streams: list[TokenStream] = [attributes[name].default_stream(**fields) for name, fields in requested.items()]
    heard = acoustic_stream(pipe.codec, "acoustic", 0, NUM_CODEBOOKS).to_dict() | {"pattern": "delay"}
    config = MusicLMStageConfig(
        streams=[*(stream.to_dict() for stream in streams), heard],
        window_in_s=LENGTH_IN_S,
        window_stride_in_s=LENGTH_IN_S,
        hidden_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        head_dim=40,
        condition_dropout=0.05,
    )
    stage = MusicLMStageModel(config)
    asked, clips = [], []
    for request, fixed in lessons():
        number = 3 * NUM_CLIPS if "lyrics" in request else NUM_CLIPS
        for i in range(number):
            clip, score = real_clip(FIT_SEED + 500 + i, LENGTH_IN_S, rate, **fixed)
            clips.append(clip)
            asked.append({"lyrics": sung_lines(score, LENGTH_IN_S)} if "lyrics" in request else request)
    codes = encoded(codec, clips)
    rows = {stream.name: [] for stream in streams}
    for request in asked:
        for stream in streams:
            attribute = attributes[stream.name]
            if stream.name in request:
                ids = attribute.from_request(request[stream.name], stream, LENGTH_IN_S)
            else:
                ids = attribute.nothing(stream, LENGTH_IN_S)
            rows[stream.name].append(ids)
    conditions = {stream.argument: torch.from_numpy(np.stack(rows[stream.name])) for stream in streams}
    optimizer = torch.optim.AdamW(stage.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    rise = partial(_learning_rate, num_steps=num_steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rise)
    stage.train()
    started = time.perf_counter()
    for step in range(num_steps):
        chosen_rows = torch.randint(len(codes), (BATCH,))
        batch = {name: ids[chosen_rows].squeeze(-1) for name, ids in conditions.items()}
        target = codes[chosen_rows]
        loss = stage(**batch, acoustic_token_ids=target, labels=target).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(stage.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 40 == 0 or step == num_steps - 1:
            print(
                f"small stage: step {step}, loss {loss.item():.2f}, {time.perf_counter() - started:.0f} s", flush=True
            )
    stage.eval()
    stage.generation_config.temperature, stage.generation_config.top_k = 0.9, 20
    parts = {name: pipe.components[name] for name in ("clap", "clap_processor", "clap_quantizer", "codec")}
    small = MusicLMPipeline(**parts, acoustic_model=stage)
    small.set_progress_bar_config(disable=True)
    return small


def encoded(codec, clips) -> torch.Tensor:
    """(clips, frames, codebooks) of the first ones."""
    audio = torch.from_numpy(np.stack(clips)).float()[:, None]
    with torch.no_grad():
        return codec.encode(audio)[..., :NUM_CODEBOOKS].cpu()


def _learning_rate(step: int, num_steps: int) -> float:
    """Up over the first thirty steps, down along a cosine."""
    return min((step + 1) / 30, 1.0) * (0.55 + 0.45 * float(np.cos(np.pi * step / num_steps)))
