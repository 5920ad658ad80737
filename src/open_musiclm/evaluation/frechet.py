"""Moved to `open_musiclm.evaluation.metrics.frechet`; this name goes with the next release."""

from .metrics.frechet import *  # noqa: F403
