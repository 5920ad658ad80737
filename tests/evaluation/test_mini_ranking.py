"""The model in the box against its own corpus: the evaluation ranks what everyone can hear."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from open_musiclm.cli import main

EXPORT = Path(__file__).parents[2] / "examples" / "mini" / "export_heldout.py"


def evaluate(folder: Path, num_clips: int, *more: str) -> tuple[dict, str]:
    """The two commands of the documentation; the report as data and as a page."""
    music, output = folder / "music", folder / "report"
    export = [sys.executable, str(EXPORT), "--output", str(music), "--num-clips", str(num_clips)]
    subprocess.run(export, check=True, capture_output=True)
    args = [
        "evaluate", "--model", "mini", "--model", f"held-out={music / 'held-out'}", "--prompts", str(music / "prompts.csv"),
        "--reference", str(music / "reference"), "--output", str(output), "--device", "cpu", *more,
    ]  # fmt: skip
    assert main(args) == 0
    return json.loads((output / "report.json").read_text()), (output / "report.html").read_text()


def value(report, metric, system):
    return next(r["value"] for r in report["results"] if r["metric"] == metric and r["system"] == system)


def check_order(report, page):
    for metric in ("FAD", "KAD"):
        assert value(report, metric, "held-out") < value(report, metric, "mini") < value(report, metric, "white noise")
        (places,) = [ranking["places"] for ranking in report["rankings"] if ranking["metric"] == metric]
        assert [place["system"] for place in places] == ["held-out", "mini", "white noise"]
        (row,) = re.findall(rf"<tr><td>{metric} ↓</td>.*?</tr>", page)  # and that is what is shown
        assert re.findall(r"<[bi]>(.*?)</[bi]>", row) == ["held-out", "mini", "white noise"]
    score = {name: value(report, "CLAP score", name) for name in ("held-out", "mini", "mini (prompts shuffled)")}
    assert score["held-out"] > score["mini"] > score["mini (prompts shuffled)"]
    (row,) = re.findall(r"<tr><td>CLAP score ↑</td>.*?</tr>", page)
    shown = [name for name in re.findall(r"<[bi]>(.*?)</[bi]>", row) if name in score]
    assert shown == ["held-out", "mini", "mini (prompts shuffled)"]


def verdict(report, a, b):
    return next(v for v in report["verdicts"] if (v["a"], v["b"]) == (a, b))


def test_a_few_clips_are_enough_to_tell_music_from_noise(tmp_path):
    """Eight clips a set do not tell the model from the corpus by their distances; forty do (below)."""
    report, _ = evaluate(tmp_path, 8, "--duration", "3", "--batch-size", "8", "--num-set-resamples", "20")
    for metric in ("FAD", "KAD"):
        music = max(value(report, metric, "held-out"), value(report, metric, "mini"))
        assert music < value(report, metric, "white noise")
    score = {name: value(report, "CLAP score", name) for name in ("held-out", "mini", "mini (prompts shuffled)")}
    assert score["held-out"] > score["mini"] > score["mini (prompts shuffled)"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_forty_clips_are_enough_to_be_sure(tmp_path):
    report, page = evaluate(tmp_path, 40, "--batch-size", "8")
    check_order(report, page)
    held_out = verdict(report, "held-out", "mini")
    assert held_out["better"] == "held-out"
    assert set(held_out["ahead"]) == {"CLAP score", "FAD", "KAD"}
    assert verdict(report, "mini", "mini (prompts shuffled)")["ahead"] == ["CLAP score"]
    assert set(verdict(report, "mini", "white noise")["ahead"]) >= {"FAD", "KAD"}
    for sentence in (
        "held-out is ahead of mini in CLAP score, FAD and KAD.",
        "mini is ahead of mini (prompts shuffled) in CLAP score.",
        "mini is ahead of white noise in CLAP score, FAD and KAD.",
    ):
        assert f'<li class="good">{sentence}</li>' in page
