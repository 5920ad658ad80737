import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi

from open_musiclm.data import TokenDataset, TokenStreamDataset


@pytest.fixture(scope="module")
def tokens(token_folder, tmp_path_factory):
    return TokenDataset.load(token_folder, crops_per_file=3, cache_dir=tmp_path_factory.mktemp("cache"))


def test_every_file_comes_as_often_as_asked_with_another_key(tokens):
    assert len(tokens) == 27
    keys = [tokens[index]["crop_key"] for index in range(27)]
    assert sorted(keys) == [(file, crop) for file in range(9) for crop in range(3)]
    assert tokens[-1]["crop_key"] == keys[-1]
    with pytest.raises(IndexError):
        tokens[27]


def test_rows_are_what_was_written(tokens, music_folder):
    for index in range(9):
        row = tokens[index]
        num_seconds = row["duration_in_s"]
        assert (music_folder / row["path"]).is_file()
        assert row["semantic_token_ids"].dtype == np.uint16
        assert len(row["coarse_token_ids"]) == len(row["fine_token_ids"]) == pytest.approx(50 * num_seconds, abs=1)
        assert len(row["semantic_token_ids"]) == pytest.approx(25 * num_seconds - 1, abs=1)
        assert len(row["clap_token_ids"]) == max(int(num_seconds - 10), 0) + 1


@pytest.mark.parametrize("name", ["a" * 300, "a\x00b", "./nothing"])
def test_a_name_of_no_dataset_is_refused(name):
    for load in (TokenDataset.load, TokenStreamDataset.load):
        with pytest.raises(ValueError, match="There is no token dataset"):
            load(name)


def test_the_split_is_fixed_and_complete(tokens):
    train, held_out = tokens.split(0.3, seed=1)
    again, _ = tokens.split(0.3, seed=1)
    paths = lambda data: {data[index]["path"] for index in range(data.num_files)}  # noqa: E731
    assert (train.num_files, held_out.num_files, len(held_out)) == (6, 3, 3)
    assert paths(train) == paths(again)
    assert not paths(train) & paths(held_out)
    assert len(paths(train) | paths(held_out)) == 9
    with pytest.raises(ValueError, match="Cannot hold out"):
        tokens.split(9)


def test_a_stream_gives_each_file_once_a_pass(token_folder):
    stream = TokenStreamDataset.load(token_folder)
    stream.endless = False
    rows = {row["crop_key"]: row for row in stream}
    assert sorted(rows) == [(file, 0) for file in range(9)]
    stored = TokenDataset.load(token_folder)
    for index in range(9):
        assert np.array_equal(stored[index]["fine_token_ids"], rows[index, 0]["fine_token_ids"])


def test_a_stream_goes_on_where_its_state_was_taken(token_folder):
    def stream():
        return TokenStreamDataset.load(token_folder, shuffle_buffer=0)

    first = stream()
    iterator = iter(first)
    for _ in range(4):
        next(iterator)
    state = first.state_dict()
    expected = [next(iterator)["crop_key"] for _ in range(5)]
    second = stream()
    second.load_state_dict(state)
    resumed = iter(second)
    assert [next(resumed)["crop_key"] for _ in range(5)] == expected


def test_a_stream_is_dealt_out_to_processes(token_folder):
    keys = []
    for rank in range(3):
        part = TokenStreamDataset.load(token_folder).split_by_node(rank, 3)
        part.endless = False
        keys += [row["crop_key"][0] for row in part]
    assert sorted(keys) == list(range(9))


def test_incomplete_and_mixed_datasets_are_refused(token_folder, tmp_path):
    missing, mixed = tmp_path / "missing", tmp_path / "mixed"
    for folder in (missing, mixed):
        shutil.copytree(token_folder, folder)
    (missing / "data" / "tokens-00001-of-00003.parquet").unlink()
    with pytest.raises(ValueError, match="2 of its 3 shards"):
        TokenDataset.load(missing)
    record = (mixed / "tokens.json").read_text()
    (mixed / "tokens.json").write_text(record.replace('"crop_in_s": 4.0', '"crop_in_s": 5.0'))
    with pytest.raises(ValueError, match="made in another way"):
        TokenDataset.load(mixed)
    with pytest.raises(ValueError, match="no token dataset"):
        TokenDataset.load(tmp_path)
    with pytest.raises(ValueError, match="neither a folder nor a Hub id"):
        TokenDataset.load(tmp_path / "nothing")


def test_a_dataset_on_the_hub_is_read_as_its_folder(hub, token, token_folder, tmp_path):
    api = HfApi(token=token)
    api.create_repo("someone/tokens", repo_type="dataset")
    api.upload_folder(repo_id="someone/tokens", folder_path=token_folder, repo_type="dataset")
    there, here = TokenDataset.load("someone/tokens", cache_dir=tmp_path), TokenDataset.load(token_folder)
    assert there.record == here.record
    assert there.num_files == 9
    stream = TokenStreamDataset.load("someone/tokens")
    stream.endless = False
    streamed = {row["crop_key"][0]: row for row in stream}
    assert sorted(streamed) == list(range(9))
    for index in range(9):
        for row in (there[index], streamed[index]):
            assert row["path"] == here[index]["path"]
            assert np.array_equal(row["coarse_token_ids"], here[index]["coarse_token_ids"])


@pytest.mark.parametrize("name", ["tok [v2]", "a::b", "what?", "star*", "[x]{y}"])
@pytest.mark.parametrize("kind", [TokenDataset, TokenStreamDataset])
def test_a_folders_name_is_no_pattern_and_no_address(tmp_path, name, kind):
    saved = Path(__file__).parents[1] / "saved" / "first_tokens"
    shutil.copytree(saved, tmp_path / name)
    first = {TokenDataset: lambda tokens: tokens[0], TokenStreamDataset: lambda tokens: next(iter(tokens))}[kind]
    row = first(kind.load(tmp_path / name))
    plain = first(kind.load(saved))
    assert row["path"] == plain["path"]
