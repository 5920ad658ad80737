"""Story mode: prompts that change on the way (MusicLM, section 6), as a schedule of texts over time.

    [(0, "calm piano"), (15, "add drums")]            in Python
    "0:00 calm piano | 0:15 add drums"                on the command line, or one part a line in a file

MusicLM changes the text's tokens from one window to the next; a transition here moves the CLAP embedding from one text to
the next over some seconds, and quantizes what lies between.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..given import as_number, shown

_TIME = re.compile(r"^(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)(?:\s*s)?\s+(?=\S)")


@dataclass(frozen=True)
class Story:
    """Texts over time.

    Args:
        starts: when each text begins, in seconds, rising from 0.
        texts: as many.
        transition_in_s: how long the change from one text to the next takes; it ends when the next one's time has come
            plus half of it, and begins as long before.
    """

    starts: tuple[float, ...]
    texts: tuple[str, ...]
    transition_in_s: float = 0.0

    def __post_init__(self):
        if not isinstance(self.starts, list | tuple) or not isinstance(self.texts, list | tuple):
            raise ValueError(f"A story has a list of times and one of texts, got {shown((self.starts, self.texts))}.")
        if not self.texts or len(self.starts) != len(self.texts):
            raise ValueError("A story needs at least one part: a time and a text each.")
        needed = "a number of seconds"
        starts = tuple(as_number("The time of a story's part", start, needed) for start in self.starts)
        object.__setattr__(self, "starts", starts)
        object.__setattr__(
            self,
            "transition_in_s",
            as_number("`transition_in_s`", self.transition_in_s, "0 or more seconds", lambda length: length >= 0),
        )
        for start, text in zip(self.starts, self.texts, strict=True):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"The part of a story at {clock(start)} has no text.")
        if self.starts[0] != 0:
            raise ValueError(f"A story begins at 0:00; the first part here begins at {clock(self.starts[0])}.")
        for before, after in zip(self.starts, self.starts[1:], strict=False):
            if not after > before:
                raise ValueError(f"A story's times must rise: {clock(after)} comes after {clock(before)}.")
        gaps = [after - before for before, after in zip(self.starts, self.starts[1:], strict=False)]
        if gaps and self.transition_in_s > min(gaps):
            raise ValueError(
                f"A transition of {self.transition_in_s:g} s does not fit between parts that are {min(gaps):g} s apart."
            )

    def part_at(self, moment: float) -> int:
        """The place of the part that is told at a time in seconds."""
        return max(place for place, start in enumerate(self.starts) if start <= max(moment, 0.0))

    def weights_at(self, moment: float) -> tuple[float, ...]:
        """How much of each text holds at a time in seconds: one number a part, 1 in all."""
        weights = [0.0] * len(self.texts)
        half = self.transition_in_s / 2
        for place, start in enumerate(self.starts[1:], start=1):
            if half and abs(moment - start) < half:
                share = (moment - start + half) / self.transition_in_s
                weights[place - 1], weights[place] = 1 - share, share
                return tuple(weights)
        weights[self.part_at(moment)] = 1.0
        return tuple(weights)


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds: 75 → "1:15"."""
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}:{rest:05.2f}".rstrip("0").rstrip(".") if rest % 1 else f"{int(minutes)}:{int(rest):02d}"


def is_story(prompt: Any) -> bool:
    """Whether a prompt is a schedule: a `Story`, or a list of (time, text)."""
    return isinstance(prompt, Story) or (
        isinstance(prompt, Sequence)
        and not isinstance(prompt, str)
        and len(prompt) > 0
        and all(isinstance(part, tuple | list) and len(part) == 2 for part in prompt)
    )


def make_story(parts: Story | Iterable[tuple[float, str]], transition_in_s: float = 0.0) -> Story:
    """A story of (time in seconds, text) pairs."""
    if isinstance(parts, Story):
        return parts
    starts, texts = zip(*parts, strict=True) if isinstance(parts, Iterable) else (None, None)
    return Story(starts, texts, transition_in_s)


def parse_story(text: str, transition_in_s: float = 0.0) -> Story | None:
    """ "0:00 calm piano | 0:15 add drums", or one part a line; `None` if the text does not begin with a time and has no
    second part: it is a prompt then.

    Raises:
        ValueError: parts without a time, times that do not rise.
    """
    parts = [part.strip() for part in re.split(r"[|\n]", text) if part.strip() and not part.strip().startswith("#")]
    if not parts or not (_TIME.match(parts[0]) and ("|" in text or "\n" in text or ":" in parts[0].split()[0])):
        return None
    read = []
    for part in parts:
        found = _TIME.match(part)
        if found is None:
            raise ValueError(f'A part of a story begins with its time, as in "0:15 add drums"; got {shown(part)}.')
        hours, minutes, seconds = (float(group or 0) for group in found.groups())
        read.append((3600 * hours + 60 * minutes + seconds, part[found.end() :].strip()))
    return make_story(read, transition_in_s)


def read_story(path: str | Path, transition_in_s: float = 0.0) -> Story:
    """A story from a file, one part a line; empty lines and those that begin with # are passed over."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 (byte {error.start}: {error.reason}); save it as UTF-8.") from error
    story = parse_story(text + "\n", transition_in_s)
    if story is None:
        raise ValueError(f'{path} holds no story: each line is a time and a text, as in "0:15 add drums".')
    return story
