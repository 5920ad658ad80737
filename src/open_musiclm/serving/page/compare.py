"""Two models or settings side by side, blinded; answers in the form that `open-musiclm evaluate --listening-results` reads."""

from __future__ import annotations

import hashlib
import json
import random
import secrets
from dataclasses import dataclass, field
from typing import Any

from ...evaluation.listening.results import SCALE
from ...evaluation.listening.write import KEY_NAME
from ..requests import MusicRequest
from .shelf import Shelf

SCALE_WORDS = {-2: "A clearly", -1: "A slightly", 0: "no preference", 1: "B slightly", 2: "B clearly"}


@dataclass
class Comparison:
    """One listener's test, as it grows: pairs, which side is which, and the answers.

    Args:
        test: its name, which key and answers share.
        pairs: as listening_key.json holds them, by the pair's name.
        tokens: the names of a pair's two sounds on the shelf, A and B.
        ratings: answers by the pair's name.
    """

    test: str = field(default_factory=lambda: hashlib.sha256(secrets.token_bytes(16)).hexdigest()[:12])
    pairs: dict[str, dict[str, str]] = field(default_factory=dict)
    tokens: dict[str, tuple[str, str]] = field(default_factory=dict)
    ratings: dict[str, int] = field(default_factory=dict)

    def add(self, shelf: Shelf, sides: dict[str, tuple[str, MusicRequest]]) -> str:
        """A pair of two systems, each with its model and request, on sides that are tossed; the pair's name.

        Raises:
            ValueError: not two systems.
        """
        if len(sides) != 2:
            raise ValueError("A comparison needs two models or settings that differ.")
        names = list(sides)
        random.SystemRandom().shuffle(names)
        pair = f"pair-{len(self.pairs) + 1:03d}"
        made = [
            shelf.ask(*sides[name], title=f"{pair} {side}", hides_settings=True)
            for side, name in zip("AB", names, strict=True)
        ]
        self.tokens[pair] = made[0], made[1]
        prompt = sides[names[0]][1].prompt
        self.pairs[pair] = {"prompt_id": pair, "prompt": prompt, "a": names[0], "b": names[1]}
        return pair

    def rate(self, pair: str, rating: int) -> None:
        """An answer: negative for A.

        Raises:
            ValueError: no such pair or answer.
        """
        if pair not in self.pairs or rating not in SCALE:
            raise ValueError(f"A pair is rated with one of {', '.join(map(str, SCALE))}; got {rating!r} of {pair!r}.")
        self.ratings[pair] = rating

    def key(self) -> str:
        """listening_key.json."""
        rated = {pair: of for pair, of in self.pairs.items() if pair in self.ratings}
        return json.dumps({"format": 1, "test": self.test, "pairs": rated}, indent=1, ensure_ascii=False) + "\n"

    def results(self, rater: str) -> str:
        """A listener's answers."""
        answers = [{"pair": pair, "rating": rating} for pair, rating in self.ratings.items()]
        told: dict[str, Any] = {
            "format": 1,
            "test": self.test,
            "rater": rater.strip() or "listener",
            "ratings": answers,
        }
        return json.dumps(told, indent=1, ensure_ascii=False) + "\n"

    def files(self, rater: str) -> dict[str, str]:
        """What `open-musiclm evaluate` reads, by name."""
        return {KEY_NAME: self.key(), "answers.json": self.results(rater)}
