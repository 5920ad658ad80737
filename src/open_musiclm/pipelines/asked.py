"""What a call is asked for, brought to tokens: prompts of any kind, attributes, guidance, a beginning.

prompt, reference_audio ── CLAP, ClapQuantizer ──→ the streams that a prompt gives, at every time of the piece
negative_prompt         ──────────────────────→ the same of the negative branch
tempo=, melody=, …      ── tokenizers/attributes ─→ the stream of that name
{stream}_token_ids      ─────────────────────────→ the stream itself
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..given import as_number, shown
from ..tokenizers.attributes import find_attribute
from ..tokenizers.clap import clap_text_embeddings
from .arguments import check_prompts, given_beginnings, given_by_prompt, sort_arguments, stream_tokens
from .chain import StageChain
from .mixtures import Mixture, Recording, mixture_embedding, recording_embedding
from .story import Story, is_story, make_story

if TYPE_CHECKING:
    from .musiclm import MusicLMPipeline

#: what may stand where a text may
PromptPart = str | Mixture | Recording
DEFAULT_REFERENCE_WEIGHT = 0.5
#: letters of a path, more than which no system takes
LONGEST_PATH = 4096


def embed_prompts(pipe: MusicLMPipeline, prompts: Sequence[PromptPart]) -> torch.Tensor:
    """Texts, recordings and mixtures of them → unit-length CLAP embeddings (prompts, embedding_dim)."""
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    of_texts = iter(clap_text_embeddings(pipe.clap, pipe.clap_processor, texts).float() if texts else ())
    rows = []
    for prompt in prompts:
        if isinstance(prompt, str):
            rows.append(next(of_texts))
        elif isinstance(prompt, Recording):
            rows.append(recording_embedding(pipe.clap, pipe.clap_processor, prompt)[0])
        else:
            rows.append(mixture_embedding(pipe.clap, pipe.clap_processor, prompt)[0])
    return torch.stack([row.to(rows[0].device) for row in rows])


def as_recording(audio: Any, sampling_rate: int, name: str) -> Recording:
    """Audio in any of the forms that arguments take it in: a `Recording`, a file, (audio, rate), or samples at
    `sampling_rate`."""
    if isinstance(audio, Recording):
        return audio
    if isinstance(audio, str | Path):
        if len(str(audio)) > LONGEST_PATH:
            raise ValueError(f"`{name}` takes a file; none has so long a name: {shown(audio)}.")
        return Recording.read(audio)
    rate: Any = sampling_rate
    if isinstance(audio, tuple) and len(audio) == 2 and not isinstance(audio[0], int | float):
        audio, rate = audio
    if isinstance(audio, torch.Tensor):
        try:
            audio = audio.detach().float().cpu().numpy()
        except (TypeError, RuntimeError, NotImplementedError):
            raise ValueError(f"`{name}` takes a plain tensor of samples, got {shown(audio)}.") from None
    if not isinstance(audio, np.ndarray | list):
        raise ValueError(
            f"`{name}` takes a file, (audio, sampling rate), or (channels, samples) at {sampling_rate} Hz; got "
            f"{type(audio).__name__}."
        )
    return Recording(audio, rate)  # type: ignore[arg-type]


@dataclass
class Asked:
    """
    What a call asks for.

    Args:
        given: streams by name, (prompts or waveforms, frames, …).
        settings: of each stage, by its component's name.
        prompts: as they were asked for, for the candidates to be held against; `None` without a prompt.
        story: over time, if the prompt changes.
        prompted: the streams that the prompt gives.
        negative: the negative branch's streams, by name, one row; `None` without guidance.
        beginnings: first tokens of predicted streams, by name.
        names: the component's name of each stage, by its identity.
    """

    given: dict[str, torch.Tensor]
    settings: dict[str, dict[str, Any]]
    prompts: list[PromptPart] | None = None
    story: Story | None = None
    prompted: list[str] = field(default_factory=list)
    negative: dict[str, torch.Tensor] | None = None
    beginnings: dict[str, torch.Tensor] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    def num_known(self, stage: Any) -> int:
        """Frames of a stage's stream that are given to go on from."""
        beginning = self.beginnings.get(stage.predicted_stream.name)
        return 0 if beginning is None else beginning.shape[1]

    def negative_conditions(self, stage: Any, batch_size: int) -> dict[str, torch.Tensor] | None:
        """The negative branch's conditioning of a stage by argument name; `None` where the stage is not guided by any."""
        if self.negative is None or "guidance_scale" not in self.settings_of(stage):
            return None
        rows = {s.argument: self.negative[s.name] for s in stage.condition_streams if s.name in self.negative}
        return {name: tokens.expand(batch_size, *tokens.shape[1:]) for name, tokens in rows.items()}

    def settings_of(self, stage: Any) -> dict[str, Any]:
        return self.settings[self.names[id(stage)]]


def understand(
    pipe: MusicLMPipeline,
    chain: StageChain,
    duration: Fraction | None,
    prompt: Any = None,
    reference_audio: Any = None,
    reference_weight: float = DEFAULT_REFERENCE_WEIGHT,
    negative_prompt: Any = None,
    guidance_scale: float | None = None,
    transition_in_s: float = 0.0,
    beginnings: Mapping[str, torch.Tensor] | None = None,
    settings: Mapping[str, Any] | None = None,
    others: Mapping[str, Any] | None = None,
) -> Asked:
    """A call's arguments as tokens and settings; see `MusicLMPipeline.__call__`.

    Raises:
        ValueError: an argument that nothing here has; the message names the missing stream.
    """
    attributes = {s.name: s for s in chain.streams.values() if find_attribute(str(s.source)) is not None}
    others = dict(others or {})
    requests = {name: others.pop(name) for name in attributes if name in others}
    given, of_stages = sort_arguments(chain, settings, others)
    asked = Asked(given, of_stages, names={id(stage): name for name, stage in chain.stages.items()})

    recording = None
    if reference_audio is not None:
        recording = as_recording(reference_audio, pipe.sampling_rate, "reference_audio")
    if is_story(prompt):
        if recording is not None:
            raise ValueError("A story and `reference_audio` cannot be combined; mix the recording into a part's text.")
        asked.story = make_story(prompt, transition_in_s)
        prompt = asked.story.texts[0]
    if prompt is not None or recording is not None:
        asked.prompts = _with_reference(prompt, recording, reference_weight)
        encoded = pipe.clap_quantizer.encode(embed_prompts(pipe, asked.prompts))
        prompted = given_by_prompt(chain, given, encoded)
        asked.prompted = list(prompted)
        given |= prompted
    number = max((len(rows) for rows in given.values()), default=1)
    longest = 0.0 if duration is None else float(max(chain.durations(duration).values()))
    for name, request in requests.items():
        if request is not None:
            if duration is None and attributes[name].frame_rate is not None:
                raise ValueError(
                    f"`{name}` says something about every moment: a stream without end cannot be asked for it."
                )
            ids = find_attribute(str(attributes[name].source)).from_request(request, attributes[name], longest)  # type: ignore[union-attr]
            token_ids = stream_tokens(attributes[name], np.ascontiguousarray(ids)[None])
            if attributes[name].argument in others:
                raise ValueError(f"Pass `{name}` or `{attributes[name].argument}`, one of the two.")
            given[name] = token_ids.expand(number, *token_ids.shape[1:])
    _guide(pipe, chain, asked, negative_prompt, guidance_scale)
    asked.beginnings = given_beginnings(chain, beginnings)
    return asked


def make_prompt(
    pipe: MusicLMPipeline, prompt: Any, reference_audio: Any, reference_weight: float, transition_in_s: float
) -> Any:
    """A prompt of any kind as what a stream takes: parts, or a function of the time that gives them."""
    if reference_audio is not None:
        if callable(prompt) or is_story(prompt):
            raise ValueError("A prompt that changes and `reference_audio` cannot be combined.")
        recording = as_recording(reference_audio, pipe.sampling_rate, "reference_audio")
        return _with_reference(prompt, recording, reference_weight)
    if is_story(prompt):
        story = make_story(prompt, transition_in_s)
        return lambda moment: story_part(story, moment)
    return prompt


def _with_reference(prompt: Any, recording: Recording | None, weight: float) -> list[PromptPart]:
    if prompt is None:
        assert recording is not None
        return [recording]
    prompts = check_prompts(prompt)
    if recording is None:
        return prompts
    weight = as_number("`reference_weight`", weight, "a number between 0 and 1", lambda share: 0 < share < 1)
    return [Mixture((text, recording), (1 - weight, weight)) if isinstance(text, str) else text for text in prompts]


def _guide(
    pipe: MusicLMPipeline, chain: StageChain, asked: Asked, negative_prompt: Any, guidance_scale: float | None
) -> None:
    """Hand guidance to the stages that were trained for it; without any, refuse it."""
    if negative_prompt is not None and guidance_scale is None:
        raise ValueError("`negative_prompt` leads away by guidance: pass a `guidance_scale` too, 3.0 say.")
    if guidance_scale is not None:
        guidance_scale = as_number("`guidance_scale`", guidance_scale, "a number")
    if guidance_scale == 1 and negative_prompt is not None:
        raise ValueError("`negative_prompt` needs a `guidance_scale` other than 1.")
    if guidance_scale is None:
        return
    able = [
        name
        for name, stage in chain.stages.items()
        if stage.config.condition_dropout or asked.settings[name].get("force_guidance")
    ]
    if not able and guidance_scale != 1:
        raise ValueError(
            f"`guidance_scale` needs a stage that was trained with condition dropout; none of {', '.join(chain.stages)} was "
            "(`settings={'force_guidance': True}` tries it all the same)."
        )
    for name in able:
        asked.settings[name].setdefault("guidance_scale", guidance_scale)
    if negative_prompt is not None:
        negative = check_prompts(negative_prompt)
        if len(negative) != 1:
            raise ValueError(f"`negative_prompt` must be one text for all waveforms, got {len(negative)}.")
        encoded = pipe.clap_quantizer.encode(embed_prompts(pipe, negative))
        asked.negative = given_by_prompt(chain, {}, encoded)


def prompt_over_time(pipe: MusicLMPipeline, story: Story, num_rows: int) -> Callable[[Fraction], torch.Tensor]:
    """What a story encodes to at a time in seconds: (num_rows, quantizers)."""
    encoded: dict[tuple[float, ...], torch.Tensor] = {}

    def at(moment: Fraction) -> torch.Tensor:
        weights = story.weights_at(float(moment))
        if weights not in encoded:
            encoded[weights] = pipe.clap_quantizer.encode(embed_prompts(pipe, [story_part(story, float(moment))]))
        return encoded[weights].expand(num_rows, -1)

    return at


def story_part(story: Story, moment: float) -> PromptPart:
    """The text that holds at a time, or the mixture of two during a transition."""
    parts = [(text, weight) for text, weight in zip(story.texts, story.weights_at(moment), strict=True) if weight]
    if len(parts) == 1:
        return parts[0][0]
    texts, weights = zip(*parts, strict=True)
    return Mixture(texts, weights)
