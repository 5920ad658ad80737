"""Tokenizing as a datatrove step: the work of `open-musiclm tokenize` on Slurm or on Ray. It needs the extra `cluster`.

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
from typing import Any

from ..extras import extra_needed
from .job import TokenizingJob

with extra_needed():
    from datatrove.pipeline.base import PipelineStep


class TokenizeStep(PipelineStep):
    """Makes the shards `rank`, `rank + world_size`, … of a token dataset.

    Args:
        source, model, output, settings, job_settings: see [`TokenizingJob`].
    """

    name = "open-musiclm tokenize"
    type = "TOKENIZER"

    def __init__(
        self,
        source: str | os.PathLike,
        model: str | os.PathLike,
        output: str | os.PathLike,
        settings: dict[str, Any] | None = None,
        **job_settings: Any,
    ):
        super().__init__()
        self.job = TokenizingJob(str(source), str(model), str(output), settings=settings or {}, **job_settings)

    def run(self, data=None, rank: int = 0, world_size: int = 1):
        """Make this task's shards; passes on what comes in."""
        with self.track_time("shards"):
            num_shards = self.job.run(rank, world_size)
        self.stat_update("shards", value=num_shards)
        if data is not None:
            yield from data
