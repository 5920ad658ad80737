"""Making a token dataset: shard by shard, resumable after any interruption, the same whoever makes which shard."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from .decoding import DecodedAudio, SkippedFile, decode_ahead
from .plan import TokenizingPlan
from .records import RECORD_FILE, remove_remains, write_lines, write_whole
from .shards import known_by_stream, metadata_json, num_rows, skipped_path, total_duration, write_shard
from .tokenizer import MusicTokenizer

REPORT_FILE = "report.json"


def run_tokenizing(
    plan: TokenizingPlan,
    tokenizer: MusicTokenizer,
    worker: int = 0,
    num_workers: int = 1,
    decode_threads: int = 2,
    progress: bool = True,
    line: int | None = None,
) -> dict[str, Any] | None:
    """Make the shards of one worker that are not there yet.

    Args:
        worker, num_workers: which of several workers this is; the union of all is what one alone makes.
        decode_threads: threads that read and resample audio while the networks compute.
        progress: show a bar with files, hours of audio and the real-time factor.
        line: of the screen, where several workers show their bars on one.

    Returns:
        The report of the whole dataset if it is complete now, else `None`.
    """
    plan.start()
    shards = plan.shards_of(worker, num_workers)
    todo = [shard for shard in shards if not plan.shard_path(shard).is_file()]
    bar = _ProgressBar(
        total=sum(len(plan.files_of(shard)) for shard in shards),
        done=sum(len(plan.files_of(shard)) for shard in set(shards) - set(todo)),
        show=progress,
        worker=worker,
        num_workers=num_workers,
        line=line,
    )
    with bar:
        for shard in todo:
            remove_remains(plan.shard_path(shard))
            remove_remains(skipped_path(plan.output, shard))
            rows, skipped = make_rows(plan, tokenizer, shard, decode_threads, bar.file_done)
            # first what was left out, then the shard: a shard that is there is complete
            write_lines(skipped_path(plan.output, shard), skipped)
            write_shard(plan.shard_path(shard), rows, plan.record)
    return write_report(plan)


def make_rows(
    plan: TokenizingPlan,
    tokenizer: MusicTokenizer,
    shard: int,
    decode_threads: int = 2,
    on_file: Callable[[float], None] | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of one shard, and what was left out of it."""
    indices = plan.files_of(shard)
    files = [plan.files[index] for index in indices]
    skipped: list[dict[str, Any]] = []

    def usable() -> Iterator[tuple[tuple[int, float], DecodedAudio]]:
        settings = tokenizer.settings
        decoded = decode_ahead(
            files,
            tokenizer.sampling_rates,
            settings.min_length_in_s,
            decode_threads,
            settings.silence_in_db,
            several_channels=tokenizer.several_channels,
        )
        for index, (file, audio) in zip(indices, decoded, strict=True):
            if isinstance(audio, SkippedFile):
                skipped.append({"index": index, "path": file.name, "reason": audio.reason, "detail": audio.detail})
                if on_file is not None:
                    on_file(0.0)
            else:
                yield (index, audio.duration_in_s), replace(audio, about=file.metadata)

    rows = []
    for (index, duration), tokens in tokenizer.tokenize(usable()):
        file = plan.files[index]
        rows.append(
            {
                "index": index,
                "path": file.name,
                "duration_in_s": duration,
                "caption": file.caption,
                "metadata": metadata_json(file.metadata),
                **tokens,
            }
        )
        if on_file is not None:
            on_file(duration)
    return rows, skipped


def read_skipped(output: Path, num_shards: int) -> list[dict[str, Any]]:
    """What was left out of a token dataset, in the order of the source."""
    return [
        json.loads(line)
        for shard in range(num_shards)
        for line in skipped_path(output, shard).read_text(encoding="utf-8").splitlines()
    ]


def write_report(plan: TokenizingPlan) -> dict[str, Any] | None:
    """Write `report.json` beside the shards if they are all there; `None` while some are missing."""
    paths = [plan.shard_path(shard) for shard in range(plan.num_shards)]
    if not all(path.is_file() for path in paths):
        return None
    for name in (RECORD_FILE, "README.md"):
        remove_remains(plan.output / name)
    skipped = read_skipped(plan.output, plan.num_shards)
    report = {
        "num_files": len(plan.files),
        "num_tokenized": sum(num_rows(path) for path in paths),
        "num_skipped": len(skipped),
        "hours": round(sum(total_duration(path) for path in paths) / 3600, 6),
        "skipped_by_reason": dict(sorted(Counter(row["reason"] for row in skipped).items())),
        "skipped": skipped,
    }
    known = known_by_stream(plan.record, paths)
    if known:
        report["known"] = known
    write_whole(plan.output / REPORT_FILE, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    return report


class _ProgressBar:
    """Files, hours of audio, and how many times faster than real time."""

    def __init__(self, total: int, done: int, show: bool, worker: int, num_workers: int, line: int | None):
        from tqdm import tqdm

        self.bar = tqdm(
            desc=f"worker {worker + 1} of {num_workers}" if num_workers > 1 else None,
            total=total,
            initial=done,
            unit=" files",
            disable=None if show else True,
            dynamic_ncols=True,
            position=line,
        )
        self.started = time.perf_counter()
        self.seconds = 0.0

    def __enter__(self) -> _ProgressBar:
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()

    def file_done(self, duration_in_s: float) -> None:
        self.seconds += duration_in_s
        factor = self.seconds / max(time.perf_counter() - self.started, 1e-9)
        self.bar.set_postfix_str(f"{self.seconds / 3600:.2f} h of audio, {factor:.1f}x real time", refresh=False)
        self.bar.update(1)
