"""What to know of the sets that were compared, and what in them belongs to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .clips import Clip, ClipSet
from .measurements.measured import MeasuredSystem
from .prompts import Prompt, Skipped

__all__ = ["NOISE", "notices_of", "unmatched"]

NOISE = "white noise"


def unmatched(
    measured: list[MeasuredSystem],
    descriptions: dict[str, dict[str, Any]],
    prompts: list[Prompt],
    references: dict[str, Clip],
    reference: ClipSet | None,
) -> Iterator[Skipped]:
    """Clips of a folder that belong to no prompt, prompts that have no clip in it, references that are not there."""
    for system in measured:
        if descriptions[system.name].get("kind") != "folder":
            continue
        known = system.clips.by_id()
        for clip in system.clips.clips:
            if clip.id not in system.prompts:
                yield Skipped(f"{system.name}: {clip.name}", "no prompt has its name; it counts in distances alone")
        for prompt in prompts:
            if prompt.id not in known:
                yield Skipped(f"{system.name}: prompt {prompt.id!r}", "no clip has its id, or several have")
    for prompt in prompts if reference is not None else ():
        if prompt.reference is not None and prompt.id not in references:
            yield Skipped(
                f"prompt {prompt.id!r}",
                f"its reference {prompt.reference!r} is not in the folder, or could be several",
            )


def notices_of(
    sets: list[ClipSet], prompts: list[Prompt], references: dict[str, Clip], reference: ClipSet | None
) -> list[str]:
    """Rates, sizes and common clips of the sets, in sentences."""
    notices = [notice for part in sets for notice in part.notices]
    rates = {
        part.name: max(clip.sampling_rate for clip in part.clips) for part in sets if part.clips and part.name != NOISE
    }
    if len(set(rates.values())) > 1:
        told = ", ".join(f"{name} {rate} Hz" for name, rate in rates.items())
        notices.append(f"The sets have different sampling rates ({told}); all are resampled to the network's rate.")
    sizes = {part.name: len(part) for part in sets if part is not reference and part.name != NOISE}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        notices.append(
            f"The systems have different numbers of clips ({told}): FAD falls and Vendi score rises with more. The "
            "differences between systems are taken on the prompts that both have."
        )
    if reference is not None:
        known = {clip.fingerprint for clip in reference.clips}
        for part in sets:
            shared = sum(clip.fingerprint in known for clip in part.clips) if part is not reference else 0
            if shared:
                notices.append(
                    f"{shared} of the {len(part)} clips of {part.name} are in the reference too, at distance 0 from it: "
                    "leave them out of one of the two."
                )
        notices.append(f"{len(references)} of {len(prompts)} prompts have a reference clip of their own.")
    return notices
