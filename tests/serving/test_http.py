"""The HTTP interface over real connections."""

import base64
import contextlib
import io
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import IncompleteRead
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile

pytest.importorskip("prometheus_client", reason="needs the extra `app`")

from served import serving

from open_musiclm.audio import encode_audio, read_metadata
from open_musiclm.serving.requests import MusicRequest


@pytest.fixture(scope="module")
def server(pipe):
    with serving(pipe, upload_bytes=200_000, duration_in_s=10.0) as served:
        yield served


def sound(body: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(body), always_2d=True)[0]


def file_in_base64(length_in_s: float = 2.0, rate: int = 8000) -> str:
    times = np.arange(round(length_in_s * rate)) / rate
    return base64.b64encode(encode_audio(0.5 * np.sin(2 * np.pi * 330 * times), rate)).decode()


def test_an_answer_is_a_file_that_says_how_to_make_it_again(server):
    answer = server.speak(seed=5)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "audio/wav")
    assert sound(answer.body).shape == (8000, 1)
    assert np.abs(sound(answer.body)).max() > 0.01
    told = read_metadata(answer.body)
    assert {name: told[name] for name in ("prompt", "seed", "model")} == {
        "prompt": "calm piano",
        "seed": 5,
        "model": "tiny",
    }
    assert json.loads(answer.headers["X-Settings"]).items() <= told.items()
    again = MusicRequest.from_told(told)
    assert server.speak(input=again.prompt, seed=again.seed, duration=again.duration_in_s).body == answer.body
    assert server.speak(seed=6).body != answer.body
    without_seed = server.speak(seed=None)
    assert server.speak(seed=int(without_seed.headers["X-Seed"])).body == without_seed.body


def test_the_same_seed_gives_the_same_bytes_whatever_else_is_asked(server):
    asked = [{"seed": seed, "input": ("calm piano", "fast drums")[seed % 2]} for seed in range(12)]
    asked += [{"seed": seed, "candidates": 3} for seed in range(3)]
    alone = [server.speak(**each).body for each in asked]
    assert len(set(alone[:12])) == 12
    before = server.figure("batch_rows_count"), server.figure("batch_rows_sum")
    with ThreadPoolExecutor(len(asked)) as threads:
        together = list(threads.map(lambda each: server.speak(**each).body, asked))
    assert together == alone
    batches, rows = server.figure("batch_rows_count") - before[0], server.figure("batch_rows_sum") - before[1]
    assert rows == 12 + 9
    assert batches < 8  # they were made together


@pytest.mark.parametrize("name", ["wav", "pcm"])
def test_sound_that_is_sent_while_it_is_made_is_the_same(server, name):
    whole = server.speak(duration=2.5, response_format="pcm").body
    audio = server.speak(duration=2.5, response_format=name, stream_format="audio")
    assert "Content-Length" not in audio.headers
    assert audio.body[-len(whole) :] == whole
    if name == "wav":
        assert sound(audio.body).shape == (20000, 1)
    events = server.speak(duration=2.5, response_format=name, stream_format="sse")
    assert events.headers["Content-Type"].startswith("text/event-stream")
    told = [json.loads(line.removeprefix("data: ")) for line in events.body.decode().split("\n\n") if line]
    assert len(told) >= 3
    assert told[-1] == {"type": "speech.audio.done", "seed": 0, "duration": 2.5}
    assert b"".join(base64.b64decode(each["audio"]) for each in told[:-1]) == audio.body


@pytest.mark.parametrize("name", ["flac", "mp3", "ogg", "opus"])
def test_formats(server, name):
    answer = server.speak(response_format=name)
    assert abs(len(sound(answer.body)) / soundfile.info(io.BytesIO(answer.body)).samplerate - 1.0) < 0.2
    assert read_metadata(answer.body).get("seed", 0) == 0


@pytest.mark.parametrize(
    ("way", "length"),
    [
        ("continue", 3.0),
        ("replace", 2.0),
        ("extend", 3.0),
        ("vary", 2.0),
        ("repeat", 2.5),
        ("loop", 2.0),
        ("remake", 2.0),
    ],
)
def test_edits(server, way, length):
    asked = {"audio": file_in_base64(), "way": way, "start": 0.5, "stop": 1.0, "duration": 1.0, "seed": 1}
    answer = server.ask("/v1/audio/edits", asked)
    assert answer.status == 200, answer.body
    assert len(sound(answer.body)) == pytest.approx(length * 8000, abs=800)
    assert server.ask("/v1/audio/edits", asked).body == answer.body
    before = sound(base64.b64decode(file_in_base64()))
    if way in ("continue", "replace", "vary", "extend"):
        assert np.abs(sound(answer.body)[:3000] - before[:3000]).max() < 2e-4


def test_a_recording_to_be_like(server):
    answer = server.speak(reference_audio="data:audio/wav;base64," + file_in_base64())
    assert answer.status == 200
    assert answer.body != server.speak().body
    assert json.loads(answer.headers["X-Settings"])["given"] == ["reference"]


WRONG = [
    (422, {"input": 7}),
    (422, {"response_format": "aac"}),
    (422, {"unknown": 1}),
    (422, {"duration": "long"}),
    (422, {"seed": -1}),
    (422, b"{"),
    (400, {"input": ""}),
    (400, {"input": "half \ud800"}),
    (400, {"input": "x" * 1001}),
    (400, {"duration": 0}),
    (400, {"duration": 1e9}),
    (400, {"input": "0:00 calm | again"}),
    (400, {"input": "0.5 * calm + 0 * drums"}),
    (400, {"model": "other"}),
    (400, {"guidance_scale": 3.0}),
    (400, {"attributes": {"tempo": 120}}),
    (400, {"candidates": 1000}),
    (400, {"stream_format": "sse", "response_format": "mp3"}),
    (400, {"stream_format": "audio", "candidates": 2}),
    (400, {"reference_audio": "no base64 "}),
    (400, {"reference_audio": base64.b64encode(b"RIFF nothing").decode()}),
    (400, {"reference_audio": file_in_base64(11.0)}),
    (400, {"reference_audio": base64.b64encode(encode_audio(np.zeros(8000), 8000)).decode()}),
    (413, {"reference_audio": "A" * 1_000_000}),
]


@pytest.mark.parametrize(("status", "asked"), WRONG, ids=lambda value: str(value)[:40])
def test_what_cannot_be_done_is_refused_in_one_form(server, status, asked):
    if isinstance(asked, bytes):
        answer = server.ask("/v1/audio/speech", asked)
    else:
        answer = server.speak(**asked)
    assert answer.status == status, answer.body
    assert set(answer.json) == {"error"}
    assert answer.json["error"]["message"].isprintable()
    assert server.speak().status == 200


def test_the_other_addresses(server):
    assert server.ask("/health").json == {"status": "ok", "models": ["tiny"], "waiting": 0}
    (model,) = server.ask("/v1/models").json["data"]
    assert model["id"] == "tiny"
    assert model["capabilities"]["streams"] == ["semantic", "coarse", "fine"]
    page = server.ask("/docs").body.decode()
    assert "/v1/audio/speech" in page
    assert "http://" not in page.replace("http://127.0.0.1:8000", "")
    assert "https://" not in page
    assert {"/v1/audio/speech", "/v1/audio/edits", "/v1/models", "/health"} <= set(
        server.ask("/openapi.json").json["paths"]
    )
    assert server.ask("/none").status == 404
    assert server.ask("/v1/audio/speech").status == 405
    assert server.figure("audio_seconds_total") > 0


def test_the_key(pipe):
    with serving(pipe, key="secret") as served:
        assert served.speak().status == 200
        served.key = "secrets"
        assert served.speak().status == 401
        served.key = None
        assert served.ask("/v1/models").status == 401
        assert served.ask("/metrics").status == 401
        assert served.ask("/health").status == 200


def leave_in_the_middle(url: str, seconds: float, **fields) -> None:
    """A client that asks and goes away."""
    body = json.dumps({"input": "calm piano", "seed": 0, **fields}).encode()
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port)) as connection:
        head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        time.sleep(seconds)


def test_a_full_queue_a_client_that_leaves_and_a_time_limit(pipe):
    with serving(pipe, queue=1, request_time_in_s=20.0, rows=8) as served:
        with ThreadPoolExecutor(3) as threads:
            leaves = threads.submit(leave_in_the_middle, served.url, 1.5, duration=100)
            time.sleep(0.7)
            waits = threads.submit(served.speak, seed=1)
            time.sleep(0.3)
            refused = served.speak(seed=2)
            assert refused.status == 429
            assert int(refused.headers["Retry-After"]) >= 1
            assert waits.result().status == 200  # as soon as the other one has left
            leaves.result()
        with ThreadPoolExecutor(2) as threads:  # one that leaves while its sound is sent
            threads.submit(leave_in_the_middle, served.url, 1.0, duration=100, stream_format="audio").result()
        deadline = time.monotonic() + 20
        while served.engine.streams and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not served.engine.streams
    with serving(pipe, request_time_in_s=0.5) as served:
        assert served.speak(duration=100).status == 504
        with contextlib.suppress(IncompleteRead):  # its beginning was in time
            assert served.speak(duration=100, stream_format="audio").status == 504


def test_stopping_finishes_what_runs(pipe):
    results = []
    with serving(pipe) as served:
        expected = served.speak(duration=4).body
        asker = threading.Thread(target=lambda: results.append(served.speak(duration=4)))
        asker.start()
        time.sleep(0.2)
    asker.join(30)
    assert [answer.status for answer in results] == [200]
    assert results[0].body == expected
