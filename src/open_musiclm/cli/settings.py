"""Settings given as `name=value` on the command line."""

from __future__ import annotations

import json
from typing import Any


def parse_settings(settings: list[str]) -> dict[str, Any]:
    """`name=value` pairs; values as JSON if they are, else as text."""
    parsed = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"{setting!r} is no setting: write NAME=VALUE.")
        try:
            parsed[name] = json.loads(value)
        except (ValueError, RecursionError):
            parsed[name] = value
    return parsed
