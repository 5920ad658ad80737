"""What is asked for: the fields, what they may be, and their form as settings in a file, a header and an address."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ..pipelines.mixtures import Mixture, Recording, parse_mixture
from ..pipelines.story import Story, parse_story
from .capabilities import WAYS, Capabilities
from .limits import Limits

#: fields that stand in a file's metadata by themselves; the others are what was asked for besides
_TOLD_APART = ("prompt", "seed", "duration_in_s")
#: recordings: they are not told, only that there was one
_RECORDINGS = ("reference", "recording")
LARGEST_SEED = 2**63 - 1


@dataclass(frozen=True)
class MusicRequest:
    """
    One request for music.

    Args:
        prompt: a text; a story ("0:00 calm piano | 0:15 add drums"); a mixture ("0.7 * strings - 0.2 * drums").
        duration_in_s: of the piece, or of what is made new in a recording.
        seed: waveform i of the request draws from seed + i.
        num_variants: waveforms.
        num_candidates: waveforms to make, of which the variants nearest to the prompt are kept.
        guidance_scale, negative_prompt, transition_in_s, loop: as `MusicLMPipeline` takes them.
        temperature, top_k: of all stages; by default what each was saved with.
        attributes: what else the model's streams are asked for, by name: a tempo, a melody.
        reference, reference_weight: a recording to be like, and how much.
        recording, way: a recording to change, and how: one of `capabilities.WAYS`.
        start_in_s, stop_in_s: the region of it.
        keep: of a recording that is made anew, the stream whose tokens stay.
    """

    prompt: str = ""
    duration_in_s: float = 10.0
    seed: int = 0
    num_variants: int = 1
    num_candidates: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    temperature: float | None = None
    top_k: int | None = None
    transition_in_s: float = 0.0
    loop: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)
    reference: Recording | None = None
    reference_weight: float = 0.5
    recording: Recording | None = None
    way: str | None = None
    start_in_s: float = 0.0
    stop_in_s: float | None = None
    keep: str | None = None

    @property
    def num_rows(self) -> int:
        """Waveforms to make."""
        return self.num_candidates or self.num_variants

    @property
    def meant(self) -> str | Mixture | Story | None:
        """The prompt as what it stands for. No file is read: a text that came from elsewhere names none here."""
        if not self.prompt.strip():
            return None
        story = parse_story(self.prompt, self.transition_in_s)
        return story if story is not None else parse_mixture(self.prompt, read_files=False) or self.prompt

    def check(self, limits: Limits, capabilities: Capabilities) -> None:
        """Refuse what can be refused without the model.

        Raises:
            ValueError: it says what was given, and what may be.
        """
        _check_number("duration", self.duration_in_s, 0.1, limits.duration_in_s)
        _check_number("seed", self.seed, 0, LARGEST_SEED)
        _check_number("variants", self.num_variants, 1, limits.variants)
        if self.num_candidates is not None:
            _check_number("candidates", self.num_candidates, self.num_variants, limits.variants)
        _check_number("guidance_scale", self.guidance_scale, -20, 20)
        _check_number("temperature", self.temperature, 0.01, 10)
        _check_number("top_k", self.top_k, 1, 100_000)
        _check_number("transition", self.transition_in_s, 0, limits.duration_in_s)
        _check_number("reference_weight", self.reference_weight, 0.01, 0.99)
        for name, value in {
            "prompt": self.prompt, "negative_prompt": self.negative_prompt, "keep": self.keep, **self.attributes,
        }.items():  # fmt: skip
            _check_text(name, value, limits.text)
        self._check_attributes(capabilities)
        if self.guidance_scale is not None and not capabilities.guidance:
            raise ValueError("This model was not trained for guidance; leave `guidance_scale` out.")
        if self.way is not None:
            self._check_edit(limits, capabilities)
        elif not self.prompt.strip() and self.reference is None and not self.attributes:
            raise ValueError("Say what the music should be like: a prompt, a recording to be like, or a tempo, key, …")
        if self.num_candidates is not None and not isinstance(self.meant, str | Mixture):
            raise ValueError("`candidates` are held against the prompt; give one that stays the same.")
        if self.prompt.strip() and not capabilities.prompt:
            raise ValueError("This model reads no prompt.")
        _ = self.meant  # a story or mixture that cannot be read

    def _check_attributes(self, capabilities: Capabilities) -> None:
        known = {control.name: control for control in capabilities.attributes}
        for name, value in self.attributes.items():
            if name not in known:
                raise ValueError(
                    f"This model has no stream of {name!r}, so it cannot be asked for it; it has "
                    f"{', '.join(known) or 'none but the prompt'}."
                )
            if known[name].is_sound and isinstance(value, str):
                raise ValueError(f"`{name}` takes a recording or notes, [[start, stop, MIDI pitch], …], not a text.")

    def _check_edit(self, limits: Limits, capabilities: Capabilities) -> None:
        if self.way not in WAYS:
            raise ValueError(f"A recording can be changed by {', '.join(WAYS)}; got {self.way!r}.")
        if not capabilities.hears:
            raise ValueError("This model lacks what turns recordings into tokens, so it cannot change one.")
        if self.recording is None:
            raise ValueError("There is no recording to change; send one.")
        length = self.recording.length_in_s
        _check_number("start", self.start_in_s, 0, length)
        _check_number("stop", self.stop_in_s, self.start_in_s, length)
        if self.way in ("continue", "extend"):
            _check_number("the length with what is new", length + self.duration_in_s, 0, limits.duration_in_s)

    # --------------------------------------------------------------------- settings

    def told(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON holds it; the same form as `open-musiclm generate` writes into its files."""
        asked = {
            each.name: value
            for each in fields(self)
            if each.name not in (*_TOLD_APART, *_RECORDINGS, "attributes")
            and (value := getattr(self, each.name)) != each.default
        }
        asked |= {name: value for name, value in self.attributes.items() if _is_plain(value)}
        given = {"melody" if name not in _RECORDINGS else name: True for name in self._recordings_given()}
        told = {"prompt": self.prompt, "seed": self.seed, "duration_in_s": self.duration_in_s, "asked": asked}
        return told | ({"given": sorted(given)} if given else {})

    def _recordings_given(self) -> list[str]:
        given = [name for name in _RECORDINGS if getattr(self, name) is not None]
        return given + [name for name, value in self.attributes.items() if not _is_plain(value)]

    @classmethod
    def from_told(cls, told: Mapping[str, Any]) -> MusicRequest:
        """A request of settings that a file, a header or an address holds; what is not known is passed over."""
        asked = told.get("asked")
        asked = dict(asked) if isinstance(asked, Mapping) else {}
        own = {each.name: each for each in fields(cls) if each.name not in (*_RECORDINGS, "attributes")}
        values = {name: asked.pop(name) for name in list(asked) if name in own}
        values |= {name: told[name] for name in _TOLD_APART if name in told}
        usable = {name: value for name, value in values.items() if _is_like(value, str(own[name].type))}
        return cls(**usable, attributes={name: value for name, value in asked.items() if _is_plain(value)})

    def of_row(self, row: int) -> MusicRequest:
        """The request that makes one waveform of this one by itself."""
        if self.way is not None:
            return self  # candidates are judged together
        return replace(self, seed=(self.seed + row) % 2**63, num_variants=1, num_candidates=None)


def _is_plain(value: Any) -> bool:
    """What JSON holds."""
    if isinstance(value, list | tuple):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, str | int | float)


def _is_like(value: Any, kind: str) -> bool:
    """Whether a value that came from elsewhere is of a field's type, as its annotation spells it."""
    if value is None:
        return "None" in kind
    if isinstance(value, bool):
        return kind == "bool"
    if isinstance(value, int):
        return "int" in kind or "float" in kind
    return "float" in kind if isinstance(value, float) else isinstance(value, str) and "str" in kind


def _check_number(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not (math.isfinite(value) and least <= value <= most):
        raise ValueError(f"`{name}` must lie between {least:g} and {most:g}, got {value!r}.")


def _check_text(name: str, value: Any, longest: int) -> None:
    if not isinstance(value, str):
        return
    if len(value) > longest:
        raise ValueError(f"`{name}` has {len(value)} characters; up to {longest} are read.")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError(f"`{name}` holds half a character (a lone surrogate), which is no text.")
