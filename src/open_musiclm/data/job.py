"""A tokenizing job: what is to be made of what, and this process's share of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from .discovery import find_audio
from .plan import FILES_PER_SHARD, TokenizingPlan
from .tokenizer import MusicTokenizer
from .tokenizing import run_tokenizing


@dataclass(frozen=True)
class TokenizingJob:
    """Tokens of a folder of audio, by a pipeline's networks.

    Args:
        source: a folder of audio, or a manifest.
        model: a pipeline's folder or Hub id.
        output: the dataset's folder, seen by every process.
        codebooks, revision, device, settings: for `MusicTokenizer.from_pretrained`.
        attributes, labels_from, confidences: streams that say something about a piece, likewise.
        files_per_shard: files of one shard.
        decode_threads: threads that read audio.
        num_threads: threads that PyTorch may use; by default its own choice.
        progress: show a bar.
    """

    source: str
    model: str
    output: str
    codebooks: str | None = None
    revision: str | None = None
    device: str = "cpu"
    settings: dict[str, Any] = field(default_factory=dict)
    attributes: Sequence[str] = ()
    labels_from: str = "stage"
    confidences: Mapping[str, float] = field(default_factory=dict)
    files_per_shard: int = FILES_PER_SHARD
    decode_threads: int = 2
    num_threads: int | None = None
    progress: bool = False

    def prepare(self) -> tuple[TokenizingPlan, MusicTokenizer]:
        """Load the networks and plan the shards."""
        files = find_audio(self.source)
        tokenizer = MusicTokenizer.from_pretrained(
            self.model,
            self.codebooks,
            self.device,
            self.revision,
            attributes=self.attributes,
            pieces=[file.metadata for file in files],
            labels_from=self.labels_from,
            confidences=self.confidences,
            **self.settings,
        )
        plan = TokenizingPlan.make(
            files, Path(self.output), tokenizer.streams, tokenizer.describe(), self.files_per_shard
        )
        return plan, tokenizer

    def run(self, worker: int = 0, num_workers: int = 1) -> int:
        """Make one worker's shards; returns how many those are."""
        if self.num_threads is not None:
            import torch

            torch.set_num_threads(self.num_threads)
        plan, tokenizer = self.prepare()
        run_tokenizing(plan, tokenizer, worker, num_workers, self.decode_threads, self.progress, line=worker)
        return len(plan.shards_of(worker, num_workers))

    def run_in_processes(self, num_workers: int) -> None:
        """The whole job in several processes on this machine; what one of them raises is raised here."""
        from tqdm import tqdm

        context = get_context("spawn")  # a process with a GPU or threads is not forked
        with ProcessPoolExecutor(num_workers, context, tqdm.set_lock, (context.RLock(),)) as pool:
            waiting = [pool.submit(_quiet_run, self, worker, num_workers) for worker in range(num_workers)]
            for each in waiting:
                each.result()


def _quiet_run(job: TokenizingJob, worker: int, num_workers: int) -> int:
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    return job.run(worker, num_workers)
