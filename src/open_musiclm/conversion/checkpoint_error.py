"""The one error of the conversion: a file that can't be converted, and why, in one line."""

_MAX_LENGTH = 1000


class CheckpointError(ValueError):
    """Says which file, what is wrong with it and what to do, in one line fit to be shown to a user.

    Names come from files that may be hostile: what does not print is escaped, and a line that never ends is cut.
    """

    def __init__(self, message: str):
        shown = message if len(message) <= _MAX_LENGTH else f"{message[:_MAX_LENGTH]}…"
        super().__init__(
            "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in shown)
        )
