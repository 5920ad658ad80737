"""Item 9: prompts, names of clips, and what listeners sent back: counted or refused by name, never after the work."""

import json
import os

import numpy as np
import pytest
import soundfile
from tally import JSON_VALUES, Tally, damaged, damaged_json, pick, seeded

from open_musiclm.evaluation.clips import pair_generated, pair_references, scan_clips
from open_musiclm.evaluation.listening.results import count_wins, read_results, write_wins
from open_musiclm.evaluation.prompts import read_prompts

KEY = {
    "format": 1,
    "test": "0123456789ab",
    "pairs": {f"pair-{i:03d}": {"prompt_id": str(i // 2), "prompt": "a", "a": "one", "b": "two"} for i in range(8)},
}
RESULT = {
    "test": KEY["test"],
    "rater": "me",
    "ratings": [{"pair": f"pair-{i:03d}", "rating": i % 5 - 2} for i in range(8)],
}
RATINGS = ("1e999", "-1e999", "NaN", "0.5", "3", "true", '"2"', "null", "[]", "1e-999", "9" * 5000, "-0.0")


def write_results(folder, random) -> list[str]:
    folder.mkdir()
    contents = {"listening_key.json": json.dumps(KEY).encode()}
    contents |= {name: json.dumps(RESULT).encode() for name in ("a.json", "b.json")}
    for _ in range(random.integers(0, 3)):
        name, chance = pick(random, sorted(contents)), random.random()
        if chance < 0.3 and name != "listening_key.json":
            contents[name] = contents[name].replace(b'"rating": 0', b'"rating": ' + pick(random, RATINGS).encode())
        elif contents[name][:1] == b"{" and chance < 0.9:
            try:
                contents[name] = damaged_json(contents[name], random)
            except ValueError:
                contents[name] = damaged(contents[name], random)
        else:
            contents[name] = damaged(contents[name], random)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [str(folder / "a.json"), str(folder / "b.json")]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_what_listeners_send(tmp_path, number):
    tally = Tally("9 results of listeners")

    def count(folder, random):
        paths = write_results(folder, random)
        if random.random() < 0.1:
            paths.append(str(folder / "missing.json"))
        wins = count_wins(*read_results(paths, str(folder)), num_resamples=20)
        assert all(0 <= rivalry.win_share <= 1 for rivalry in wins.rivalries), wins
        wins.lines()
        page = write_wins(wins, str(folder))
        assert json.loads((folder / "listening_results.json").read_text())["num_raters"] == wins.num_raters
        assert "<script" not in page.read_text(encoding="utf-8").lower()

    for index in range(number(80, 5000)):
        tally.attempt(index, lambda index=index: count(tmp_path / str(index), seeded(index)))
    tally.finish()


CSV = "id,prompt,reference,tempo,key\na,calm piano,x.wav,120,A minor\nb,fast drums at 120 bpm,y.wav,fast,C\n"
LINES = '{"id": "a", "prompt": "calm piano", "reference": "x.wav", "tempo": 120, "key": "A minor"}\n{"caption": "drums in F# major"}\n'
CELLS = (
    "",
    "\x00",
    '"',
    "\ud800",
    "1e999",
    "nan",
    "../../etc/passwd",
    ".",
    "/",
    "a" * 5000,
    "<script>",
    "\u202e",
    "\r",
    "10" * 300,
    "H sharp",
)


def test_prompts_of_any_kind(tmp_path, number):
    tally = Tally("9 files of prompts")

    def read(index):
        random = seeded(index)
        ending = pick(random, (".csv", ".jsonl", ".json", ".txt", ""))
        text = CSV if ending in (".csv", ".txt", "") else LINES
        for _ in range(random.integers(0, 4)):
            cell = pick(random, ("calm piano", "a", "120", "A minor", "x.wav", "prompt", "drums"))
            text = text.replace(cell, pick(random, CELLS), 1)
        content = text.encode("utf-8", "surrogatepass")
        if random.random() < 0.4:
            content = damaged(content, random)
        if ending == ".json" and random.random() < 0.5:
            content = json.dumps(
                [pick(random, JSON_VALUES), {"prompt": pick(random, JSON_VALUES), "tempo": pick(random, JSON_VALUES)}]
            ).encode()
        path = tmp_path / f"{index}{ending}"
        path.write_bytes(content)
        prompts, skipped = read_prompts(str(path))
        assert len({prompt.id for prompt in prompts}) == len(prompts)
        for prompt in prompts:
            assert prompt.text.strip()
            assert prompt.text.encode(), "half a character"
            assert os.path.basename(prompt.id) == prompt.id, prompt.id
            assert not prompt.id.startswith("."), prompt.id
            (tmp_path / prompt.id).touch()
            (tmp_path / prompt.id).unlink()
            assert prompt.tempo is None or 0 < prompt.tempo < float("inf"), prompt.tempo
        assert all(json.dumps(row.why) for row in skipped)

    for index in range(number(100, 10_000)):
        tally.attempt(index, lambda index=index: read(index))
    tally.finish()


LETTERS = [b"a", b"\xe9", b"\xff", b"\xc3\xa9", b" ", b"'", b'"', b"\n", b"\x1b[2J", b"%s", b"*", b"[", b"\xed\xa0\x80", b".", b"-", b"$", b"<b>", b"\xe2\x80\xae"]  # fmt: skip


def test_names_of_clips(tmp_path, number):
    """Every clip is measured or named, and what is told of it can be written as UTF-8."""
    tally = Tally("9 names of clips")
    tone = 0.3 * np.sin(np.arange(2000) / 5)

    def scan(index):
        random = seeded(index)
        folder = os.fsencode(tmp_path / str(index))
        os.mkdir(folder)
        written = set()
        for _ in range(random.integers(1, 5)):
            name = b"".join(pick(random, LETTERS) for _ in range(random.integers(1, 8))) + b".wav"
            soundfile.write(os.path.join(folder, name), tone, 8000, format="WAV")
            written.add(name)
        clips = scan_clips(os.fsdecode(folder), "system", min_clips=0)
        hidden = sum(name.startswith(b".") for name in written)
        assert len(written) - hidden <= len(clips) + len(clips.skipped) <= len(written), (written, clips)
        assert len({clip.id for clip in clips.clips}) == len(clips), "two clips of one name"
        told = (
            [clip.id for clip in clips.clips]
            + [clip.name for clip in clips.clips]
            + [row.what + row.why for row in clips.skipped]
        )
        assert all(text.encode("utf-8") for text in told)
        prompts = tmp_path / f"{index}.jsonl"
        prompts.write_text(
            "".join(json.dumps({"prompt": "a", "id": clip.id, "reference": clip.name}) + "\n" for clip in clips.clips)
            or '{"prompt": "a"}'
        )
        read, _ = read_prompts(str(prompts))
        assert len(pair_references(read, clips)) <= len(read)
        pair_generated(read, clips)

    for index in range(number(30, 2000)):
        tally.attempt(index, lambda index=index: scan(index))
    tally.finish()
