"""From a folder of audio to a dataset of tokens.

    find_audio ── files ──→ run_tokenizing ── parquet shards ──→ TokenDataset ──→ training

Needs the extra `train` (`pip install open-musiclm[train]`).
"""

from ..lazily import attributes_from

_MODULE_OF = {
    "AudioFile": "discovery",
    "find_audio": "discovery",
    "MusicTokenizer": "tokenizer",
    "TokenRecord": "records",
    "TokenizingPlan": "plan",
    "run_tokenizing": "tokenizing",
    "TokenizingJob": "job",
    "TokenizeStep": "datatrove_step",
    "TokenDataset": "token_dataset",
    "TokenStreamDataset": "token_dataset",
    "load_musiclm_dataset": "corpora",
    "write_manifest": "corpora",
}

__all__ = [*_MODULE_OF]


__getattr__ = attributes_from(__name__, _MODULE_OF)
