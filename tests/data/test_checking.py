"""Tokens that cannot be trained on are found when the dataset is opened."""

import shutil

import numpy as np
import pytest
from token_shards import write_dataset

from open_musiclm.data import TokenDataset, TokenStreamDataset, checking
from open_musiclm.data.token_dataset import check_shards


def no_frames(rows):
    rows[1]["semantic_token_ids"] = np.zeros((0, 1), np.uint16)


def beyond(rows):
    rows[1]["semantic_token_ids"][7] = 20


def twice(rows):
    rows[1]["index"] = 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_frames, r"tokens-00001-of-00002.*'3\.wav': semantic_token_ids has no frames"),
        (beyond, r"'3\.wav': semantic_token_ids holds the id 20, and its codebooks have 20"),
        (twice, r"File number 0 is in tokens-00000.* and in tokens-00001"),
    ],
)
def test_what_cannot_be_trained_on_is_named(tmp_path, spoil, message):
    with pytest.raises(ValueError, match=message):
        check_shards(write_dataset(tmp_path / "tokens", spoil))


def test_part_of_the_codebooks_is_named(tmp_path):
    """As a shard has them that another program wrote."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = write_dataset(tmp_path / "tokens")
    shard = folder / "data" / "tokens-00001-of-00002.parquet"
    table = pq.read_table(shard)
    place = table.column_names.index("clap_token_ids")
    column = pa.array([[[1, 2, 3]], [[1, 2]]], type=pa.list_(pa.list_(pa.uint16())))
    pq.write_table(
        table.set_column(place, "clap_token_ids", column).replace_schema_metadata(table.schema.metadata), shard
    )
    with pytest.raises(ValueError, match=r"'3\.wav': clap_token_ids has 2 of its 3 codebooks"):
        check_shards(folder)


def test_a_copied_and_a_cut_shard_are_named(tmp_path):
    folder = write_dataset(tmp_path / "tokens")
    first, second = sorted((folder / "data").iterdir())
    content = second.read_bytes()
    shutil.copy(first, second)
    with pytest.raises(ValueError, match="File number 0 is in"):
        check_shards(folder)
    damaged = bytearray(content)
    damaged[4:400] = bytes(396)
    second.write_bytes(bytes(damaged))
    with pytest.raises(ValueError, match=r"tokens-00001-of-00002.*damaged"):
        check_shards(folder)


def changed(folder, change):
    """The second shard as another program may write it."""
    import pyarrow.parquet as pq

    shard = folder / "data" / "tokens-00001-of-00002.parquet"
    table = pq.read_table(shard)
    made = change(table)
    metadata = {key: value for key, value in table.schema.metadata.items() if key != b"huggingface"}
    pq.write_table(made.replace_schema_metadata(metadata), shard)
    return folder


def test_a_row_group_without_rows_is_refused_when_it_is_opened(tmp_path):
    folder = changed(write_dataset(tmp_path / "tokens"), lambda table: table.slice(0, 0))
    for load in (TokenDataset.load, TokenStreamDataset.load):
        with pytest.raises(ValueError, match=r"tokens-00001-of-00002.*a row group without rows"):
            load(folder)


@pytest.mark.parametrize("shard_without", [0, 1])
def test_one_shards_columns_do_not_decide_for_the_others(tmp_path, shard_without):
    """A shard without any caption, as another program writes it, has a column of no type."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = write_dataset(tmp_path / "tokens")
    for number, shard in enumerate(sorted((folder / "data").iterdir())):
        table = pq.read_table(shard)
        values = pa.array([None, None]) if number == shard_without else pa.array(["calm", "fast"])
        metadata = {key: value for key, value in table.schema.metadata.items() if key != b"huggingface"}
        place = table.column_names.index("caption")
        pq.write_table(table.set_column(place, "caption", values).replace_schema_metadata(metadata), shard)
    expected = [None, None, "calm", "fast"] if shard_without == 0 else ["calm", "fast", None, None]
    tokens = TokenDataset.load(folder, crops_per_file=1, cache_dir=tmp_path / "cache")
    assert [tokens[place]["caption"] for place in range(4)] == expected
    stream = TokenStreamDataset.load(folder, shuffle_buffer=0)
    stream.endless = False
    assert [row["caption"] for row in stream] == expected


@pytest.mark.parametrize("content", [b'{"format": ' + b"9" * 5000 + b"}", b"[" * 100_000, b"\xff\xfe", b"{"])
def test_a_record_that_cannot_be_read_is_named(tmp_path, content):
    folder = write_dataset(tmp_path / "tokens")
    (folder / "tokens.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"tokens\.json is no record of a token dataset") as caught:
        check_shards(folder)
    assert "\n" not in str(caught.value)


def test_a_sound_dataset_is_read_once(tmp_path, monkeypatch):
    folder = write_dataset(tmp_path / "tokens")
    looked_at = []
    original = checking._check_shard
    monkeypatch.setattr(checking, "_check_shard", lambda *given: looked_at.append(given[0].name) or original(*given))
    for _ in range(2):
        assert len(check_shards(folder)[1]) == 2
    assert len(looked_at) == 2
    shard = folder / "data" / "tokens-00001-of-00002.parquet"
    shard.write_bytes(shard.read_bytes())  # another time of change
    check_shards(folder)
    assert len(looked_at) == 4
