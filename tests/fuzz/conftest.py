"""Every test of this room runs with few attempts, and with many where slow tests are asked for; a table counts them."""

import numpy as np
import pytest
from tally import TALLIES

from open_musiclm.audio import write_audio


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sounds") / "song.wav"
    write_audio(path, 0.3 * np.sin(np.arange(8000) / 4)[None], 8000)
    return path


@pytest.fixture(params=["few", pytest.param("many", marks=[pytest.mark.slow, pytest.mark.timeout(7200)])])
def number(request):
    """`number(few, many)`: how many attempts this run makes."""
    return lambda few, many: few if request.param == "few" else many


def pytest_terminal_summary(terminalreporter):
    if not TALLIES:
        return
    terminalreporter.section("hostile input")
    rows: dict[str, list[int]] = {}
    for tally in TALLIES:
        row = rows.setdefault(tally.item, [0, 0, 0])
        for place, count in enumerate((tally.tried, tally.refused, tally.failed)):
            row[place] += count
    rows["in all"] = [sum(row[place] for row in rows.values()) for place in range(3)]
    order = {item: int(number) if (number := item.split()[0]).isdigit() else 100 for item in rows}
    for item, (tried, refused, failed) in sorted(rows.items(), key=lambda row: (row[0] == "in all", order[row[0]])):
        terminalreporter.write_line(f"{item:44} {tried:7} tried {refused:7} refused {failed:5} failed")
