"""What a request means to the pipeline: rows of a batch with others, a stream, or a call of its own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..pipelines.arguments import check_nothing_missing
from ..pipelines.asked import embed_prompts, understand
from ..pipelines.editing import DEFAULT_CANDIDATES
from ..pipelines.mixtures import Mixture, Recording
from ..pipelines.reranking import rank_by_clap
from ..pipelines.story import Story
from .jobs import Job, Made
from .requests import MusicRequest

#: ways of changing a recording that choose among candidates
JUDGED = ("replace", "extend", "vary", "loop")


@dataclass(frozen=True)
class Prepared:
    """
    A request's streams as tokens.

    Args:
        key: requests with the same key are made together: lengths, settings, and which conditions are hidden where;
            `None` for one that is made by itself.
        streams: a row of each, by argument name.
    """

    key: Hashable | None
    streams: dict[str, torch.Tensor]


def generators(request: MusicRequest, number: int) -> list[torch.Generator]:
    """One a waveform, as `open-musiclm generate --seed` counts them."""
    return [torch.Generator().manual_seed((request.seed + row) % 2**63) for row in range(number)]


def settings_of(request: MusicRequest) -> dict[str, Any]:
    """Arguments of a call that all of its rows share."""
    settings = {"temperature": request.temperature, "top_k": request.top_k}
    arguments: dict[str, Any] = {"settings": {name: value for name, value in settings.items() if value is not None}}
    if request.guidance_scale is not None:
        arguments["guidance_scale"] = request.guidance_scale
    if request.negative_prompt:
        arguments["negative_prompt"] = request.negative_prompt
    return arguments


def attributes_of(request: MusicRequest) -> dict[str, Any]:
    """What the model's streams are asked for, recordings as (audio, sampling rate)."""
    return {
        name: (value.waveform, value.sampling_rate) if isinstance(value, Recording) else value
        for name, value in request.attributes.items()
    }


def prepare(pipe: Any, request: MusicRequest) -> Prepared:
    """A request's streams; by itself, whatever else waits, so that they do not depend on it.

    Raises:
        ValueError: as the pipeline's call.
    """
    meant = request.meant
    if request.way is not None or request.loop or isinstance(meant, Story):
        return Prepared(None, {})
    chain = pipe.chain
    with torch.no_grad():
        asked = understand(
            pipe,
            chain,
            pipe._duration(request.duration_in_s),
            meant,
            request.reference,
            request.reference_weight,
            others=attributes_of(request),
        )
    check_nothing_missing(chain, asked.given)
    streams = {chain.streams[name].argument: rows[:1] for name, rows in sorted(asked.given.items())}
    hidden = tuple((name, rows.shape, (rows < 0).numpy().tobytes()) for name, rows in streams.items())
    samples = round(request.duration_in_s * pipe.sampling_rate)
    shared = (request.guidance_scale, request.negative_prompt, request.temperature, request.top_k)
    return Prepared((samples, shared, hidden), streams)


def make_together(
    pipe: Any, jobs: Sequence[Job], least_rows: int, callback: Callable[[Any, int, int, dict], None]
) -> list[list[Made]]:
    """Requests of one key as one batch.

    Args:
        least_rows: fill the batch up to so many (exactness.py).
    """
    numbers = [job.request.num_rows for job in jobs]
    own = [each for job in jobs for each in generators(job.request, job.request.num_rows)]
    filling = max(least_rows - len(own), 0)
    repeats = [*numbers[:-1], numbers[-1] + filling]
    streams = {
        name: torch.cat(
            [job.prepared.streams[name].repeat_interleave(n, 0) for job, n in zip(jobs, repeats, strict=True)]
        )
        for name in jobs[0].prepared.streams
    }
    request = jobs[0].request
    audios = pipe(
        audio_length_in_s=request.duration_in_s,
        num_waveforms_per_prompt=1 if streams else len(own) + filling,
        generator=own + [torch.Generator().manual_seed(0) for _ in range(filling)],
        callback_on_step_end=callback,
        **streams,
        **settings_of(request),
    ).audios
    made, first = [], 0
    for job, number in zip(jobs, numbers, strict=True):
        made.append(chosen(pipe, job, audios[first : first + number], pipe.sampling_rate))
        first += number
    return made


def make_alone(pipe: Any, job: Job, callback: Callable[[Any, int, int, dict], None]) -> list[Made]:
    """A story, a loop, or a recording that is changed."""
    request = job.request
    if request.way is not None:
        return _change(pipe, job, callback)
    audios = pipe(
        request.meant,
        audio_length_in_s=request.duration_in_s,
        num_waveforms_per_prompt=request.num_rows,
        generator=generators(request, request.num_rows),
        callback_on_step_end=callback,
        **_others(request),
    ).audios
    return chosen(pipe, job, audios, pipe.sampling_rate)


def _others(request: MusicRequest) -> dict[str, Any]:
    arguments = settings_of(request) | attributes_of(request)
    if request.reference is not None:
        arguments |= {"reference_audio": request.reference, "reference_weight": request.reference_weight}
    if request.transition_in_s:
        arguments["transition_in_s"] = request.transition_in_s
    if request.loop:
        arguments["loop"] = True
    return arguments


def _change(pipe: Any, job: Job, callback: Callable[[Any, int, int, dict], None]) -> list[Made]:
    request, recording = job.request, job.request.recording
    assert recording is not None
    number = request.num_variants
    arguments = {**_others(request), "prompt": request.meant, "callback_on_step_end": callback}
    stop = recording.length_in_s if request.stop_in_s is None else request.stop_in_s
    own = generators(request, number * (DEFAULT_CANDIDATES if request.way in JUDGED else 1))
    if request.way == "remake":
        audios = pipe.remake_audio(recording, request.keep, num_waveforms=number, generator=own, **arguments)
        return chosen(pipe, job, audios, pipe.sampling_rate)
    if request.way == "continue":
        edited = pipe.continue_audio(recording, request.duration_in_s, num_variants=number, generator=own, **arguments)
    elif request.way == "loop":
        loops = [
            pipe.loop_audio(
                recording, seam_in_s=min(1.0, recording.length_in_s / 4), generator=own[row::number], **arguments
            )
            for row in range(number)
        ]
        edited = loops[0]
        edited.audios = np.concatenate([loop.audios for loop in loops])
    else:
        is_longer = request.way == "extend"
        edited = pipe.edit_audio(
            recording,
            stop if is_longer else request.start_in_s,
            stop,
            request.way,
            request.duration_in_s if is_longer else None,
            num_variants=number,
            generator=own,
            **({} if request.way == "repeat" else arguments),
        )
    return chosen(pipe, job, edited.audios, edited.sampling_rate, edited.start, edited.stop)


def open_stream(pipe: Any, request: MusicRequest, least_rows: int) -> Any:
    """A request's sound piece by piece; of its rows, those behind `request.num_variants` are only there to be enough.

    Raises:
        ValueError: as the pipeline's stream, and for what cannot be made piece by piece.
    """
    if request.way is not None or request.loop or request.num_candidates is not None:
        raise ValueError(
            "A changed recording, a loop and the best of several candidates are there only when they are whole."
        )
    number = max(request.num_variants, least_rows)
    arguments = _others(request)
    return pipe.stream(
        request.meant,
        audio_length_in_s=request.duration_in_s,
        num_waveforms_per_prompt=number,
        generator=generators(request, number),
        **arguments,
    )


def chosen(
    pipe: Any, job: Job, audios: np.ndarray, sampling_rate: int, start: int | None = None, stop: int | None = None
) -> list[Made]:
    """A request's waveforms, of candidates the nearest to the prompt, each with the request that makes it again."""
    request, meant = job.request, job.request.meant
    rows = list(range(len(audios)))
    similarities: list[float | None] = [None] * len(audios)
    is_asked = job.measured or request.num_candidates is not None
    if is_asked and isinstance(meant, str | Mixture):
        with torch.no_grad():
            embedded = embed_prompts(pipe, [meant])
            ranking = rank_by_clap(pipe.clap, pipe.clap_processor, [], list(audios), sampling_rate, embedded)
        similarities = ranking.similarities[0].tolist()
        if request.num_candidates is not None:
            rows = ranking.order[0, : request.num_variants].tolist()
    return [
        Made(np.array(audios[row]), sampling_rate, request.of_row(row), similarities[row], start, stop) for row in rows
    ]
