"""Which stage comes after which: a stage follows those that predict the streams it is conditioned on.

It knows streams and names alone, so it serves loaded stages, configs and saved folders alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..given import shown
from .streams import TokenStream


def order_stages(streams: Mapping[str, Sequence[TokenStream]]) -> list[str]:
    """Names of stages in the order in which they can run.

    Args:
        streams: of each stage, the predicted one last. Stages that do not depend on one another keep this order.

    Raises:
        ValueError: two stages predict one stream, or stages wait for one another.
    """
    makers: dict[str, str] = {}
    for name, its in streams.items():
        other = makers.setdefault(its[-1].name, name)
        if other != name:
            raise ValueError(f"{other} and {name} both predict the stream {its[-1].name!r}; a stream has one stage.")
    ordered: list[str] = []
    while len(ordered) < len(streams):
        ready = [name for name in streams if name not in ordered and _waits_for(streams[name], makers) <= {*ordered}]
        if not ready:
            stuck = sorted({*streams} - {*ordered})
            raise ValueError(f"{', '.join(stuck)} wait for one another: no order of their streams begins.")
        ordered.append(ready[0])
    return ordered


def stages_among(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a pipeline's components (or of their configs) that are stages, in the order in which they can run."""
    stages = {name: part for name, part in parts.items() if hasattr(getattr(part, "config", part), "token_streams")}
    return {name: stages[name] for name in order_stages({n: streams_of(s) for n, s in stages.items()})}


def streams_of(stage: Any) -> list[TokenStream]:
    """A stage's (or a config's) streams, the predicted one last."""
    return getattr(stage, "config", stage).token_streams


def short_name(component: str) -> str:
    """What a stage is called beside its component's name: `semantic_model` → `semantic`."""
    return component.removesuffix("_model")


def find_stage(stages: Mapping[str, Any], name: str) -> str:
    """The component that is meant by its own name, its short one, or the stream that it predicts.

    Raises:
        ValueError: no stage is called so; the message names those there are.
    """
    for component, stage in stages.items() if isinstance(name, str) else ():
        if name in (component, short_name(component), streams_of(stage)[-1].name):
            return component
    raise ValueError(f"There is no stage {shown(name)}; there are {', '.join(map(short_name, stages)) or 'none'}.")


def _waits_for(streams: Sequence[TokenStream], makers: Mapping[str, str]) -> set[str]:
    return {makers[stream.name] for stream in streams[:-1] if stream.name in makers}
