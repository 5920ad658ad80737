"""Recordings in, recordings out: continue one, replace, extend, vary or repeat a region of it, make it a loop.

    recording ─ the last seconds before the region ─→ tokens of every stream ─→ the beginning that the stages go on from
              ─ the seconds behind it ─→ what follows: shown to stages that read it, and what candidates are judged by
    new codes ─→ audio ─→ joined on both sides (seams.py); every sample outside the region stays as it is

A causal model does not see what comes after a gap. One that was trained to has a stream of that time (`context="after"`)
among its conditions; any other makes several candidates, of which the one that makes what follows likeliest is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..audio import resample
from ..given import as_count, as_number, shown
from ..models.streams import PADDING_ID
from .arguments import PROMPT_SOURCE, check_length
from .mixtures import Recording
from .output import EditedAudio
from .recordings import encode_recording, tokens_of_stream
from .seams import even_level, join_after, join_before, match_level
from .windows import Window, round_down, round_up, to_fraction

if TYPE_CHECKING:
    from .musiclm import MusicLMPipeline

#: what follows a region, as far as it is shown and judged by
FOLLOWING_IN_S = 2.0
#: less of a recording says nothing: it has too few frames
SHORTEST_CONTEXT = Fraction(1, 4)
WAYS = ("replace", "extend", "vary", "repeat")
DEFAULT_CANDIDATES = 4
#: arguments of the pipeline's call that an edit decides by itself
DECIDED = ("prompt", "audio_length_in_s", "num_waveforms_per_prompt", "generator", "beginnings", "output_type",
           "return_tokens", "return_dict", "loop")  # fmt: skip


def continue_recording(
    pipe: MusicLMPipeline,
    recording: Recording,
    audio_length_in_s: float,
    prompt: Any = None,
    num_variants: int = 1,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    **settings: Any,
) -> EditedAudio:
    """The recording, and `audio_length_in_s` more; its own samples stay as they are."""
    audio = recording.channels
    as_count("`num_variants`", num_variants)
    made, _ = _make_and_judge(
        pipe, recording, audio.shape[1], None, audio_length_in_s, prompt, num_variants, 1, generator, settings
    )
    return _joined(audio, recording.sampling_rate, audio.shape[1], audio.shape[1], made)


def edit_recording(
    pipe: MusicLMPipeline,
    recording: Recording,
    start_in_s: float,
    stop_in_s: float,
    way: str = "replace",
    new_length_in_s: float | None = None,
    prompt: Any = None,
    num_variants: int = 1,
    num_candidates: int = DEFAULT_CANDIDATES,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    **settings: Any,
) -> EditedAudio:
    """Change a region of a recording; every sample outside stays as it is.

    Args:
        start_in_s, stop_in_s: the region. It may reach to either end of the recording; with `way="extend"` both may be
            the same moment.
        way: `"replace"` makes the region anew; `"extend"` puts something new behind it, `new_length_in_s` long;
            `"vary"` keeps what the first predicted stream says of it (MusicLM's semantic tokens) and makes its sound anew;
            `"repeat"` plays it once more (no model is asked).
        new_length_in_s: of what is made, by default as long as the region.
        prompt: as for the pipeline; without one, the recording itself is what is asked for.
        num_variants: how many to make.
        num_candidates: made for each variant where something follows the region, of which the one is kept that makes it
            likeliest.

    Raises:
        ValueError: a region outside the recording, or of no length; an unknown way.
    """
    audio, rate = recording.channels, recording.sampling_rate
    length = recording.length_in_s
    if way not in WAYS:
        raise ValueError(f"A region can be changed by {', '.join(WAYS)}; got {shown(way)}.")
    start_in_s = as_number("`start_in_s`", start_in_s, "a number of seconds")
    stop_in_s = as_number("`stop_in_s`", stop_in_s, "a number of seconds")
    as_count("`num_variants`", num_variants)
    as_count("`num_candidates`", num_candidates)
    if not 0 <= start_in_s <= stop_in_s <= length + 1e-6:
        raise ValueError(
            f"The region {start_in_s:g} to {stop_in_s:g} s lies not within the recording's {length:.2f} s."
        )
    start, stop = round(start_in_s * rate), min(round(stop_in_s * rate), audio.shape[1])
    region_in_s = (stop - start) / rate
    new_length = region_in_s if new_length_in_s is None else new_length_in_s
    if new_length_in_s is not None:
        new_length = as_number("`new_length_in_s`", new_length, "a number of seconds above 0", lambda n: n > 0)
    if not new_length or (region_in_s == 0 and way != "extend"):
        raise ValueError(f"The region {start_in_s:g} to {stop_in_s:g} s has no length; nothing can be made of it.")
    if way == "repeat":
        copies = np.repeat(audio[None, :, start:stop], num_variants, axis=0)
        copies = copies[..., : round(new_length * rate)]
        return _joined(audio, rate, stop, stop, copies)
    if way == "extend":
        start = stop
    followed = audio.shape[1] > stop
    if not followed and isinstance(generator, Sequence) and len(generator) == num_variants * num_candidates:
        generator = generator[::num_candidates]  # there is nothing to choose candidates by
    return _joined(
        audio,
        rate,
        start,
        stop,
        *_make_and_judge(
            pipe,
            recording,
            start,
            stop if followed else None,
            new_length,
            prompt,
            num_variants,
            num_candidates if followed else 1,
            generator,
            settings,
            keep=way == "vary",
        ),
    )


def loop_recording(
    pipe: MusicLMPipeline,
    recording: Recording,
    seam_in_s: float = 1.0,
    prompt: Any = None,
    num_candidates: int = DEFAULT_CANDIDATES,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    **settings: Any,
) -> EditedAudio:
    """A recording whose end runs into its beginning: its last `seam_in_s` seconds are made anew, seeing both.

    The recording is turned half round, so that the seam lies in the middle of it; that is mended, and turned back.
    """
    audio, rate = recording.channels, recording.sampling_rate
    length = audio.shape[1]
    seam = round(as_number("`seam_in_s`", seam_in_s, "a number of seconds") * rate)
    if not 0 < seam <= length // 4:
        raise ValueError(
            f"A loop's seam must be above 0 and at most a quarter of its {length / rate:.2f} s, got {seam_in_s!r} s."
        )
    turned = Recording(np.roll(audio, -(length // 2), axis=1), rate)
    middle = length - length // 2
    edited = edit_recording(
        pipe,
        turned,
        (middle - seam) / rate,
        middle / rate,
        prompt=prompt,
        num_candidates=num_candidates,
        generator=generator,
        **settings,
    )
    edited.audios = np.roll(edited.audios, length // 2, axis=2)
    edited.start, edited.stop = length - seam, length
    return edited


def refuse_decided(arguments: Mapping[str, Any]) -> None:
    """Refuse what the call is asked for by the edit itself.

    Raises:
        ValueError: one of those arguments is given.
    """
    for name in DECIDED:
        if name in arguments:
            raise ValueError(f"`{name}` follows from the recording and what is made of it; it cannot be given here.")


def asked_or_the_same(pipe: MusicLMPipeline, prompt: Any, recording: Recording, given: Mapping[str, Any]) -> Any:
    """The prompt of an edit: without one, more of the recording is asked for, if any stage reads a prompt and none of the
    streams that it would fill is given."""
    asked = pipe.chain.from_source(PROMPT_SOURCE)
    if prompt is None and asked and not any(stream.argument in given for stream in asked):
        return recording
    return prompt


# ------------------------------------------------------------------------ making


def _make_and_judge(
    pipe: MusicLMPipeline,
    recording: Recording,
    start: int,
    stop: int | None,
    length_in_s: float,
    prompt: Any,
    num_variants: int,
    num_candidates: int,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    settings: dict[str, Any],
    keep: bool = False,
) -> tuple[np.ndarray, np.ndarray | None]:
    """New audio for the region that begins at sample `start`, (variants, channels, samples), and how likely what follows it
    is; `stop` is the first sample of that, `None` if nothing does."""
    chain, grid, rate = pipe.chain, pipe.time_grid, recording.sampling_rate
    audio, length_in_s = recording.channels, check_length(length_in_s, recording.sampling_rate)
    longest = max(
        to_fraction(s.config.window_in_s) - to_fraction(s.config.window_stride_in_s) for s in chain.stages.values()
    )
    before = round_down(min(Fraction(start, rate), max(longest, 4 * grid)), grid)
    after = (
        Fraction(0)
        if stop is None
        else round_down(min(Fraction(audio.shape[1] - stop, rate), to_fraction(FOLLOWING_IN_S)), grid)
    )
    before, after = (Fraction(0) if part < SHORTEST_CONTEXT else part for part in (before, after))
    first = start - round(before * rate)
    gap = round_up(to_fraction(length_in_s), grid)

    known = encode_recording(pipe, recording.part(first, start)) if before else {}
    following = {}
    if after and stop is not None:
        following = encode_recording(pipe, recording.part(stop, stop + round(after * rate)))
    arguments: dict[str, Any] = dict(settings)
    refuse_decided(arguments)
    prompt = asked_or_the_same(pipe, prompt, recording, arguments)
    for stream in chain.streams.values():
        shown = tokens_of_stream(chain, following, stream) if stream.context == "after" else None
        if shown is not None:
            arguments[stream.argument] = _placed(stream, shown, before + gap)
    if keep:
        arguments |= _kept(pipe, recording.part(first, start + round(gap * rate)), before + gap)
    number = num_variants * num_candidates
    output: Any = pipe(
        prompt=prompt,
        audio_length_in_s=float(before + gap),
        num_waveforms_per_prompt=number,
        generator=generator,
        beginnings={name: tokens for name, tokens in known.items() if f"{name}_token_ids" not in arguments},
        output_type="pt",
        return_tokens=True,
        **arguments,
    )
    made = output.audios.float().cpu().numpy()
    rows, scores = np.arange(num_variants), None
    if following and num_candidates > 1:
        scores = following_likelihoods(pipe, output.tokens, following, before + gap)
        best = scores.reshape(num_variants, num_candidates).argmax(axis=1)
        rows = best + num_candidates * np.arange(num_variants)
        scores = scores[rows]
    return _fitted(made[rows], pipe.sampling_rate, recording, first, start, stop, length_in_s), scores


def _kept(pipe: MusicLMPipeline, region: Recording, length: Fraction) -> dict[str, torch.Tensor]:
    """The tokens that a variation keeps: those of the first stage, unless its codes themselves are heard."""
    chain = pipe.chain
    name = next(iter(chain.stages))
    stream = chain.stages[name].predicted_stream
    if stream in chain.decoded and len(chain.stages) == 1:
        raise ValueError(
            f"This pipeline has one stage, {name}: nothing of a region can be kept but its sound. Use 'replace'."
        )
    # as long as the stages ask for: the last frame stands for what lies behind the region
    needed = max(chain.durations(length).values())
    tokens = encode_recording(pipe, region, [stream.name])[stream.name]
    num_frames = math.ceil(needed * to_fraction(stream.frame_rate or 1))
    missing = num_frames - tokens.shape[1]
    if missing > 0:
        tokens = torch.cat([tokens, tokens[:, -1:].expand(-1, missing, *tokens.shape[2:])], dim=1)
    return {stream.argument: tokens}


def _placed(stream, tokens: torch.Tensor, moment: Fraction) -> torch.Tensor:
    """Tokens of what begins at `moment`, behind padding that stands for what is not known."""
    num_unknown = int(moment * to_fraction(stream.frame_rate or 1))
    unknown = tokens.new_full((len(tokens), num_unknown, *tokens.shape[2:]), PADDING_ID)
    return torch.cat([unknown, tokens], dim=1)


@torch.no_grad()
def following_likelihoods(
    pipe: MusicLMPipeline, made: dict[str, torch.Tensor], following: dict[str, torch.Tensor], moment: Fraction
) -> np.ndarray:
    """Mean log-probability a token of what follows each candidate, (candidates,), over the stages that make codes.

    Args:
        made: every stream's tokens of the candidates, from time 0 to `moment` at least.
        following: the tokens of what follows, (1, frames, …).
        moment: where it begins.
    """
    chain = pipe.chain
    number = max(len(tokens) for tokens in made.values())
    total, count = np.zeros(number), 0
    for stream in chain.decoded:
        stage = chain.stages[chain.makers[stream.name]]
        window = to_fraction(stage.config.window_in_s)
        shown = Fraction(following[stream.name].shape[1]) / to_fraction(stream.frame_rate or 1)
        shown = round_down(min(shown, window / 2), chain.grid)
        if not shown:
            continue
        end = moment + shown
        span = Window(max(end - round_down(window, chain.grid), Fraction(0)), end)
        for candidate in range(number):
            inputs = {}
            for each in stage.streams:
                if each.context != "same" or each.name not in made:
                    continue
                own = made[each.name][candidate : candidate + 1]
                if each.frame_rate is not None:
                    cut = int(moment * to_fraction(each.frame_rate))
                    later = following.get(each.name)
                    own = own[:, :cut] if later is None else torch.cat([own[:, :cut].cpu(), later.cpu()], dim=1)
                    own = own[:, span.frames(each.frame_rate, each.num_edge_frames)]
                inputs[each.argument] = own.to(stage.device)
            labels = inputs[stream.argument].clone()
            labels[:, : int((moment - span.start) * to_fraction(stream.frame_rate or 1))] = -100
            total[candidate] -= float(stage(**inputs, labels=labels).loss)
        count += 1
    return total / max(count, 1)


# ----------------------------------------------------------------------- joining


def put_behind(
    recording: Recording, decoded: np.ndarray, sampling_rate: int, known_in_s: float, audio_length_in_s: float
) -> EditedAudio:
    """A recording, and what any system made to go on from it: its own samples stay, the joint is as of a continuation.

    Args:
        decoded: (variants, channels, samples) at `sampling_rate`, of which the first `known_in_s` seconds are the system's
            version of the recording's last ones.
        audio_length_in_s: of what is new.
    """
    stop = recording.channels.shape[1]
    first = stop - round(known_in_s * recording.sampling_rate)
    made = _fitted(decoded, sampling_rate, recording, first, stop, None, audio_length_in_s)
    return _joined(recording.channels, recording.sampling_rate, stop, stop, made)


def _fitted(
    decoded: np.ndarray,
    sampling_rate: int,
    recording: Recording,
    first: int,
    start: int,
    stop: int | None,
    length_in_s: float,
) -> np.ndarray:
    """Decoded audio (variants, channels, samples) that begins at a recording's sample `first`: what of it comes from sample
    `start` on, at the recording's rate, with its channels, its level there and before its sample `stop`, if any follows."""
    audio, rate = recording.channels, recording.sampling_rate
    made = np.stack([resample(channel, sampling_rate, rate) for channel in decoded.reshape(-1, decoded.shape[-1])])
    made = made.reshape(len(decoded), -1, made.shape[-1])
    skipped = start - first
    gain = [match_level(part[:, :skipped], audio[:, first:start]) if skipped else 1.0 for part in made]
    made = made[..., skipped : skipped + round(length_in_s * rate)] * np.array(gain)[:, None, None]
    if made.shape[1] != audio.shape[0]:
        made = np.repeat(made.mean(axis=1, keepdims=True), audio.shape[0], axis=1)
    made = np.stack([even_level(audio[:, :start], part, rate) for part in made])
    if stop is not None:
        following = audio[:, stop:][:, ::-1]
        made = np.stack([even_level(following, part[:, ::-1], rate)[:, ::-1] for part in made])
    return made.astype(np.float32)


def _joined(
    audio: np.ndarray,
    rate: int,
    start: int,
    stop: int,
    made: np.ndarray,
    scores: np.ndarray | None = None,
) -> EditedAudio:
    """The recording with `made` (variants, channels, samples) in place of its samples from `start` to `stop`."""
    variants = []
    for part in made:
        if start:
            part = join_after(audio[:, :start], part, rate)
        if stop < audio.shape[1]:
            part = join_before(part, audio[:, stop:], rate)
        variants.append(np.concatenate([audio[:, :start], part, audio[:, stop:]], axis=1))
    return EditedAudio(np.stack(variants).astype(np.float32), rate, start, start + made.shape[-1], scores)
