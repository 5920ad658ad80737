"""What the descriptions of systems are made of."""

from __future__ import annotations

import json
from typing import Any

import torch

__all__ = ["networks_of", "plain_values"]


def networks_of(pipeline: Any) -> dict[str, torch.nn.Module]:
    """The networks among a pipeline's components."""
    return {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


def plain_values(value: Any) -> Any:
    """Settings as JSON has them; what JSON has no form for as text."""
    return json.loads(json.dumps(value, default=str))
