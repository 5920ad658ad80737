"""A Space and an endpoint's handler, written to the Hub of the tests, downloaded, and run as they came."""

import base64
import io
import json
import os
import re
import subprocess
import sys
import time
import urllib.request

import pytest
import soundfile
from huggingface_hub import snapshot_download

pytest.importorskip("gradio", reason="needs the extra `app`")

from open_musiclm.hub.space import space_files

MODEL = "someone/tiny-musiclm"


@pytest.fixture
def published(hub, token, pipe):
    package = "open-musiclm[app] @ git+https://example.org/x"
    pipe.push_to_hub(MODEL, token=token, endpoint=True, space="someone/tiny-page", package=package)
    return MODEL


CALL = """
import base64, importlib.util, json, sys
spec = importlib.util.spec_from_file_location("handler", sys.argv[1] + "/handler.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
handler = module.EndpointHandler(path=sys.argv[1])
print(json.dumps([handler(each) for each in json.loads(sys.argv[2])]))
"""


def test_the_handler_is_run_as_an_endpoint_runs_it(published, tmp_path):
    folder = snapshot_download(published, local_dir=tmp_path / "repository")
    assert (tmp_path / "repository" / "requirements.txt").read_text().startswith("open-musiclm[app] @ git+")
    asked = [
        {"inputs": "calm piano", "parameters": {"duration": 1.0, "seed": 3}},
        {"inputs": "calm piano", "parameters": {"duration": 1.0, "seed": 3}},
        {"inputs": "calm piano", "parameters": {"duration": 1e9}},
        {"inputs": 3},
        {"parameters": "no"},
    ]
    made = subprocess.run(
        [sys.executable, "-c", CALL, folder, json.dumps(asked)], capture_output=True, text=True, timeout=200
    )
    assert made.returncode == 0, made.stderr
    first, second, *wrong = json.loads(made.stdout)
    assert first == second
    sound, rate = soundfile.read(io.BytesIO(base64.b64decode(first["audio"])))
    assert (len(sound), rate, first["seed"], first["content_type"]) == (8000, 8000, 3, "audio/wav")
    assert all(set(answer) == {"error"} for answer in wrong)


@pytest.mark.slow
def test_the_space_is_run_as_the_hub_runs_it(published, tmp_path):
    folder = snapshot_download("someone/tiny-page", repo_type="space", local_dir=tmp_path / "space")
    card = (tmp_path / "space" / "README.md").read_text()
    assert re.search(r"^sdk: gradio$", card, re.M)
    assert re.search(r"^app_file: app.py$", card, re.M)
    assert re.search(rf"^- {MODEL}$", card, re.M)
    place = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=folder,
        env={**os.environ, "GRADIO_SERVER_PORT": "0", "HF_HOME": str(tmp_path / "home")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        told = next(line for line in place.stdout if line.startswith("http://"))
        address = re.match(r"http://0\.0\.0\.0:(\d+)", told)[1]
        url = f"http://127.0.0.1:{address}"
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                page = urllib.request.urlopen(url, timeout=20).read().decode()
                break
            except OSError:
                time.sleep(0.2)
        assert "Open MusicLM" in page
        body = json.dumps({"input": "calm piano", "duration": 1.0, "seed": 0}).encode()
        request = urllib.request.Request(f"{url}/v1/audio/speech", body, {"Content-Type": "application/json"})
        sound = urllib.request.urlopen(request, timeout=60).read()
        assert soundfile.info(io.BytesIO(sound)).frames == 8000
    finally:
        place.terminate()
        place.wait(60)


def test_what_a_space_says():
    files = space_files("me/my-music", "My music")
    assert set(files) == {"README.md", "app.py", "requirements.txt"}
    assert "title: My music" in files["README.md"]
    compile(files["app.py"], "app.py", "exec")
    assert files["requirements.txt"].startswith("open-musiclm[app]==")
