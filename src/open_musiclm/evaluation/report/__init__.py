"""The report of an evaluation: one HTML file that needs nothing else, and one JSON file."""

from __future__ import annotations

from .page import write_report

__all__ = ["write_report"]
