"""The listening test's page: HTML, style and script, filled in by `open_musiclm.evaluation.listening.write`."""
