"""What training copies of a pipeline that somebody else made: data that the pipeline names, and no code."""

import json
import shutil

import pytest
from tiny import tiny_pipeline, tiny_stage

from open_musiclm import MusicLMPipeline
from open_musiclm.training.base_stage import load_base
from open_musiclm.training.finish import copy_pipeline


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "pipeline"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def strangers(saved, tmp_path):
    """A pipeline with code, and folders that it does not name, in it."""
    folder = shutil.copytree(saved, tmp_path / "strangers")
    for place in (".", "codec", "coarse_model"):
        for name in ("pipeline.py", "open_musiclm.py", "payload.py"):
            (folder / place / name).write_text("raise SystemExit('ran')")
    (folder / "extra").mkdir()
    (folder / "extra" / "secret.txt").write_text("secret")
    (folder / "LICENSE").write_text("theirs")
    return folder


def stage(folder):
    tiny_stage("coarse").save_pretrained(folder)


def test_no_code_comes_along(strangers, saved, tmp_path):
    copy_pipeline(
        strangers,
        tmp_path / "out",
        "coarse_model",
        MusicLMPipeline.from_pretrained(saved).coarse_model.save_pretrained,
    )
    sources = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_text() for path in (tmp_path / "out").rglob("*.py")
    }
    assert sources == {path.relative_to(saved).as_posix(): path.read_text() for path in saved.rglob("*.py")}
    assert not (tmp_path / "out" / "extra").exists()
    assert (tmp_path / "out" / "LICENSE").read_text() == "theirs"
    assert MusicLMPipeline.from_pretrained(tmp_path / "out").coarse_model.config.hidden_size == 32


@pytest.mark.parametrize("place", ["codec/config.json", "LICENSE", "clap/notes.json"])
def test_a_link_out_of_the_pipeline_is_refused(strangers, tmp_path, place):
    (tmp_path / "private.json").write_text('{"password": 1}')
    (strangers / place).unlink(missing_ok=True)
    (strangers / place).symlink_to(tmp_path / "private.json")
    with pytest.raises(ValueError, match="is a link out of the pipeline"):
        copy_pipeline(strangers, tmp_path / "out", "coarse_model", stage)
    assert not (tmp_path / "out" / "model_index.json").exists()
    with pytest.raises(ValueError, match="is a link out of the pipeline"):  # already before the training
        load_base("coarse", strangers)


def test_links_of_the_hubs_cache_are_followed(saved, tmp_path):
    """The cache keeps a repository's files as links to its blobs."""
    repository = tmp_path / "models--me--mine"
    snapshot = repository / "snapshots" / "0123abcd"
    (repository / "blobs").mkdir(parents=True)
    for index, file in enumerate(sorted(path for path in saved.rglob("*") if path.is_file())):
        shutil.copyfile(file, repository / "blobs" / str(index))
        link = snapshot / file.relative_to(saved)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(repository / "blobs" / str(index))
    copy_pipeline(snapshot, tmp_path / "out", "coarse_model", stage)
    copied = tmp_path / "out" / "codec" / "config.json"
    assert not copied.is_symlink()
    assert json.loads(copied.read_text())["model_type"] == "encodec"
