"""The original's files in, this package's folders out: `open-musiclm convert`."""
