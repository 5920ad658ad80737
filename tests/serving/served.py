"""A server of this process at a port of its own, as `open-musiclm serve` starts it."""

from __future__ import annotations

import copy
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from open_musiclm.serving.engine import Engine
from open_musiclm.serving.http import create_app
from open_musiclm.serving.limits import Limits


class Answer:
    def __init__(self, status: int, headers, body: bytes):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


class Served:
    """Its address, and a client."""

    def __init__(self, engine: Engine, url: str, key: str | None = None):
        self.engine, self.url, self.key = engine, url, key

    def ask(self, path: str, body: object = None, timeout: float = 60, **headers: str) -> Answer:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json", **headers})
        if self.key:
            request.add_header("Authorization", f"Bearer {self.key}")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read())

    def speak(self, **fields) -> Answer:
        return self.ask("/v1/audio/speech", {"input": "calm piano", "duration": 1.0, "seed": 0, **fields})

    def figure(self, name: str) -> float:
        """A figure of /metrics, over all of its labels."""
        lines = self.ask("/metrics").body.decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"open_musiclm_{name}"))

    def comes_to_rest(self, within_in_s: float = 5.0) -> bool:
        """Whether nothing is under way; an answer is there a moment before its maker notes that it is done."""
        ends = time.monotonic() + within_in_s
        while self.engine.under_way and time.monotonic() < ends:
            time.sleep(0.01)
        return not self.engine.under_way


@contextmanager
def listening(app) -> Iterator[str]:
    """An app at a free port of this machine; its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


@contextmanager
def serving(pipe, key: str | None = None, **limits) -> Iterator[Served]:
    """A server of a pipeline (which is copied: an engine's thread owns its own)."""
    engine = Engine(copy.copy(pipe), "tiny", Limits(**limits))
    with listening(create_app({"tiny": engine}, key)) as url:
        yield Served(engine, url, key)
    assert not engine.thread.is_alive()
