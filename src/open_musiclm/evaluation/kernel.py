"""Moved to `open_musiclm.evaluation.metrics.kernel`; this name goes with the next release."""

from .metrics.kernel import *  # noqa: F403
