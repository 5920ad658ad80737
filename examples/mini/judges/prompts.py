"""The prompts that every version is judged by, in balance, and real clips that fit them.

A table (CSV) has a row for each clip: `id`, `prompt`, and a column for each attribute with the class that the prompt
asks for, or nothing. The table that comes with judge.py was written once, from sentence templates that training never
sees; the same 200 prompts are for all versions, and any first part of them is nearly in balance too.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from captions import write_captions
from compose import Truth, draw_truth
from render import SPLITS

from .attributes import ATTRIBUTES, class_of

TABLE = Path(__file__).with_name("prompts.csv")
NUM_STATED = (3, 5, 6, 6)  # attributes that a prompt states, in turn


@dataclass(frozen=True)
class Prompt:
    id: str
    text: str
    stated: dict[str, str]  # attribute → class


def read_table(path: Path) -> list[Prompt]:
    """Prompts of a table. An attribute that has no column is not stated."""
    if not path.is_file():
        raise ValueError(f"There is no table {str(path)!r}. It needs the columns id, prompt, {', '.join(ATTRIBUTES)}.")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    prompts = []
    for row in rows:
        if "id" not in row or "prompt" not in row:
            raise ValueError(f"{str(path)!r} has the columns {', '.join(row)}; it needs `id` and `prompt`.")
        stated = {name: row[name] for name in ATTRIBUTES if row.get(name)}
        for name, value in stated.items():
            if value not in ATTRIBUTES[name]:
                raise ValueError(
                    f"{str(path)!r}, {row['id']}: {value!r} is no class of {name}; they are {', '.join(ATTRIBUTES[name])}."
                )
        prompts.append(Prompt(row["id"], row["prompt"], stated))
    return prompts


def write_table(path: Path, prompts: list[Prompt]) -> None:
    aside = path.with_name(f".{path.name}.part")
    with aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "prompt", *ATTRIBUTES])
        writer.writerows([p.id, p.text, *(p.stated.get(name, "") for name in ATTRIBUTES)] for p in prompts)
    os.replace(aside, path)


def stated_classes(requires: dict[str, list[str]]) -> dict[str, str]:
    """Of what a caption requires, that which leaves one class of an attribute."""
    stated = {}
    for name in ATTRIBUTES:
        classes = {class_of(name, value) for value in requires.get(name, ())}
        if len(classes) == 1 and "" not in classes:
            stated[name] = classes.pop()
    return stated


def compose_prompts(num_prompts: int, seed: int) -> list[Prompt]:
    """Prompts that state three to six attributes each; each attribute is stated about as often, each value too.

    Values come round in shuffled turns, attribute by attribute. Among many captions of a piece with these values, the
    one is taken whose attributes have been stated least.
    """
    rng = np.random.default_rng([seed, SPLITS.index("heldout"), 200_000])
    turns: dict[str, list[str]] = {name: [] for name in ATTRIBUTES}
    counts = {(name, value): 0 for name, values in ATTRIBUTES.items() for value in values}
    prompts: list[Prompt] = []
    while len(prompts) < num_prompts:
        values = {}
        for name, turn in turns.items():
            if not turn:
                turn.extend(rng.permutation(list(ATTRIBUTES[name])))
            values[name] = str(turn.pop())
        truth = _with(draw_truth(rng), values, rng)
        captions = write_captions(truth, rng, num_captions=400, heldout=True)
        wanted = NUM_STATED[len(prompts) % len(NUM_STATED)]

        def cost(caption: dict, wanted: int = wanted) -> tuple[float, float]:
            stated = stated_classes(caption["requires"])
            loose = len(caption["requires"]) - len(stated)
            usual = [counts[item] * len(ATTRIBUTES[item[0]]) for item in stated.items()]
            return (abs(len(stated) - wanted) + loose, float(np.mean(usual)) if usual else 0.0)

        best = min(captions, key=cost)
        stated = stated_classes(best["requires"])
        if any(prompt.text == best["text"] for prompt in prompts):
            continue
        for item in stated.items():
            counts[item] += 1
        prompts.append(Prompt(f"{len(prompts):04d}", best["text"], stated))
    return prompts


def _with(truth: Truth, classes: dict[str, str], rng: np.random.Generator) -> Truth:
    changed = {name: str(rng.choice(ATTRIBUTES[name][value])) for name, value in classes.items()}
    if changed["instrument"] == "bass":
        changed["register"] = "low"  # a bass guitar is never high
    return replace(truth, **changed)


def truths(seed: int, length_in_s: float, first: int = 0):
    """(index, truth) of held-out clips that are music to their end, without end: what `render.make_clip` composes."""
    index = first
    while True:
        truth = draw_truth(np.random.default_rng([seed, SPLITS.index("heldout"), index]), length_in_s)
        if truth.start_in_s + length_in_s <= truth.total_length_in_s:
            yield index, truth
        index += 1


def clips_that_fit(prompts: list[Prompt], seed: int, length_in_s: float) -> list[int]:
    """For each prompt, the index of a held-out clip that has all it asks for, each clip used once."""
    found: dict[int, int] = {}
    for index, truth in truths(seed, length_in_s):
        classes = {name: class_of(name, getattr(truth, name)) for name in ATTRIBUTES}
        for number, prompt in enumerate(prompts):
            if number not in found and prompt.stated.items() <= classes.items():
                found[number] = index
                break
        if len(found) == len(prompts):
            return [found[number] for number in range(len(prompts))]
        if index > 1_000_000:
            missing = next(p for n, p in enumerate(prompts) if n not in found)
            raise ValueError(f"The corpus has no clip for {missing.id}, {missing.text!r}: {missing.stated}.")
    raise AssertionError("unreachable")
