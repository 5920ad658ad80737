import sys

import convert_open_musiclm
import pytest


@pytest.fixture
def convert(monkeypatch, capsys):
    """Runs the command in this process; returns what it printed."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["convert_open_musiclm.py", *map(str, arguments)])
        convert_open_musiclm.main()
        return capsys.readouterr().out

    return run
