"""What a caller gave: shown in a line, taken as a number, a count or tokens, or refused with one kind of error."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: letters of a value in a message
LONGEST_SHOWN = 120
#: longest piece, in seconds: a day; more is asked for by mistake
MAX_LENGTH_IN_S = 86_400.0

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = LONGEST_SHOWN


def shown(value: Any) -> str:
    """What was given, short enough for a line, whatever it is."""
    try:
        text = " ".join(_short.repr(value).split())
    except Exception:  # an object's own way to show itself, or a number of more digits than Python writes
        return f"a {type(value).__name__}"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}… ({type(value).__name__})"


def as_number(what: str, value: Any, needed: str, holds: Callable[[float], bool] = lambda _: True) -> float:
    """A finite number as a float.

    Args:
        what: what it is for, for the message: "`guidance_scale`".
        needed: what it must be, for the message: "a number between 0 and 1".
        holds: whether a number is that.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number) and holds(number):
            return number
    raise ValueError(f"{what} must be {needed}, got {shown(value)}.")


def as_length(what: str, value: Any) -> float:
    """The length of a piece in seconds.

    Raises:
        ValueError: it is no number, not above 0, or more than a day.
    """
    needed = f"a number of seconds above 0 and up to {MAX_LENGTH_IN_S:.0f}"
    return as_number(what, value, needed, lambda seconds: 0 < seconds <= MAX_LENGTH_IN_S)


def lies_in(value: Any, least: float, most: float) -> bool:
    """Whether a value is a number from `least` to `most`, of whatever type."""
    return isinstance(value, Real) and bool(least <= value <= most)  # type: ignore[operator]


def as_count(what: str, value: Any, least: int = 1) -> int:
    """A whole number from `least` on.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{what} must be a whole number and at least {least}, got {shown(value)}.")
    return int(value)


def as_tokens(argument: str, tokens: Any) -> torch.Tensor:
    """Tokens as a tensor of int64, (batch, …); lists and arrays of whole numbers are taken too.

    Raises:
        ValueError: they are no whole numbers, have no row for each sample, or are none.
    """
    import numpy as np
    import torch

    if not isinstance(tokens, torch.Tensor):
        try:
            tokens = torch.as_tensor(np.asarray(tokens))
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise ValueError(f"`{argument}` must be a tensor of tokens, got {shown(tokens)}.") from None
    if tokens.layout != torch.strided or tokens.is_meta or tokens.is_quantized:
        raise ValueError(f"`{argument}` must be a plain tensor of tokens, got one that is sparse, quantized or empty.")
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise ValueError(f"`{argument}` must hold whole numbers, got {tokens.dtype}.")
    if tokens.ndim < 2 or not tokens.numel():
        raise ValueError(
            f"`{argument}` must have a row of tokens for each sample, (batch, …), got the shape {tuple(tokens.shape)}."
        )
    return tokens.long()
