"""A whole evaluation on tiny networks: prompts, references, held-out clips, and the command over them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from evaluation_networks import chord

from open_musiclm.audio import write_audio

NUM_PROMPTS = 6
FAST = [
    "--duration", "1", "--num-resamples", "200", "--num-set-resamples", "20", "--num-examples", "2", "--device", "cpu",
]  # fmt: skip


def make_scene(root: Path) -> Path:
    """Prompts, their references and held-out clips."""
    rows = ["id,prompt,reference,tempo,key"]
    for i in range(NUM_PROMPTS + 2):
        (root / "reference").mkdir(exist_ok=True)
        write_audio(root / "reference" / f"ref {i}.wav", chord(110 * 2 ** (i / 12), 4.0), 8000)
    for i in range(NUM_PROMPTS):
        (root / "held-out").mkdir(exist_ok=True)
        write_audio(root / "held-out" / f"p{i}.flac", chord(110 * 2 ** ((i + 0.1) / 12), 4.0), 8000)
        word = ["calm", "<b>bold</b>", "slow", "bright", "fast", "“minor”"][i]
        rows.append(f'p{i},"a {word} piano, take {i}",ref {i}.wav,{120 if i else ""},{"A major" if i == 1 else ""}')
    (root / "prompts.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def command(scene: Path, nets: Path, output: Path, *more: str) -> list[str]:
    """Our pipeline, MusicGen and held-out music on the scene's prompts."""
    return [
        "evaluate", "--model", f"ours={nets / 'pipeline'}", "--model", f"musicgen={nets / 'musicgen'}",
        "--model", f"held-out={scene / 'held-out'}", "--prompts", str(scene / "prompts.csv"),
        "--reference", str(scene / "reference"), "--classifier", str(nets / "ast"), "--output", str(output), *FAST, *more,
    ]  # fmt: skip


def without_timing(output: Path):
    """The JSON and the page, all but speed and memory."""
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    page = (output / "report.html").read_text(encoding="utf-8")
    assert report.pop("performance")
    return report, re.sub(r'<section id="performance">.*?</section>', "", page, flags=re.DOTALL)
