"""Requests that nobody would write: never a 500, never a file on the disk, and the server still answers afterwards."""

import contextlib
import copy
import json
import os
import random
import socket
import sys
import threading
from urllib.parse import urlsplit

import pytest

pytest.importorskip("prometheus_client", reason="needs the extra `app`")

from served import Served, listening

from open_musiclm.serving.engine import Engine
from open_musiclm.serving.http import create_app
from open_musiclm.serving.limits import Limits

#: requests of random bytes
NUM_RAW = int(os.environ.get("OPEN_MUSICLM_FUZZ_REQUESTS", "150"))
NUM_EXAMPLES = int(os.environ.get("OPEN_MUSICLM_FUZZ_EXAMPLES", "25"))

_opened: list[str] = []
_watched = threading.Event()


def _audit(event: str, arguments: tuple) -> None:
    """Every file that this process opens to write, while it is watched."""
    if _watched.is_set() and event == "open":
        path, mode, flags = arguments
        if isinstance(path, str | bytes) and flags is not None and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            _opened.append(f"{os.fsdecode(path)} ({mode})")


sys.addaudithook(_audit)


@pytest.fixture(scope="module")
def served(pipe):
    engine = Engine(
        copy.copy(pipe), "tiny", Limits(duration_in_s=2.0, variants=2, upload_bytes=50_000, request_time_in_s=20.0)
    )
    with listening(create_app({"tiny": engine})) as url:
        served = Served(engine, url)
        served.speak()  # what is imported by the first request
        yield served


@pytest.fixture
def nothing_on_the_disk():
    """Neither by Python's `open` nor by libsndfile: it writes to what it is given."""
    _opened.clear()
    _watched.set()
    yield
    _watched.clear()
    written = [path for path in _opened if not path.startswith(("/dev/", "/proc/")) and "__pycache__" not in path]
    written = [path for path in written if ".hypothesis" not in path and ".pytest_cache" not in path]
    assert not written


def test_the_description_fuzzed(served, nothing_on_the_disk):
    schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis: pip install schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    seen: set[int] = set()
    for operation in schema.get_all_operations():
        case_strategy = operation.ok().as_strategy()

        @settings(
            max_examples=NUM_EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=case_strategy)
        def ask(case):
            answer = case.call(base_url=served.url)
            seen.add(answer.status_code)
            assert answer.status_code < 500, (case.as_curl_command(), answer.text)
            if answer.status_code >= 400:
                assert answer.json()["error"]["message"], case.as_curl_command()

        ask()
    assert seen >= {200, 422}
    assert served.speak().status == 200


def mangled(drawn: random.Random) -> bytes:
    """A request whose bytes are wrong somewhere."""
    body = {
        "input": drawn.choice(["calm", "\u0000", "0:00 a | 0:01 b", "1 * a - 1 * a", "\ud83d\ude00" * 20, "../../etc/passwd", "0.5 * /etc/passwd"]),
        "duration": drawn.choice([0.2, 0.2, 0.3, 1, 1e-9, -1, 10**400, True, None, "1"]),
        "seed": drawn.choice([0, 2**63 - 1, 2**63, 1.5, None]),
        "attributes": drawn.choice([{}, {"tempo": {"a": [1]}}, {"": ""}, {"melody": "/etc/passwd"}, [], {"x" * 50: None}]),
        "reference_audio": drawn.choice([None, "", "data:,", "AAAA", "data:audio/wav;base64,UklGRg==", "/etc/passwd"]),
        "top_k": drawn.choice([None, 0, 10**30, 3]),
        "temperature": drawn.choice([None, 0, 1e-300, 1.0]),
        "response_format": drawn.choice(["wav", "mp3", "opus", "../x", None]),
        "stream_format": drawn.choice([None, "sse", "audio", "x"]),
        "candidates": drawn.choice([None, 2, -1, 10**9]),
    }  # fmt: skip
    kept = {name: value for name, value in body.items() if drawn.random() < 0.15 or name in ("input", "duration")}
    data = bytearray(json.dumps(kept).encode())
    for _ in range(drawn.choice([0] * 6 + [1, 5])):
        data[drawn.randrange(len(data))] = drawn.randrange(256)
    return bytes(data)


def raw(drawn: random.Random) -> bytes:
    """A request as a line, headers and a body, each of which may be anything."""
    path = drawn.choice(
        ["/v1/audio/speech", "/v1/audio/edits", "/v1/models", "/%00", "/../../etc/passwd", "/v1/audio/speech?x=\x00"]
    )
    method = drawn.choice(["POST", "POST", "POST", "GET", "PUT", "DELETE", "X" * 40, "P\x00ST"])
    body = drawn.choice(
        [mangled(drawn), drawn.randbytes(drawn.randrange(200)), b"[" * 20_000, b'{"a":' * 5000, b"1" * 5000, b""]
    )
    length = drawn.choice([len(body)] * 6 + [0, -1, 10**12, "x", "1" * 100])
    headers = [f"Host: {drawn.choice(['x', '', 'a' * 300])}", f"Content-Length: {length}"]
    headers.append(
        "Content-Type: " + drawn.choice(["application/json"] * 4 + ["text/plain", "multipart/form-data", "\xff"])
    )
    headers += drawn.choice([[], ["Transfer-Encoding: chunked"], ["Authorization: \xff\xfe"], ["X: " + "y" * 5000]])
    return (
        f"{method} {path} HTTP/1.1\r\n".encode("latin-1") + "\r\n".join(headers).encode("latin-1") + b"\r\n\r\n" + body
    )


def answer_to(url: str, data: bytes) -> bytes:
    where = urlsplit(url)
    told = b""
    # it may close the connection, or wait for the rest of what was promised
    with contextlib.suppress(OSError), socket.create_connection((where.hostname, where.port), 1.0) as connection:
        connection.sendall(data)
        while b"\r\n\r\n" not in told and (part := connection.recv(65536)):
            told += part
    return told


def test_raw_bytes(served, nothing_on_the_disk, caplog):
    drawn = random.Random(int(os.environ.get("OPEN_MUSICLM_FUZZ_SEED", "0")))
    statuses, lines = set(), set()
    for number in range(NUM_RAW):
        if number % 2:
            data = mangled(drawn)
            answer = served.ask("/v1/audio/speech", data)
            statuses.add(answer.status)
            assert answer.status < 500, (data, answer.body)
            continue
        data = raw(drawn)
        line = answer_to(served.url, data).split(b"\r\n", 1)[0]
        lines.add(line)
        assert not line.startswith(b"HTTP/1.1 5"), (data[:500], line)
    assert {200, 422} <= statuses
    assert len(lines) > 3
    assert served.speak().status == 200
    assert served.comes_to_rest()
    assert not [record.getMessage() for record in caplog.records if record.exc_info]
