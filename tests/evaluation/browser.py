"""A real browser, without a driver: a page is opened with a script added to its end, and what that leaves is read."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
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
  const out = document.createElement("pre");
  out.id = "found-by-test";
  out.textContent = JSON.stringify({ found: found === undefined ? null : found, faults: window.faults });
  document.body.append(out);
});
</script>
"""


def run_in_browser(page: Path, script: str, tmp_path: Path, width: int = 1200, budget_in_ms: int = 20000):
    """Runs the body of an async function in the page; returns what it returns, and fails on any error of the page."""
    text = page.read_text(encoding="utf-8")
    driven = tmp_path / f"driven-{page.name}"
    driven.write_text(
        text.replace("<head>", "<head>" + HARNESS, 1).replace("</body>", RUN % script + "</body>", 1), "utf-8"
    )
    dump = _chromium(
        tmp_path, f"--window-size={width},900", f"--virtual-time-budget={budget_in_ms}", "--dump-dom", driven.as_uri()
    )
    match = re.search(r'<pre id="found-by-test">(.*?)</pre>', dump, re.DOTALL)
    assert match, f"the script did not end:\\n{dump[-2000:]}"
    result = json.loads(unescape(match.group(1)))
    assert result["faults"] == []
    return result["found"]


def screenshot(page: Path, png: Path, tmp_path: Path, width: int = 1200, height: int = 1600) -> Path:
    _chromium(tmp_path, f"--window-size={width},{height}", f"--screenshot={png}", page.as_uri())
    return png


def _chromium(tmp_path: Path, *arguments: str) -> str:
    profile = tmp_path / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={profile}", *arguments],
        capture_output=True, text=True, timeout=120, env=environment, check=True,
    )  # fmt: skip
    return done.stdout
