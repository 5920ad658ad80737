"""The one error of the conversion: a file that can't be converted, and why, in one line."""


class CheckpointError(ValueError):
    """Says which file, what is wrong with it and what to do, in one line fit to be shown to a user."""
