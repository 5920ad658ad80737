"""What a call of the pipeline is given: prompts, streams and settings by the stages' own names, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..given import as_count, as_length, as_tokens, shown
from ..models.streams import TokenStream, check_token_range, flatten_tokens, unflatten_tokens
from ..tokenizers.attributes import attribute_names
from .chain import StageChain
from .mixtures import Mixture, Recording

#: the source of what a text becomes
PROMPT_SOURCE = "clap"
#: rows of one call: with more it is a mistake, and would fill the memory before it fails
MOST_WAVEFORMS = 4096


def check_numbers(
    output_type: Any, num_waveforms_per_prompt: Any, num_candidates: Any = None, callback_on_step_end: Any = None
) -> None:
    """Refuse what is no kind of output, no count and no function."""
    if output_type not in ("np", "pt"):
        raise ValueError(f"`output_type` must be 'np' or 'pt', got {shown(output_type)}.")
    check_count("num_waveforms_per_prompt", num_waveforms_per_prompt)
    if num_candidates is not None:
        check_count("num_candidates", num_candidates)
        if num_candidates < num_waveforms_per_prompt:
            raise ValueError(
                f"{num_candidates} candidates are fewer than {num_waveforms_per_prompt} waveforms to keep."
            )
    if callback_on_step_end is not None and not callable(callback_on_step_end):
        raise ValueError(
            "`callback_on_step_end` must be a function of (pipe, step, num_steps, details), got "
            f"{shown(callback_on_step_end)}."
        )


def check_count(name: str, count: Any) -> None:
    """Refuse what is no count of waveforms that one call makes."""
    check_batch(1, as_count(f"`{name}`", count))


def check_batch(num_prompts: int, num_each: int) -> None:
    """Refuse more waveforms than one call can hold, before any is begun."""
    if num_prompts * num_each > MOST_WAVEFORMS:
        raise ValueError(
            f"{num_prompts * num_each} waveforms are more than one call makes ({MOST_WAVEFORMS}); make them in several calls, "
            "each with its own generators."
        )


def check_length(audio_length_in_s: Any, sampling_rate: int, name: str = "audio_length_in_s") -> float:
    """The length of a piece in seconds; a `ValueError` if it is no number, or no sample or more than a day."""
    length = as_length(f"`{name}`", audio_length_in_s)
    if not round(length * sampling_rate):
        raise ValueError(
            f"{length:g} s hold no sample at {sampling_rate} Hz; the shortest piece has {1 / sampling_rate:.2g} s."
        )
    return length


def check_prompts(prompt: Any) -> list[Any]:
    """One prompt or several, as a list: texts, recordings, mixtures; a `ValueError` if one says nothing."""
    if not isinstance(prompt, str | Mixture | Recording | list | tuple):
        raise ValueError(f"`prompt` must be a text, or a list of texts, got {shown(prompt)}.")
    prompts = [prompt] if isinstance(prompt, str | Mixture | Recording) else list(prompt)
    if not prompts:
        raise ValueError("`prompt` is an empty list; pass at least one text.")
    for part in prompts:
        if isinstance(part, Mixture | Recording):
            continue
        if not isinstance(part, str) or not part.strip():
            raise ValueError(f"Every prompt must be a text that says something, got {shown(part)}.")
        if any("\ud800" <= char <= "\udfff" for char in part):
            raise ValueError(f"A prompt holds half a character (a lone surrogate), which is no text: {shown(part)}.")
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
                f"are {', '.join(chain.streams)}. docs/features.md says what each needs."
            )
        raise ValueError(
            f"The pipeline has no argument {unknown[0]!r}: its streams are {', '.join(streams)}, its stages' settings "
            f"{', '.join(stages)}."
        )
    by_name = {streams[name]: value for name, value in others.items() if name in streams and value is not None}
    given = given_streams(chain, by_name)
    shared = checked_settings("settings", settings)
    of_stages = {name: {**shared, **checked_settings(key, others.get(key))} for key, name in stages.items()}
    return given, of_stages


def checked_settings(argument: str, settings: Any) -> dict[str, Any]:
    """Settings of `generate` by name; what their values may be is checked there."""
    if settings is None:
        return {}
    if not isinstance(settings, Mapping) or not all(isinstance(name, str) for name in settings):
        raise ValueError(
            f'`{argument}` must be a table of settings by name, as {{"temperature": 0.8}}, got {shown(settings)}.'
        )
    return dict(settings)


def given_streams(chain: StageChain, given: Any, argument: str = "tokens") -> dict[str, torch.Tensor]:
    """Tokens that a caller gives, by the stream's name, as the stages take them: the one place where they are converted.

    Args:
        given: tensors, arrays or lists of whole numbers; those that are `None` are passed over.
        argument: what holds them, for messages.

    Returns:
        (batch, frames, codebooks) for several codebooks, (batch, frames) for one; for a stream that describes the whole
        piece (batch, codebooks).

    Raises:
        ValueError: no table, a stream that no stage has, or tokens of another shape or outside their codebook.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"`{argument}` must be a table of tokens by their stream's name, got {shown(given)}.")
    for name in given:
        if name not in chain.streams:
            raise ValueError(
                f"`{argument}`: no stage here has the stream {shown(name)}; there are {', '.join(chain.streams)}."
            )
    return {name: stream_tokens(chain.streams[name], rows) for name, rows in given.items() if rows is not None}


def stream_tokens(stream: TokenStream, tokens: Any) -> torch.Tensor:
    """One stream's tokens as [`given_streams`] gives them."""
    flat = flatten_tokens(as_tokens(stream.argument, tokens), stream)
    check_token_range(flat, stream)
    num_frames, rest = divmod(flat.shape[1], stream.num_codebooks)
    if rest or (stream.frame_rate is None and num_frames != 1):
        needed = "one frame" if stream.frame_rate is None else "whole frames"
        raise ValueError(
            f"`{stream.argument}` must have {needed} of {stream.num_codebooks} tokens a sample, got {flat.shape[1]} tokens."
        )
    return flat if stream.frame_rate is None else unflatten_tokens(flat, stream)


def given_beginnings(chain: StageChain, beginnings: Any) -> dict[str, torch.Tensor]:
    """First tokens of streams that stages make, by the stream's name: [`given_streams`] without padding.

    Raises:
        ValueError: as [`given_streams`], or a stream that no stage makes.
    """
    if beginnings is None:
        return {}
    made = given_streams(chain, beginnings, "beginnings")
    for name, tokens in made.items():
        if name not in chain.makers:
            raise ValueError(
                f"No stage makes the stream {name!r}, so it has no beginning; there are {', '.join(chain.makers)}."
            )
        if int(tokens.min()) < 0:
            raise ValueError(f"`beginnings`: that of {name!r} holds padding, from which nothing can go on.")
    return made


def check_rows_of_beginnings(beginnings: Mapping[str, torch.Tensor], batch_size: int) -> None:
    """A beginning serves all waveforms, or there is one for each."""
    for name, tokens in beginnings.items():
        if len(tokens) not in (1, batch_size):
            raise ValueError(
                f"`beginnings` has {len(tokens)} rows of {name!r} for {batch_size} waveforms; pass one row, or one for each."
            )


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


def check_nothing_missing(chain: StageChain, given: Mapping[str, torch.Tensor], up_to: str | None = None) -> None:
    """Refuse by name what a needed stage is conditioned on and nobody gives.

    Raises:
        ValueError: a stream is neither given, predicted nor optional.
    """
    for name, stream in chain.missing(given, up_to):
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
