"""What a system of others can be asked for beside a prompt and a length: what it takes is handed on, the rest refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["refuse_requests"]

#: what is asked for, by the name of the argument of `open-musiclm generate`; a beginning is `open-musiclm edit … continue`
SHOWN = {
    "beginning": "a recording to go on from (open-musiclm edit FILE continue)",
    "story": "a story",
    "mixture": "a weighted mixture",
    "transition_in_s": "--transition",
}


def refuse_requests(kind: str, takes: Iterable[str], asked: Mapping[str, Any]) -> None:
    """Refuse by name what a system does not support.

    Args:
        kind: what it is, for the message.
        takes: what it supports.
        asked: what was asked for; `None` and `False` are not.

    Raises:
        ValueError: one line that names what was asked for and what could be.
    """
    takes = tuple(takes)
    refused = [name for name, value in asked.items() if value is not None and value is not False and name not in takes]
    if refused:
        raise ValueError(
            f"{kind} cannot be asked for {_named(refused)}: beside a prompt and a length it takes {_named(takes)}."
        )


def _named(names: Iterable[str]) -> str:
    shown = [SHOWN.get(name, f"--{name.replace('_', '-')}") for name in names]
    if len(shown) < 2:
        return shown[0] if shown else "nothing"
    return f"{', '.join(shown[:-1])} and {shown[-1]}"
