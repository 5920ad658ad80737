"""The command, killed again and again wherever it is, ends in the report of a run that was left alone."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from evaluation_scene import command, without_timing

pytestmark = pytest.mark.slow


def start(arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "open_musiclm", *arguments],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def run(arguments):
    process = start(arguments)
    assert process.wait(250) == 0, process.stderr.read().decode()


def kill_when(arguments, happened, most_in_s=100.0):
    """Starts the command and sends SIGKILL as soon as `happened()`; returns whether it was still running."""
    process = start(arguments)
    deadline = time.monotonic() + most_in_s
    while process.poll() is None and not happened():
        assert time.monotonic() < deadline, "it never came so far"
        time.sleep(0.001)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait(20) == -signal.SIGKILL


def count(output: Path, pattern: str) -> int:
    return len(list(output.glob(pattern)))


@pytest.mark.timeout(900)
def test_killed_anywhere_the_report_is_the_same(scene, nets, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    arguments = command(scene, nets, broken, "--listening-test", "--num-pairs", "4")
    run(command(scene, nets, whole, "--listening-test", "--num-pairs", "4"))
    moments = [
        lambda: count(broken, "audio/ours/*.flac") == 2,
        lambda: count(broken, "audio/ours/.*.part") == 1,  # in the middle of a file
        lambda: count(broken, "audio/musicgen/*.flac") == 3,
        lambda: count(broken, "audio/white noise/*.flac") == 1,
        lambda: count(broken, "embeddings/*.npy") == 5,
        lambda: count(broken, "embeddings/.*.part") == 1,
        lambda: count(broken, "embeddings/*.npy") >= 25,
        lambda: count(broken, ".report.*.part") + count(broken, "report.json") > 0,
        lambda: count(broken, "report.html") == 1,  # while the listening test is written
    ]
    num_killed = sum(kill_when(arguments, moment) for moment in moments)
    assert num_killed >= 7  # the last of them are moments of milliseconds
    (broken / "report.html").unlink(missing_ok=True)
    pause = random.Random(int(os.environ.get("KILL_SEED", "0")))
    for _ in range(3):  # and at any time at all
        end = time.monotonic() + pause.uniform(1.0, 12.0)
        kill_when(arguments, lambda end=end: time.monotonic() > end)
    run(arguments)
    assert without_timing(broken) == without_timing(whole)
    for name in ("listening_test.html", "listening_key.json"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()
