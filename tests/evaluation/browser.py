"""A real browser, without a driver: a page is served with a script added to its end, which posts what it found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --autoplay-policy=no-user-gesture-required"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")

HARNESS = """
<script>
window.faults = [];
window.addEventListener("error", (event) => window.faults.push(String(event.message || event.target.src).slice(0, 200)), true);
</script>
"""
RUN = """
<script>
window.addEventListener("load", async () => {
  const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
  let found;
  try { found = await (async () => { %s })(); } catch (error) { found = { failed: String(error) }; }
  const body = JSON.stringify({ found: found === undefined ? null : found, faults: window.faults });
  await fetch("/found", { method: "POST", body });
});
</script>
"""
TIME_IN_S = 150


def run_in_browser(page: Path, script: str, tmp_path: Path, width: int = 1200):
    """Runs the body of an async function in the page; returns what it returns.

    Fails on any error of the page, and if the page asks for anything but itself.
    """
    text = page.read_text(encoding="utf-8")
    text = text.replace("<head>", "<head>" + HARNESS, 1).replace("</body>", RUN % script + "</body>", 1)
    asked, found, answered = [], [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = text.encode() if self.path == "/page" else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self):
            found.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            answered.set()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/page"
    browser = subprocess.Popen(
        _command(tmp_path, f"--window-size={width},900", address),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment(),
    )  # fmt: skip
    try:
        assert answered.wait(TIME_IN_S), "the page's script did not end"
    finally:
        browser.terminate()
        browser.wait(30)
        server.shutdown()
        server.server_close()
    assert found[0]["faults"] == []
    assert set(asked) <= {"/page", "/favicon.ico"}
    return found[0]["found"]


def screenshot(page: Path, png: Path, tmp_path: Path, width: int = 1200, height: int = 1600) -> Path:
    command = _command(tmp_path, f"--window-size={width},{height}", f"--screenshot={png}", page.as_uri())
    subprocess.run(command, capture_output=True, timeout=TIME_IN_S, env=_environment(), check=True)
    return png


def _command(tmp_path: Path, *arguments: str) -> list[str]:
    profile = tmp_path / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    return [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={profile}", *arguments]


def _environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
