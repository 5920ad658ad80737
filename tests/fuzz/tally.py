"""What the tests of this room share: damage with fixed seeds, hostile values, and a count of what was tried and failed."""

from __future__ import annotations

import builtins
import json
import math
import os
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

#: an attempt takes no longer: of the processor's time, and of the clock's, which on a busy machine is many times that
MOST_SECONDS, MOST_SECONDS_OF_THE_CLOCK = 30.0, 600.0
#: cases of each kind of failure that are shown
NUM_SHOWN = 4
#: every tally of this run of pytest, for the table that conftest.py prints
TALLIES: list[Tally] = []


class Tally:
    """Attempts on one item: what comes out is right, or one line of an error that is meant, in a bounded time.

    Args:
        item: number and name, as the table has it.
        errors: kinds that are meant for users.
        longest: letters of a message.
    """

    def __init__(self, item: str, errors: tuple[type[Exception], ...] = (ValueError, OSError), longest: int = 2000):
        self.item, self.errors, self.longest = item, errors, longest
        self.tried = self.refused = 0
        #: kind (of error and place) → what was tried, and how it failed
        self.kinds: dict[str, list[tuple[Any, str]]] = {}
        TALLIES.append(self)

    def attempt(self, what: Any, action: Callable[[], Any]) -> None:
        """Count one attempt; an `AssertionError` of the action is a failure like any error that is not meant."""
        self.tried += 1
        started, used = time.perf_counter(), time.process_time()
        try:
            action()
        except AssertionError as error:
            self._fail(what, f"wrong {place_of(error)}", str(error).split("\n", 1)[0] or repr(error))
        except self.errors as error:
            said = str(error)
            if not said or "\n" in said or len(said) > self.longest:
                self._fail(what, f"{type(error).__name__} {place_of(error)} is not one line", repr(said[:300]))
            else:
                self.refused += 1
        except Exception as error:
            self._fail(what, f"{type(error).__name__} {place_of(error)}", repr(str(error)[:300]))
        used, taken = time.process_time() - used, time.perf_counter() - started
        if used > MOST_SECONDS or taken > MOST_SECONDS_OF_THE_CLOCK:
            self._fail(what, "took too long", f"{used:.0f} s of the processor, {taken:.0f} s of the clock")

    def _fail(self, what: Any, kind: str, how: str) -> None:
        self.kinds.setdefault(kind, []).append((what, how))

    @property
    def failed(self) -> int:
        """Attempts that failed, of all kinds."""
        return sum(len(cases) for cases in self.kinds.values())

    def finish(self) -> None:
        """Fail the test if anything failed, and show every kind of failure by a few cases."""
        lines = [f"{self.item}: {self.failed} of {self.tried} failed, of {len(self.kinds)} kinds"]
        for kind, cases in sorted(self.kinds.items(), key=lambda row: -len(row[1])):
            lines.append(f"{len(cases)} × {kind}")
            lines += [f"    {str(what)[:300]}: {how[:300]}" for what, how in cases[:NUM_SHOWN]]
        if self.kinds:
            raise AssertionError("\n".join(lines))


def place_of(error: BaseException) -> str:
    """Where an error arose: the last line of the package that led to it, or of the tests."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "open_musiclm" in Path(frame.filename).parts] or frames[-1:]
    return f"at {Path(own[-1].filename).name}:{own[-1].lineno}"


def seeded(seed: int) -> np.random.Generator:
    """What damage is drawn from: a generator of an attempt's number, and of the environment's `OPEN_MUSICLM_FUZZ_SEED`."""
    other = int(os.environ.get("OPEN_MUSICLM_FUZZ_SEED", "0"))
    return np.random.default_rng([seed, other] if other else seed)


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """Bytes cut, flipped, zeroed, repeated or put in."""
    kind, place = random.integers(5), int(random.integers(max(len(content), 1)))
    length = int(random.integers(1, 5000))
    if kind == 0:
        return content[:place]
    if kind == 1:
        changed = bytearray(content)
        for position in random.integers(max(len(content), 1), size=3) if content else ():
            changed[position] ^= 1 << int(random.integers(8))
        return bytes(changed)
    if kind == 2:
        return content[:place] + bytes(min(length, len(content) - place)) + content[place + length :]
    if kind == 3:
        return content[:place] + content[place : place + length] * 2 + content[place + length :]
    return content[:place] + random.bytes(length) + content[place:]


#: what may stand in the place of any value in a JSON file; the last is more than JSON's own numbers
JSON_VALUES = (None, True, -1, 0, 1.5, 10**9, 10**400, "x", "", [], {}, [1, [2]], {"a": {"b": 1}}, "\x00\x1b[2J",
               "\ud800", 1e308, math.inf, math.nan)  # fmt: skip


def damaged_json(content: bytes, random: np.random.Generator) -> bytes:
    """A JSON file with one of its values another, gone or nested, or its bytes damaged."""
    if random.random() < 0.2:
        return damaged(content, random)
    table = json.loads(content)
    inner = table
    while True:
        if not inner:
            return b"[" * 100_000
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = keys[int(random.integers(len(keys)))]
        if isinstance(inner[key], dict | list) and inner[key] and random.random() < 0.8:
            inner = inner[key]
            continue
        chance = random.random()
        if chance < 0.1:
            del inner[key]
        elif chance < 0.2 and isinstance(inner, dict):
            inner[f"{key}\x1b[31m"] = inner[key]
        else:
            inner[key] = pick(random, JSON_VALUES)
        return json.dumps(table).encode()


def pick(random: np.random.Generator, choices: Any) -> Any:
    """One of them."""
    return choices[int(random.integers(len(choices)))]


class Odd:
    """An object that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no way to show this")


#: arguments of every kind that nobody means
VALUES = (
    None, True, False, -1, 0, 1, 3, 1.5, -0.5, 2**31, 10**9, 10**400, -(10**400), math.nan, math.inf, -math.inf, 1e308,
    1e-300, 1j, Fraction(1, 3), Decimal("1.5"), np.float64(0.5), np.int64(3), np.float32("nan"),
    "", "x", "\ud800", "a\x00b", "\x1b[2J\n", "9" * 5000, "a" * 300, "../..", b"a", Path("/nonexistent/a.wav"), Path("a" * 300),
    [], [[]], [None], [1, [2]], ["a", "b"], [("a", 1)], [(0, "a"), (math.nan, "b")], [[1, 2, 3]], [[10**30]], (), (1, 2), {},
    {"a": 1}, {1: 2}, {"clap": [[1]]}, {"semantic": "x"}, set(), {1}, range(3), object(), Odd(), lambda *_: 1, print, Exception,
    np.zeros(0), np.array(["a"]), np.zeros((2, 3)), np.full((1, 3), np.nan), np.ones((1, 8)), np.array([[10**30]], dtype=object),
    (np.zeros((1, 100)), 8000), (np.ones((1, 4000), np.float32), -1), (np.ones((1, 4000)), "x"), (np.ones((3, 2, 1)), 8000),
    torch.zeros(0), torch.zeros(1, 3), torch.full((1, 3), -5), torch.full((1, 3), 10**6), torch.zeros(1, 3, dtype=torch.complex64),
    torch.empty(1, 3, dtype=torch.long, device="meta"), torch.zeros(1, 3, 1, 1, dtype=torch.long), torch.Generator(),
    torch.eye(3, dtype=torch.long).to_sparse(), torch.full((2, 3), -1), torch.zeros(5, 3, dtype=torch.long),
)  # fmt: skip


@contextmanager
def no_questions():
    """Nobody is asked anything; what asks finds no answer, and is known afterwards."""
    asked: list[str] = []

    def ask(question: str = "") -> str:
        asked.append(question)
        raise EOFError

    before, builtins.input = builtins.input, ask
    try:
        yield asked
    finally:
        builtins.input = before


def forked(action: Callable[[], Any], errors: type[Exception] = ValueError) -> str:
    """How an action ends in a process of its own: "done", "refused", "killed" (by itself, code 9), or what went wrong."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            action()
            os.write(write, b"done")
        except errors:
            os.write(write, b"refused")
        except BaseException as error:
            os.write(write, f"{type(error).__name__}: {error}".encode(errors="replace")[:2000])
        finally:
            os._exit(0)
    os.close(write)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read, "rb") as pipe:
        said = pipe.read().decode()
    return said or ("killed" if os.waitstatus_to_exitcode(status) == 9 else f"status {status}")
