"""Guidance, stories, references, mixtures: levels follow what was asked for, and the text is nearer in CLAP's space."""

import numpy as np
import torch

from open_musiclm.pipelines.mixtures import Mixture, Recording
from open_musiclm.pipelines.reranking import clap_embeddings_of_clip
from open_musiclm.tokenizers.clap import clap_text_embeddings

from .attributes import KEYS
from .attributes import PROMPTS as LEADS
from .hearing import key_scores_of, tempo_scores
from .rows import Row, generators, level, made, paired

LOUD, QUIET = "a loud rock song with drums", "a quiet calm melody without drums"
PROMPTS = (
    "a loud rock song with drums",
    "a quiet calm flute melody without drums",
    "a fast dance track with an electronic beat",
    "slow sad strings in a minor key",
    "cheerful bells in a major key",
    "a low bass guitar ballad",
    "an organ waltz without drums",
    "loud brass with drums",
)
SCALE = 2.5
NUM_EACH = 6
NUM_SCORED = 24


def run(pipe):
    if any(stage.config.condition_dropout for stage in pipe.chain.stages.values()):
        yield from _guidance(pipe)
    yield _story(pipe)
    yield from _audio(pipe)


def _guidance(pipe):
    if any(stream.source == "key" for stream in pipe.chain.streams.values()):
        keys, found = KEYS[:4], {}
        for scale in (SCALE, 1.0):
            clips = [made(pipe, LEADS, 8.0, 4, key=key, guidance_scale=scale) for key in keys]
            scores = [np.stack([key_scores_of(a, pipe.sampling_rate, keys) for a in some]) for some in clips]
            found[scale] = np.concatenate([part.argmax(axis=1) == asked for asked, part in enumerate(scores)])
        what = f"the asked one of {len(keys)} keys fits best, scale {SCALE:g} against 1"
        yield paired("guidance", what, found[SCALE], found[1.0], "%")
    yield _tempo_by_text(pipe)
    scores = {
        scale: own_over_others(pipe, made(pipe, PROMPTS, 6.0, NUM_SCORED, guidance_scale=scale), NUM_SCORED)
        for scale in (SCALE, 1.0)
    }
    what = f"CLAP score (the model's own ear) over that of other prompts, scale {SCALE:g} against 1"
    yield paired("guidance", what, scores[SCALE], scores[1.0], "%")
    away = made(pipe, ["a rock song"], 8.0, 8, guidance_scale=SCALE, negative_prompt="a quiet calm melody")
    plain = made(pipe, ["a rock song"], 8.0, 8, guidance_scale=SCALE, negative_prompt="a loud rock song with drums")
    levels = (np.array([level(a) for a in some]) for some in (away, plain))
    yield paired("negative prompt", "level, away from a quiet melody against away from a loud song", *levels, "dB")


#: texts that say how fast, and the beats a minute that the box's corpus means by it
TEMPO_TEXTS = {
    "a slow melody with drums": (62.5, 68.2, 75.0),
    "a mid-tempo melody with drums": (107.1, 115.4),
    "a fast melody with drums": (150.0, 166.7),
}


def _tempo_by_text(pipe, each: int = 40) -> Row:
    """Whether the tempo that a text asks for fits best, with guidance against without."""
    classes = np.repeat(np.arange(len(TEMPO_TEXTS)), [len(tempos) for tempos in TEMPO_TEXTS.values()])
    tempos = [tempo for some in TEMPO_TEXTS.values() for tempo in some]
    right = {}
    for scale in (SCALE, 1.0):
        clips = made(pipe, list(TEMPO_TEXTS), 10.0, each, guidance_scale=scale)
        heard = np.array([classes[tempo_scores(clip, pipe.sampling_rate, tempos).argmax()] for clip in clips])
        right[scale] = heard == np.arange(len(clips)) // each
    what = f"the tempo that the text asks for, of three, fits best, scale {SCALE:g} against 1"
    return paired("guidance", what, right[SCALE], right[1.0], "%")


def own_over_others(pipe, clips, each, prompts=PROMPTS) -> np.ndarray:
    """Of clips (`each` of every prompt, in order): cosine with the own prompt, less the mean of that with the others."""
    texts = clap_text_embeddings(pipe.clap, pipe.clap_processor, prompts).float()
    sounds = torch.cat(
        [
            torch.nn.functional.normalize(
                clap_embeddings_of_clip(pipe.clap, pipe.clap_processor, clip[None], pipe.sampling_rate)
                .float()
                .mean(0)[None]
            )
            for clip in clips
        ]
    )
    similarities = (sounds @ texts.T).cpu().numpy()
    own = np.arange(len(clips)) // each
    picked = similarities[np.arange(len(clips)), own]
    return picked - (similarities.sum(axis=1) - picked) / (len(prompts) - 1)


def _story(pipe):
    """Levels of its parts, each without the 2 s in which it begins."""
    rate = pipe.sampling_rate

    def middle(prompt):
        risen = []
        for seed in range(3):
            audio = pipe(prompt, audio_length_in_s=30.0, generator=generators(1, seed)).audios[0]
            parts = [level(audio[:, (start + 2) * rate : (start + 10) * rate]) for start in (0, 10, 20)]
            risen.append(parts[1] - (parts[0] + parts[2]) / 2)
        return np.array(risen)

    told, flat = middle([(0, QUIET), (10, LOUD), (20, QUIET)]), middle(QUIET)
    return paired("story", "loud middle part over the quiet ones, against one prompt", told, flat, "dB")


def _audio(pipe):
    rate = pipe.sampling_rate
    references = {p: pipe(p, audio_length_in_s=10.0, generator=generators(1, 5)).audios[0] for p in (LOUD, QUIET)}

    def like(**asked):
        audios = pipe(
            audio_length_in_s=6.0, num_waveforms_per_prompt=NUM_EACH, generator=generators(NUM_EACH), **asked
        ).audios
        return np.array([level(a) for a in audios])

    pairs = {
        ("reference audio", "like a loud recording over like a quiet one"): [
            like(reference_audio=Recording(references[p], rate)) for p in (LOUD, QUIET)
        ],
        ("mixture", "0.8 loud + 0.2 quiet over 0.2 loud + 0.8 quiet"): [
            like(prompt=Mixture((LOUD, QUIET), (w, 1 - w))) for w in (0.8, 0.2)
        ],
        ("mixture", "a song less a quiet melody over a song less a loud one"): [
            like(prompt=Mixture(("a song with drums", p), (1.0, -0.5))) for p in (QUIET, LOUD)
        ],
        ("mixture", "of a text and a loud recording over the same with a quiet one"): [
            like(prompt=Mixture(("a piano", Recording(references[p], rate)), (0.5, 0.5))) for p in (LOUD, QUIET)
        ],
    }
    for (feature, what), (first, second) in pairs.items():
        yield paired(feature, what, first - second, np.zeros(len(first)), "dB")
