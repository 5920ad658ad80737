"""A small token dataset of random tokens, made without networks."""

import numpy as np

from open_musiclm.data.records import TokenRecord
from open_musiclm.data.shards import write_shard
from open_musiclm.models.streams import TokenStream

STREAMS = (TokenStream("clap", 16, 3), TokenStream("semantic", 20, 1, 25.0), TokenStream("mood", 4, optional=True))


def write_dataset(folder, spoil=None):
    """Two shards of two files; `spoil` changes the rows of the second one."""
    record = TokenRecord(STREAMS, {}, {"num_files": 4, "files_per_shard": 2, "list": "x"})
    random = np.random.default_rng(0)
    (folder / "data").mkdir(parents=True)
    (folder / "tokens.json").write_text(record.to_json())
    for shard in range(2):
        rows = [
            {
                "index": index,
                "path": f"{index}.wav",
                "duration_in_s": 2.0,
                "caption": None,
                "metadata": None,
                "clap_token_ids": random.integers(16, size=(1, 3)).astype(np.uint16),
                "semantic_token_ids": random.integers(20, size=(49, 1)).astype(np.uint16),
                "mood_token_ids": random.integers(4, size=(index % 2, 1)).astype(np.uint16),
            }
            for index in (2 * shard, 2 * shard + 1)
        ]
        if shard == 1 and spoil is not None:
            spoil(rows)
        write_shard(folder / "data" / f"tokens-{shard:05d}-of-00002.parquet", rows, record)
    return folder
