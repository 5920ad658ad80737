"""Tokenizing as a datatrove step: the same work on one machine, on Slurm or on Ray.

```python
from datatrove.executor import SlurmPipelineExecutor

step = TokenizeStep("music/", model="me/my-musiclm", output="tokens/", device="cuda")
SlurmPipelineExecutor(job_name="tokens", pipeline=[step], tasks=64, time="10:00:00", partition="gpu").run()
```

Which task makes which shard is fixed by its rank; the step itself skips the shards that are there, so the number of
tasks may change between two runs.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from .discovery import find_audio
from .plan import FILES_PER_SHARD, TokenizingPlan
from .tokenizer import MusicTokenizer
from .tokenizing import run_tokenizing


class TokenizeStep(PipelineStep):
    """Makes the shards `rank`, `rank + world_size`, … of a token dataset.

    Args:
        source: a folder of audio, or a manifest.
        model: a pipeline's folder or Hub id.
        output: the dataset's folder, seen by every task.
        codebooks, revision, device, settings: for `MusicTokenizer.from_pretrained`.
        files_per_shard: files of one shard.
        num_threads: threads that PyTorch may use in a task; by default its own choice.
        progress: show each task's bar on a line of the screen.
    """

    name = "open-musiclm tokenize"
    type = "TOKENIZER"

    def __init__(
        self,
        source: str | os.PathLike,
        model: str | os.PathLike,
        output: str | os.PathLike,
        codebooks: str | os.PathLike | None = None,
        revision: str | None = None,
        device: str = "cpu",
        settings: dict[str, Any] | None = None,
        files_per_shard: int = FILES_PER_SHARD,
        decode_threads: int = 2,
        num_threads: int | None = None,
        progress: bool = False,
    ):
        super().__init__()
        self.source, self.model, self.output = str(source), str(model), str(output)
        self.codebooks = None if codebooks is None else str(codebooks)
        self.revision, self.device, self.settings = revision, device, dict(settings or {})
        self.files_per_shard, self.decode_threads = files_per_shard, decode_threads
        self.num_threads, self.progress = num_threads, progress

    def prepare(self) -> tuple[TokenizingPlan, MusicTokenizer]:
        """Load the networks and plan the shards."""
        files = find_audio(self.source)
        tokenizer = MusicTokenizer.from_pretrained(
            self.model, self.codebooks, self.device, self.revision, **self.settings
        )
        plan = TokenizingPlan.make(
            files, Path(self.output), tokenizer.streams, tokenizer.describe(), self.files_per_shard
        )
        return plan, tokenizer

    def run(self, data=None, rank: int = 0, world_size: int = 1):
        """Make this task's shards; passes on what comes in."""
        if self.num_threads is not None:
            import torch

            torch.set_num_threads(self.num_threads)
        plan, tokenizer = self.prepare()
        with self.track_time("shards"):
            run_tokenizing(plan, tokenizer, rank, world_size, self.decode_threads, self.progress, line=rank)
        self.stat_update("shards", value=len(plan.shards_of(rank, world_size)))
        if data is not None:
            yield from data
