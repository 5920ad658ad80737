"""What a server tells Prometheus."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PREFIX = "open_musiclm_"


class Metrics:
    """Of all models of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of_model: dict[str, Any] = {"labelnames": ("model",), "registry": self.registry}
        self.queue = Gauge(f"{PREFIX}queue_requests", "Requests that wait", **of_model)
        self.streams = Gauge(f"{PREFIX}streams", "Requests whose sound is sent while it is made", **of_model)
        self.batch_rows = Histogram(
            f"{PREFIX}batch_rows", "Waveforms made together", buckets=(1, 2, 4, 8, 16, 32, 64, 128), **of_model
        )
        self.audio = Counter(f"{PREFIX}audio_seconds", "Sound made, in seconds", **of_model)
        self.work = Counter(f"{PREFIX}work_seconds", "Time in which sound was made, in seconds", **of_model)
        self.speed = Gauge(
            f"{PREFIX}audio_seconds_per_second", "Of the last batch: sound a second of work", **of_model
        )
        self.out_of_memory = Counter(f"{PREFIX}out_of_memory", "Batches that did not fit into the memory", **of_model)
        self.answers = Counter(
            f"{PREFIX}http_answers", "Answers by their status", ("path", "status"), registry=self.registry
        )
        self.answer_time = Histogram(
            f"{PREFIX}http_answer_seconds",
            "From a request to its answer",
            ("path",),
            buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300),
            registry=self.registry,
        )

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
