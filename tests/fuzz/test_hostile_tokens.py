"""Item 8: a token dataset opens and every crop can be drawn from it, or it is refused when it is opened."""

import json
import shutil
from contextlib import suppress

import numpy as np
import pytest
from tally import JSON_VALUES, Tally, damaged, damaged_json, pick, seeded
from token_shards import STREAMS, write_dataset

from open_musiclm.data import TokenDataset
from open_musiclm.data.token_dataset import TokenStreamDataset


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """What `datasets` caches goes away with the tests."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = before


def odd_column(random):
    """Lists of ids as another program may write them: parts of frames, none, of another type, none at all."""
    import pyarrow as pa

    kind = int(random.integers(8))
    rows = [[[1, 2, 3]], [[1, 2, 3]]]
    rows[int(random.integers(2))] = pick(
        random, ([], [[1, 2]], [[1, 2, 3], [1]], [[]], [[1, 2, 3, 4]], None, [None], [[1, None, 3]], [[1, 2, 65_535]])
    )
    if kind == 0:
        return pa.array([["a"], ["b"]])
    if kind == 1:
        return pa.array([1, 2], type=pa.int64())
    if kind == 2:
        return pa.array([[[[1]]], [[[2]]]])
    if kind == 3:
        return pa.array([None, None])
    if kind == 4:
        return pa.array([[[-1.5, 2.0, 3.0]], [[1.0, 2.0, 3.0]]])
    if kind == 5:
        return pa.array([[[-1, 2, 3]], [[1, 2, 3]]], type=pa.list_(pa.list_(pa.int32())))
    if kind == 6:
        return pa.array([[1, 2, 3], [1, 2, 3]], type=pa.list_(pa.uint16()))
    return pa.array(rows, type=pa.list_(pa.list_(pa.uint16())))


def with_odd_column(shard, random) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(shard)
    name = pick(
        random, ("clap_token_ids", "semantic_token_ids", "mood_token_ids", "index", "path", "duration_in_s", "caption")
    )
    chance = random.random()
    if chance < 0.15:
        changed = table.drop_columns([name])
    elif chance < 0.25:
        changed = pa.concat_tables([table, table])
    elif chance < 0.3:
        changed = table.slice(0, 0)
    else:
        column = odd_column(random)
        if name in ("index", "path", "duration_in_s", "caption"):
            column = pick(
                random,
                (
                    pa.array([0, 0]),
                    pa.array([None, None]),
                    pa.array(["a", "b"]),
                    pa.array([1.5, np.nan]),
                    pa.array([2**40, -1]),
                ),
            )
        changed = table.set_column(table.column_names.index(name), name, column)
    metadata = dict(table.schema.metadata)
    if random.random() < 0.2:
        metadata[b"open_musiclm"] = damaged_json(metadata[b"open_musiclm"], random)
    if random.random() < 0.5:
        metadata.pop(b"huggingface", None)
    pq.write_table(changed.replace_schema_metadata(metadata), shard)


def spoil(folder, random) -> None:
    shards = sorted((folder / "data").iterdir())
    shard, other = (shards[place] for place in random.permutation(2))
    kind = int(random.integers(8))
    if kind < 3:
        with_odd_column(shard, random)
    elif kind == 3:
        shard.write_bytes(damaged(shard.read_bytes(), random))
    elif kind == 4:
        record = folder / "tokens.json"
        record.write_bytes(damaged_json(record.read_bytes(), random))
    elif kind == 5:
        table = json.loads((folder / "tokens.json").read_text())
        field = pick(
            random,
            [
                "codebook_size",
                "num_codebooks",
                "frame_rate",
                "name",
                "optional",
                "vocabulary",
                "source",
                "pattern",
                "new",
            ],
        )
        pick(random, table["streams"])[field] = pick(random, JSON_VALUES)
        (folder / "tokens.json").write_text(json.dumps(table))
    elif kind == 6:
        chance = int(random.integers(5))
        if chance == 0:
            shutil.copy(other, shard)
        elif chance == 1:
            shard.unlink()
        elif chance == 2:
            shutil.copy(shard, shard.with_name("tokens-00002-of-00002.parquet"))
        elif chance == 3:
            shard.rename(shard.with_name("x.parquet"))
        else:
            shard.unlink()
            shard.symlink_to(shard.name)
    else:
        spoil(folder, random)
        with suppress(OSError, ValueError, LookupError, TypeError):  # what is damaged already cannot take all damage
            spoil(folder, random)


def check(rows) -> None:
    for row in rows:
        for stream in STREAMS:
            tokens = row[stream.argument]
            assert tokens.ndim == 2, f"{stream.name} has the shape {tokens.shape}"
            assert tokens.shape[1] == stream.num_codebooks, f"{stream.name} has the shape {tokens.shape}"
            assert len(tokens) or stream.optional, f"{stream.name} is empty"
            assert not len(tokens) or 0 <= int(tokens.min()) <= int(tokens.max()) < stream.codebook_size, (
                f"ids of {stream.name}"
            )


@pytest.mark.filterwarnings("ignore")
def test_damaged_token_datasets(tmp_path, number):
    tally = Tally("8 token datasets damaged")
    sound = write_dataset(tmp_path / "sound")

    def read(folder, as_stream):
        if as_stream:
            check(
                TokenStreamDataset(
                    TokenStreamDataset.load(folder, shuffle_buffer=0).table,
                    TokenStreamDataset.load(folder).record,
                    0,
                    endless=False,
                )
            )
            return
        dataset = TokenDataset.load(folder, crops_per_file=1)
        names = [stream.name for stream in dataset.record.streams]
        assert names == [stream.name for stream in STREAMS], names
        check(dataset[place] for place in range(len(dataset)))

    for index in range(number(40, 2500)):
        random = seeded(index)
        folder = shutil.copytree(sound, tmp_path / f"tokens-{index}")
        spoil(folder, random)
        tally.attempt(index, lambda folder=folder, index=index: read(folder, index % 2 == 1))
        shutil.rmtree(folder)
    tally.finish()
