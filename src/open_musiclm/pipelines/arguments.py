"""What a call of the pipeline is given: prompts, streams and settings by the stages' own names, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import torch

from ..tokenizers.attributes import attribute_names
from .chain import StageChain
from .mixtures import Mixture, Recording

#: the source of what a text becomes
PROMPT_SOURCE = "clap"
#: longest piece asked for by mistake, in seconds: a day
MAX_LENGTH_IN_S = 86_400.0
#: rows of one call: with more it is a mistake, and would fill the memory before it fails
MOST_WAVEFORMS = 4096


def check_numbers(output_type: str, num_waveforms_per_prompt: int) -> None:
    if output_type not in ("np", "pt"):
        raise ValueError(f"`output_type` must be 'np' or 'pt', got {output_type!r}.")
    whole = isinstance(num_waveforms_per_prompt, Integral) and not isinstance(num_waveforms_per_prompt, bool)
    if not whole or num_waveforms_per_prompt < 1:
        raise ValueError(
            f"`num_waveforms_per_prompt` must be a whole number and at least 1, got {num_waveforms_per_prompt!r}."
        )
    check_batch(1, num_waveforms_per_prompt)


def check_batch(num_prompts: int, num_each: int) -> None:
    """Refuse more waveforms than one call can hold, before any is begun."""
    if num_prompts * num_each > MOST_WAVEFORMS:
        raise ValueError(
            f"{num_prompts * num_each} waveforms are more than one call makes ({MOST_WAVEFORMS}); make them in several calls, "
            "each with its own generators."
        )


def check_length(audio_length_in_s: Any, sampling_rate: int) -> float:
    """The length of a piece in seconds; a `ValueError` if it is no number, or no sample or more than a day."""
    number = isinstance(audio_length_in_s, Real) and not isinstance(audio_length_in_s, bool)
    if not number or not math.isfinite(audio_length_in_s) or not 0 < audio_length_in_s <= MAX_LENGTH_IN_S:
        raise ValueError(
            f"`audio_length_in_s` must be a number of seconds above 0 and up to {MAX_LENGTH_IN_S:.0f}, got "
            f"{audio_length_in_s!r}."
        )
    length = float(audio_length_in_s)
    if not round(length * sampling_rate):
        raise ValueError(
            f"{length:g} s hold no sample at {sampling_rate} Hz; the shortest piece has {1 / sampling_rate:.2g} s."
        )
    return length


def check_prompts(prompt: Any) -> list[Any]:
    """One prompt or several, as a list: texts, recordings, mixtures; a `ValueError` if one says nothing."""
    prompts = [prompt] if isinstance(prompt, str | Mixture | Recording) else list(prompt)
    if not prompts:
        raise ValueError("`prompt` is an empty list; pass at least one text.")
    for part in prompts:
        if isinstance(part, Mixture | Recording):
            continue
        if not isinstance(part, str) or not part.strip():
            raise ValueError(f"Every prompt must be a text that says something, got {part!r}.")
    return prompts


def sort_arguments(
    chain: StageChain, settings: Mapping[str, Any] | None, others: Mapping[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, Any]]]:
    """A call's further arguments as given streams by name, and the settings of each stage by component name.

    Raises:
        ValueError: an argument that is no stream's and no stage's; the message names those there are.
    """
    streams = {stream.argument: name for name, stream in chain.streams.items()}
    stages = {f"{short}_settings": name for short, name in chain.short_names().items()}
    unknown = [name for name in others if name not in streams and name not in stages]
    if unknown:
        if unknown[0] in attribute_names():
            raise ValueError(
                f"No stage of this pipeline has a stream of {unknown[0]}, so `{unknown[0]}` cannot be asked for; its streams "
                f"are {', '.join(chain.streams)}. Train one with `open-musiclm tokenize --streams {unknown[0]}`."
            )
        raise ValueError(
            f"The pipeline has no argument {unknown[0]!r}: its streams are {', '.join(streams)}, its stages' settings "
            f"{', '.join(stages)}."
        )
    given = {streams[name]: value for name, value in others.items() if name in streams and value is not None}
    of_stages = {name: {**(settings or {}), **(others.get(key) or {})} for key, name in stages.items()}
    return given, of_stages


def given_by_prompt(
    chain: StageChain, given: Mapping[str, torch.Tensor], encoded: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The streams that a prompt gives, by name."""
    asked = chain.from_source(PROMPT_SOURCE)
    if not asked:
        raise ValueError(f"No stage here reads a prompt; the streams are {', '.join(chain.streams)}.")
    for stream in asked:
        if stream.name in given:
            raise ValueError(f"Pass a `prompt` or `{stream.argument}`, one of the two.")
    return {stream.name: encoded for stream in asked}


def check_nothing_missing(chain: StageChain, given: Mapping[str, torch.Tensor]) -> None:
    """Refuse by name what a needed stage is conditioned on and nobody gives.

    Raises:
        ValueError: a stream is neither given, predicted nor optional.
    """
    for name, stream in chain.missing(given):
        if stream.source == PROMPT_SOURCE:
            raise ValueError(f"Pass a `prompt` or `{stream.argument}`, one of the two.")
        raise ValueError(
            f"{name} needs the stream {stream.name!r}, which no stage predicts: pass `{stream.argument}`."
        )


def rows_of_batch(given: Mapping[str, torch.Tensor], num_each: int) -> dict[str, torch.Tensor]:
    """`num_each` rows for each prompt; a stream that comes with a row for each waveform stays."""
    num_prompts = min((len(rows) for rows in given.values()), default=1)
    check_batch(num_prompts, num_each)
    return {
        name: rows.repeat_interleave(num_each, dim=0) if len(rows) == num_prompts else rows
        for name, rows in given.items()
    }
