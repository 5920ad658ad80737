"""About a hundred files of forty kinds, whole, cut, holed and doubled: none is read short in silence (zoo.py)."""

import shutil

import pytest
from zoo import look_at, make_zoo

pytest.importorskip("av")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg makes the files")
def test_every_file_of_the_zoo_is_read_whole_or_refused(tmp_path):
    said = []
    assert look_at(tmp_path, make_zoo(tmp_path), said.append) == []
    assert len(said) > 80
