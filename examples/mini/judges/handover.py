"""Where it is lost: the model's outputs with real tokens in place of the generated ones, one hand-over after the other.

    real       the clip itself
    codec      real coarse and fine tokens, decoded
    coarse     real coarse tokens, generated fine tokens
    semantic   real semantic tokens, generated coarse and fine tokens
    model      the prompt alone

All are of the same prompts, and the real tokens are those of a held-out clip that fits the prompt.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from .hearing import Clip
from .prompts import Prompt

ROWS = ("real", "codec", "coarse", "semantic", "model")
TITLES = {
    "real": "real clips",
    "codec": "codec only",
    "coarse": "real coarse",
    "semantic": "real semantic",
    "model": "the model",
}
#: the streams whose real tokens a row is given; of those that a pipeline does not have, none
GIVEN = {"codec": ("coarse", "fine"), "coarse": ("coarse",), "semantic": ("semantic",), "model": ()}
BATCH_SIZE = 8


@dataclass(frozen=True)
class Job:
    """Some clips of one row."""

    row: str
    source: str  # a pipeline's folder, or a codec's
    prompts: tuple[Prompt, ...]
    real: tuple[Clip, ...]
    paths: tuple[Path, ...]
    seeds: tuple[int, ...]
    length_in_s: float


def make_row(
    row: str,
    source: str,
    prompts: Sequence[Prompt],
    real: Sequence[Clip],
    folder: Path,
    length_in_s: float,
    workers: int,
) -> list[Clip]:
    """The clips of a row as WAV files in `folder`, each named by its prompt's id; those there already are kept."""
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{prompt.id}.wav" for prompt in prompts]
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    jobs = [
        Job(
            row,
            source,
            *(tuple(values[i] for i in some) for values in (prompts, real, paths, range(len(prompts)))),
            length_in_s,
        )
        for some in (missing[start : start + BATCH_SIZE] for start in range(0, len(missing), BATCH_SIZE))
    ]
    if jobs:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes are what uses the cores
        with multiprocessing.get_context("spawn").Pool(min(workers, len(jobs))) as pool:
            progress = tqdm(pool.imap_unordered(_run, jobs), TITLES[row], len(jobs), unit="batch", mininterval=5)
            for _ in progress:
                pass
    return [Clip(str(path)) for path in paths]


def fingerprint(source: str) -> str:
    """Changes with any file of a model."""
    folder = Path(source)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {source!r}; give a pipeline's folder.")
    digest = hashlib.sha1()
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json")):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _run(job: Job) -> None:
    import diffusers
    import torch
    import transformers

    from open_musiclm.audio import write_audio

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()  # of loading: the batches have a bar
    with torch.no_grad():
        audio, rate = MAKERS[job.row](job)
    for path, samples in zip(job.paths, audio, strict=True):
        write_audio(path, np.atleast_2d(samples), rate)


def _real(job: Job) -> tuple[Sequence[np.ndarray], int]:
    made = [clip.audio() for clip in job.real]
    return [audio for audio, _ in made], made[0][1]


def _codec(job: Job) -> tuple[Sequence[np.ndarray], int]:
    if not (Path(job.source) / "model_index.json").exists():
        return _bare_codec(job)
    return _generated(job)


def _bare_codec(job: Job) -> tuple[Sequence[np.ndarray], int]:
    """A codec's folder alone, before there is a pipeline about it."""
    import torch

    from open_musiclm.audio import resample

    codec = _lone_codec(job.source)
    rate = codec.config.sampling_rate
    made = []
    for clip in job.real:
        audio, own = clip.audio()
        inputs = torch.from_numpy(resample(audio, own, rate))[None, None]
        codes = codec.encode(inputs).audio_codes
        decoded = codec.decode(codes, [None] * len(codes)).audio_values
        made.append(decoded[0, 0, : inputs.shape[-1]].numpy())
    return made, rate


def _generated(job: Job) -> tuple[Sequence[np.ndarray], int]:
    import torch

    pipeline = _pipeline(job.source)
    tokens = _real_tokens(job) if GIVEN[job.row] else {}
    given = {name: tokens[name] for stream in GIVEN[job.row] if (name := f"{stream}_token_ids") in tokens}
    generators = [torch.Generator().manual_seed(seed) for seed in job.seeds]
    texts = [prompt.text for prompt in job.prompts]
    audio = pipeline(texts, audio_length_in_s=job.length_in_s, generator=generators, **given).audios
    return audio, pipeline.sampling_rate


MAKERS = {"real": _real, "codec": _codec, "coarse": _generated, "semantic": _generated, "model": _generated}


def _real_tokens(job: Job) -> dict:
    """Tokens of the real clips, (clips, frames[, codebooks]) by argument name."""
    import torch

    from open_musiclm.audio import resample
    from open_musiclm.data.decoding import DecodedAudio

    tokenizer = _tokenizer(job.source)
    items = []
    for number, clip in enumerate(job.real):
        audio, rate = clip.audio()
        audio = audio[: round(job.length_in_s * rate)]
        waveforms = {to: resample(audio, rate, to) for to in set(tokenizer.sampling_rates)}
        items.append((number, DecodedAudio(len(audio) / rate, waveforms)))
    made = [tokens for _, tokens in tokenizer.tokenize(items)]
    return {
        name: torch.from_numpy(np.stack([tokens[name] for tokens in made]).astype(np.int64))
        for name in made[0]
        if name != "clap_token_ids"
    }


@lru_cache
def _pipeline(source: str):
    from open_musiclm import MusicLMPipeline

    pipeline = MusicLMPipeline.from_pretrained(source)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@lru_cache
def _tokenizer(source: str):
    from open_musiclm.data.tokenizer import MusicTokenizer

    return MusicTokenizer.from_pretrained(source)


@lru_cache
def _lone_codec(source: str):
    from transformers import AutoModel

    import open_musiclm  # noqa: F401  (registers its own codecs)

    return AutoModel.from_pretrained(source).eval()
