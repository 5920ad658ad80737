"""Folders that commands write to."""

from pathlib import Path

import pytest

from open_musiclm.outputs import sole_writer


@pytest.mark.parametrize("when", ["before it is opened", "while it is made"])
def test_a_folder_that_its_last_holder_removes_meanwhile_is_made_again(tmp_path, monkeypatch, when):
    """A holder whose work came to nothing removes the folder that it made, at any moment."""
    output, opened, made, gone = tmp_path / "output", Path.open, Path.mkdir, []

    def open_late(path, *args, **kwargs):
        if path.parent == output and not gone:
            gone.append(path.parent.rmdir())
        return opened(path, *args, **kwargs)

    def make_late(path, *args, **kwargs):
        if path == output and not gone:
            gone.append(None)
            raise FileExistsError(f"it was there: {path}")  # and is gone when Python looks whether it is a folder
        made(path, *args, **kwargs)

    monkeypatch.setattr(Path, *(("open", open_late) if when == "before it is opened" else ("mkdir", make_late)))
    with sole_writer(output):
        assert gone
        (output / "result").write_text("x")
    assert [path.name for path in output.iterdir()] == ["result"]


def test_a_file_in_the_place_of_the_folder_is_said(tmp_path):
    (tmp_path / "output").write_text("mine")
    with pytest.raises(OSError, match="output"), sole_writer(tmp_path / "output"):
        pass
    assert (tmp_path / "output").read_text() == "mine"
