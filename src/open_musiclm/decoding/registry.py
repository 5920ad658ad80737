"""The back-ends by name, and which one a `generate` call gets."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from ..given import shown
from .interface import Backend, Request, Stage

#: back-end → module of this package and class; a module is imported when its back-end is considered
BACKENDS = {
    "graph": ("cuda_graph", "GraphDecoder"),
    "graph-int8": ("cuda_graph", "GraphInt8Decoder"),
    "compile": ("compiled", "CompiledDecoder"),
    "int8": ("packed", "Int8Decoder"),
    "packed": ("packed", "FastDecoder"),
    "plain": ("plain", "PlainDecoder"),
}
#: what a call gets that names none: the first that supports it
AUTOMATIC = ("graph", "packed", "plain")


def backend_class(name: str) -> type[Backend]:
    """The back-end of that name."""
    module, class_name = BACKENDS[name]
    return getattr(importlib.import_module(f".{module}", __package__), class_name)


def choose_backend(stage: Stage, request: Request, fast: bool | str | Sequence[str] | None = None) -> Backend:
    """The first back-end in order of preference that supports the request.

    Args:
        fast: `None` or `True` for whatever is fastest of those that make the plain loop's tokens, `False` for the plain
            loop, a name of [`BACKENDS`], or several in order of preference.

    Raises:
        ValueError: there is no back-end of that name, or none of those named supports the request; says why.
    """
    if fast is None or isinstance(fast, bool):
        names: Sequence[str] = ("plain",) if fast is False else AUTOMATIC
    else:
        names = (fast,) if isinstance(fast, str) else tuple(fast) if isinstance(fast, list | tuple) else ()
    unknown = [name for name in names if not isinstance(name, str) or name not in BACKENDS]
    if unknown or not names:
        raise ValueError(
            f"`fast` must be None, True, False, {', '.join(map(repr, BACKENDS))}, or a list of these names, got {shown(fast)}."
        )
    reasons = {}
    for name in names:
        chosen = backend_class(name)
        reason = chosen.supports(stage, request)
        if reason is None:
            return chosen(stage, request)
        reasons[name] = reason
    refusals = " ".join(f"`fast={name!r}` {reason}." for name, reason in reasons.items())
    raise ValueError(f"{refusals} Leave `fast` out for the fastest way that serves every request.")
