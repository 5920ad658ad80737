"""Fixtures of the tests of data and training."""

import pytest
from music import music_pipeline, write_music


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    music_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def music_folder(tmp_path_factory):
    """Nine files of four formats and many lengths; two of the lengths are the same."""
    folder = tmp_path_factory.mktemp("music")
    lengths = [1.5, 3.0, 4.0, 4.03, 7.7, 12.0, 12.0, 13.4, 5.0]
    endings = ["wav", "flac", "mp3", "ogg"]
    write_music(folder, {f"{'sub/' * (i % 2)}{i}.{endings[i % 4]}": length for i, length in enumerate(lengths)})
    return folder


@pytest.fixture(scope="session")
def token_folder(tmp_path_factory, pipeline_folder, music_folder):
    """Tokens of the music, made by the command, four files a shard."""
    from open_musiclm.cli import main

    output = tmp_path_factory.mktemp("tokens") / "tokens"
    command = ["tokenize", str(music_folder), "--model", str(pipeline_folder), "--output", str(output)]
    assert main([*command, "--files-per-shard", "4", "--device", "cpu"]) == 0
    return output


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What `datasets` caches goes away with the tests."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_threads():
    """`datasets` waits five seconds for pyarrow's threads after each pass over a stream."""
    from datasets.packaged_modules.parquet.parquet import Parquet

    before = getattr(Parquet, "SLEEP_ON_THREADS_SHUTDOWNS", None)
    Parquet.SLEEP_ON_THREADS_SHUTDOWNS = False
    yield
    if before is not None:
        Parquet.SLEEP_ON_THREADS_SHUTDOWNS = before
