"""What is judged: attributes of the corpus, and the classes that their values fall into."""

from __future__ import annotations

from compose import BEAT_IN_FRAMES, DRUMS, GENRES, INSTRUMENTS, LOUDNESS_LEVELS, MODES, REGISTER_CENTRES

_LEVELS = sorted(LOUDNESS_LEVELS, key=LOUDNESS_LEVELS.__getitem__)
#: attribute → class → the values of the truth that belong to it. A value of no class is neither asked for nor judged.
ATTRIBUTES: dict[str, dict[str, tuple[str, ...]]] = {
    "drums": {"none": (DRUMS[0],), "some": DRUMS[1:]},
    "tempo": {name: (name,) for name in BEAT_IN_FRAMES},
    "mode": {name: (name,) for name in MODES},
    "register": {name: (name,) for name in REGISTER_CENTRES},
    "loudness": {name: (name,) for name in (_LEVELS[0], _LEVELS[-1])},
    "instrument": {name: (name,) for name in INSTRUMENTS},
    "genre": {name: (name,) for name in GENRES},
}


def class_of(attribute: str, value: str) -> str:
    """The class that a value belongs to, or ""."""
    return next((name for name, values in ATTRIBUTES[attribute].items() if value in values), "")


def chance(attribute: str) -> float:
    return 1 / len(ATTRIBUTES[attribute])


def skill(accuracy: float, attribute: str) -> float:
    """0 at chance, 1 without mistakes."""
    return (accuracy - chance(attribute)) / (1 - chance(attribute))
