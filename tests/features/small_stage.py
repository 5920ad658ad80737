"""The mechanism of streams that need training, whatever the model in the box has learnt: for each, a small stage trained here.

It predicts the codec's first codebooks from the one stream that a request fills, on a few real clips of each thing that can
be asked for, and is heard by the ears that hear the model in the box. Its rows say "small stage".
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from open_musiclm import MusicLMPipeline, MusicLMStageConfig, MusicLMStageModel
from open_musiclm.models.streams import PADDING_ID
from open_musiclm.pipelines.mixtures import Recording
from open_musiclm.tokenizers.attributes import find_attribute
from open_musiclm.tokenizers.codec import as_codec
from open_musiclm.tokenizers.compatibility import acoustic_stream

from .attributes import TEMPOS
from .hearing import FIT_SEED, chosen, colour, of_chance, real_clip, render, rhythm, sung_lines, tempo_scores
from .labels import ARTISTS, GENRES, SUNG, TEMPO, VOWELS, ear_for, ear_for_vowels, vowels_heard
from .recordings import change_over
from .rows import Row, generators, level, paired, standard_error

LENGTH_IN_S = 4.0
NUM_CODEBOOKS = 2
NUM_CLIPS = 3
NUM_STEPS = 70
NUM_EACH = 4
NUM_TRIES = 3
#: what is the same in all clips but for what is asked for: little to learn
PLAIN = {"instrument": "guitar", "key": "C", "mode": "major", "register": "low", "artist": "Basalt", "genre": "rock"}
BEATING = {**PLAIN, "drums": "acoustic", "tempo": "medium", "tempo_in_bpm": TEMPO}
TOTAL_IN_S = 20.0
FOLLOWING_IN_S = 1.0
ENDING = (TOTAL_IN_S, TOTAL_IN_S - LENGTH_IN_S + 1.0)
MIDDLE = (2 * TOTAL_IN_S, ENDING[1])


def run(pipe):
    yield _labelled(pipe, "genre", GENRES, lambda audio: rhythm(audio, pipe.sampling_rate, TEMPO), BEATING)
    yield _labelled(
        pipe, "artist", ARTISTS, lambda audio: colour(audio, pipe.sampling_rate), {**PLAIN, "drums": "none"}
    )
    yield _tempo(pipe)
    yield _timing(pipe)
    yield _lyrics(pipe)
    yield _what_follows(pipe)


def _clips(pipe, **fixed) -> list[np.ndarray]:
    return [real_clip(FIT_SEED + i, LENGTH_IN_S, pipe.sampling_rate, **fixed)[0] for i in range(NUM_CLIPS)]


def _labelled(pipe, name, names, features, fixed):
    names = tuple(names)
    told = taught(pipe, name, {each: _clips(pipe, **{**fixed, name: each}) for each in names}, vocabulary=names)
    usual = {key: value for key, value in fixed.items() if key != name}
    ear, heard = ear_for(pipe, name, names, features, usual, LENGTH_IN_S)
    scores = [ear.scores(np.stack([features(audio) for audio in told[each]])) for each in names]
    chance, margin = of_chance(len(names), NUM_EACH * len(names))
    what = f"the asked one of {', '.join(names)} is heard"
    return Row(f"{name}, small stage", what, chosen(scores), chance, "%", margin=margin, real=heard)


def _tempo(pipe):
    rate = pipe.sampling_rate
    clips = {tempo: _clips(pipe, **{**BEATING, "tempo_in_bpm": tempo}) for tempo in TEMPOS}
    told = taught(pipe, "tempo", clips)
    sets = [
        [np.stack([tempo_scores(a, rate, TEMPOS) for a in some[tempo]]) for tempo in TEMPOS] for some in (told, clips)
    ]
    chance, margin = of_chance(len(TEMPOS), NUM_EACH * len(TEMPOS))
    what = f"the asked one of {', '.join(f'{tempo:.0f}' for tempo in TEMPOS)} beats a minute fits best"
    return Row("tempo, small stage", what, chosen(sets[0]), chance, "%", margin=margin, real=chosen(sets[1]))


def _timing(pipe):
    rate = pipe.sampling_rate
    clips = {
        (total, start): _clips(pipe, **{**BEATING, "total_length_in_s": total, "start_in_s": start})
        for total, start in (ENDING, MIDDLE)
    }
    told = taught(pipe, "timing", clips)
    falls = {
        timing: np.array([level(a[: -2 * rate]) - level(a[-rate // 2 :]) for a in told[timing]])
        for timing in (ENDING, MIDDLE)
    }
    what = "fall of the level at the end of a piece, against its middle"
    return paired("timing, small stage", what, falls[ENDING], falls[MIDDLE], "dB")


def _lyrics(pipe):
    """One tune, sung with every vowel replaced by the next, and the next: nothing but the lyrics tells them apart."""
    rate, clips, scores = pipe.sampling_rate, {}, {}
    fixed = {**SUNG, "key": "C", "mode": "major", "genre": "ballad"}
    for turned in range(len(VOWELS)):
        _, score = real_clip(FIT_SEED, LENGTH_IN_S, rate, **fixed)
        notes = tuple(replace(note, vowel=_turn(note.vowel, turned)) for note in score.notes)
        lines = tuple(sung_lines(score, LENGTH_IN_S, turned))
        clips[lines] = [render(replace(score, notes=notes), LENGTH_IN_S, rate)]
        scores[lines] = (score, turned)
    told = taught(pipe, "lyrics", clips, vocabulary=VOWELS, frame_rate=5.0)
    ear, heard = ear_for_vowels(pipe, LENGTH_IN_S)
    shares = [
        vowels_heard(ear, audio, rate, scores[lines][0], LENGTH_IN_S, scores[lines][1])
        for lines in clips
        for audio in told[lines]
    ]
    what = f"the asked vowel of {', '.join(VOWELS)} at the asked time"
    margin = 200 * standard_error(shares)
    value, chance = 100 * float(np.mean(shares)), 100 / len(VOWELS)
    return Row("lyrics, small stage", what, value, chance, "%", margin=margin, real=heard)


def _turn(vowel: str | None, turned: int) -> str | None:
    return None if vowel is None else VOWELS[(VOWELS.index(vowel) + turned) % len(VOWELS)]


def _what_follows(pipe):
    """Recordings in keys and sounds of their own, whose beginnings are made anew: with what follows shown, and hidden."""
    rate, length = pipe.sampling_rate, LENGTH_IN_S / 2
    keys = ("C", "E", "Ab")
    clips = [
        real_clip(FIT_SEED, length + FOLLOWING_IN_S, rate, **{**PLAIN, "drums": "none", "instrument": sound, "key": key})[0]
        for sound in ("organ", "strings", "brass", "flute")
        for key in keys
    ]  # fmt: skip
    codes = codes_of(pipe, clips)
    stream = replace(
        acoustic_stream(pipe.codec, "what_follows", 0, 1), context="after", context_in_s=FOLLOWING_IN_S, optional=True
    )
    num_frames = round(length * stream.frame_rate)
    shown = codes[:, num_frames : num_frames + stream.num_frames_after, 0]
    both = torch.cat([shown, torch.full_like(shown, PADDING_ID)])
    small = learnt(pipe, stream, both, codes[:, :num_frames].repeat(2, 1, 1), length)
    found: dict[str, list[float]] = {"shown": [], "hidden": []}
    joint = round(length * rate)
    for seed, clip in enumerate(clips * NUM_TRIES):
        edited = small.edit_audio(Recording(clip, rate), 0.0, length, num_candidates=1, generator=generators(1, seed))
        hidden = small(audio_length_in_s=length, generator=generators(1, seed)).audios[0].mean(axis=0)
        for name, audio in (("shown", edited.audios[0].mean(axis=0)), ("hidden", hidden)):
            found[name].append(change_over(np.concatenate([audio[:joint], clip[joint:]]), joint, rate))
    what = "change of the spectrum to what follows, shown it, against hidden"
    return paired("editing, small stage", what, *map(np.array, found.values()), "dB", higher_is_better=False)


def taught(pipe, name: str, clips: dict[Any, Sequence[np.ndarray]], **fields: Any) -> dict[Any, list[np.ndarray]]:
    """Teach a stage what each request sounds like, and ask it.

    Args:
        name: of the attribute.
        clips: a request → clips that are so, (samples,) each.
        fields: of the attribute's stream.

    Returns:
        a request → what it makes of it.
    """
    attribute = find_attribute(name)
    if "vocabulary" in fields:
        fields["codebook_size"] = len(fields["vocabulary"]) + (name == "lyrics")
    stream = attribute.default_stream(**fields)
    requests = [request for request, some in clips.items() for _ in some]
    ids = torch.from_numpy(np.stack([attribute.from_request(_plain(r), stream, LENGTH_IN_S) for r in requests]))
    codes = codes_of(pipe, [clip for some in clips.values() for clip in some])
    small = learnt(pipe, stream, ids.squeeze(-1) if stream.num_codebooks == 1 else ids, codes, LENGTH_IN_S)
    made = {}
    for request in clips:
        audios = small(
            audio_length_in_s=LENGTH_IN_S,
            num_waveforms_per_prompt=NUM_EACH,
            generator=generators(NUM_EACH),
            settings={"temperature": 0.7},
            **{name: _plain(request)},
        ).audios
        made[request] = [audio.mean(axis=0) for audio in audios]
    return made


@torch.no_grad()
def codes_of(pipe, clips: Sequence[np.ndarray]) -> torch.Tensor:
    """The codec's first codebooks of clips (samples,) of one length: (clips, frames, codebooks)."""
    audio = torch.from_numpy(np.stack(clips)).float()[:, None]
    return as_codec(pipe.codec).encode(audio.to(pipe.codec.device))[..., :NUM_CODEBOOKS].cpu()


def learnt(pipe, condition, condition_ids: torch.Tensor, codes: torch.Tensor, window_in_s: float) -> MusicLMPipeline:
    """A pipeline whose one stage has learnt clips by heart, each by what its condition says of it."""
    torch.manual_seed(0)
    heard = acoustic_stream(pipe.codec, "acoustic", 0, NUM_CODEBOOKS).to_dict() | {"pattern": "delay"}
    stage = MusicLMStageModel(
        MusicLMStageConfig(
            streams=[condition.to_dict(), heard],
            window_in_s=window_in_s,
            window_stride_in_s=window_in_s,
            hidden_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            head_dim=24,
        )
    )
    optimizer = torch.optim.AdamW(stage.parameters(), lr=3e-3)
    for _ in range(NUM_STEPS):
        stage(**{condition.argument: condition_ids}, acoustic_token_ids=codes, labels=codes).loss.backward()
        torch.nn.utils.clip_grad_norm_(stage.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    stage.eval()
    parts = {part: pipe.components[part] for part in ("clap", "clap_processor", "clap_quantizer", "codec")}
    small = MusicLMPipeline(**parts, acoustic_model=stage.to(pipe.device))
    small.set_progress_bar_config(disable=True)
    return small


def _plain(request: Any) -> Any:
    """A request as a user writes it: lines of lyrics are a list."""
    return list(request) if isinstance(request, tuple) and isinstance(request[0], tuple) else request
