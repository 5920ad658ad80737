"""Which file a name means: in a table of captions, in a list of prompts, in MusicCaps. One rule for all.

Names are compared in Unicode's composed form, with `/` between folders and without `./`. From the strictest rule to the
loosest: the path; the path without its ending; the path but for upper and lower case; the file's own name, wherever it
lies; the same as it is written by programs that replace what they do not like in names; the id that stands in the name
as downloaders put it there. A rule that fits two files decides nothing, and the last two rules, which guess, give away no
file that another name means for sure.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from posixpath import normpath

from ..audio.reading import AUDIO_ENDINGS

#: what follows an id in the name of a clip: `id_30`, `id_30_40`, `id_30-40`, `id_30.0`
CLIP_SUFFIX = re.compile(r"[_-]\d+(\.\d+)?([_-]\d+(\.\d+)?)?$")
#: `[id]-[30-40]`, `Title [id]`, `Title [id]_30`, with whatever is short behind it
BRACKETS = re.compile(r"\[([^\[\]]+)\]")
#: YouTube's ids, as older downloaders append them: `Title-id`
VIDEO_ID = re.compile(r"^(?:.*-)?([\w-]{11})$")


def plain_path(name: str) -> str:
    """A path as names are compared: composed Unicode, `/`, no `.` and no doubled separators."""
    return normpath(unicodedata.normalize("NFC", name).replace("\\", "/"))


def without_ending(path: str) -> str:
    """A path without the ending of audio; `a.b` keeps its `.b`."""
    ending = next((ending for ending in AUDIO_ENDINGS if path.lower().endswith(ending)), "")
    return path[: len(path) - len(ending)]


def sanitized(name: str) -> str:
    """A name with everything that programs replace in names replaced."""
    return re.sub(r"[^\w.-]", "_", name).strip("_.").lower()


def _stem(path: str) -> str:
    return without_ending(path.rsplit("/", 1)[-1])


def _ids(path: str) -> set[str]:
    """What may be the id in a clip's name."""
    stem = _stem(path)
    found = {CLIP_SUFFIX.sub("", stem), *BRACKETS.findall(stem)}
    video = VIDEO_ID.match(CLIP_SUFFIX.sub("", stem)) or VIDEO_ID.match(stem)
    if video:
        found.add(video.group(1))
    return found


#: (what a file is known by, what a wanted name is looked up as), the strictest first
Key = Callable[[str], Iterable[str]]
RULES: tuple[tuple[Key, Key], ...] = (
    (lambda file: [file], lambda wanted: [wanted]),
    (lambda file: [without_ending(file)], lambda wanted: [without_ending(wanted)]),
    (lambda file: [file.lower()], lambda wanted: [wanted.lower()]),
    (lambda file: [without_ending(file).lower()], lambda wanted: [without_ending(wanted).lower()]),
    (lambda file: [file.rsplit("/", 1)[-1]], lambda wanted: [wanted.rsplit("/", 1)[-1]]),
    (lambda file: [_stem(file)], lambda wanted: [_stem(wanted)]),
    (lambda file: [sanitized(without_ending(file))], lambda wanted: [sanitized(without_ending(wanted))]),
    (lambda file: [sanitized(_stem(file))], lambda wanted: [sanitized(_stem(wanted))]),
    (_ids, lambda wanted: [_stem(wanted)]),
)
#: of these, the ones that compare whole paths (a caption belongs to one file of one folder), and those that are sure
PATH_RULES, SURE_RULES = 4, 6


def pair(wanted: Sequence[Sequence[str]], files: Sequence[str], num_rules: int = len(RULES)) -> list[int | None]:
    """For each of the wanted, the index of the file that it means, or `None`.

    Args:
        wanted: for each, the names it may go by, the surest first.
        files: paths, relative to the folder that they were found in.
        num_rules: use only the strictest rules; `PATH_RULES` are those that compare whole paths.
    """
    plain_files = [plain_path(name) for name in files]
    plain_wanted = [[plain_path(name) for name in names if name] for names in wanted]
    found: list[int | None] = [None] * len(wanted)
    taken: set[int] = set()
    for number, (of_file, of_wanted) in enumerate(RULES[:num_rules]):
        known: dict[str, set[int]] = {}
        for index, path in enumerate(plain_files):
            if number < SURE_RULES or index not in taken:
                for key in of_file(path):
                    known.setdefault(key, set()).add(index)
        now: set[int] = set()
        for place, names in enumerate(plain_wanted):
            for name in names if found[place] is None else ():
                matching = set().union(*(known.get(key, set()) for key in of_wanted(name)))
                if len(matching) == 1:
                    found[place] = matching.pop()
                    now.add(found[place])  # type: ignore[arg-type]
                    break
        taken |= now
    return found
