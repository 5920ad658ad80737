"""From a folder of audio to a dataset of tokens.

    find_audio ── files ──→ run_tokenizing ── parquet shards ──→ TokenDataset ──→ training

Needs the extra `train` (`pip install open-musiclm[train]`).
"""

import importlib
from typing import Any

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


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value
