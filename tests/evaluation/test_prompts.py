import json

import pytest

from open_musiclm.evaluation.metrics.chroma import Key
from open_musiclm.evaluation.prompts import Prompt, read_prompts


def test_text_file_with_empty_lines(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("a calm piano\n\n   \nfast drums at 140 bpm in F# minor\n", encoding="utf-8")
    prompts, skipped = read_prompts(str(file))
    assert prompts == [
        Prompt("0001", "a calm piano"),
        Prompt("0004", "fast drums at 140 bpm in F# minor", tempo=140.0, key=Key(6, "minor")),
    ]
    assert [(s.what, s.why) for s in skipped] == [("prompts.txt, line 2", "empty"), ("prompts.txt, line 3", "empty")]
    assert len(read_prompts(str(file), num_prompts=1)[0]) == 1


def test_csv(tmp_path):
    file = tmp_path / "prompts.csv"
    file.write_text(
        'id,caption,audio,tempo,key,mode\nx/1,"calm, slow",clips/one.wav,90,A,minor\n,second,two.flac,fast,,\nx/1,again,,,,\n',
        encoding="utf-8",
    )
    prompts, skipped = read_prompts(str(file))
    assert prompts[0] == Prompt("x_1", "calm, slow", "clips/one.wav", 90.0, Key(9, "minor"))
    assert prompts[1] == Prompt("two", "second", "two.flac")
    assert skipped[0].why == "its id 'x_1' was used before"


def test_json_lines_and_musiccaps_columns(tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"ytid": "-0Gj8", "caption": "a song"}) + "\n" + json.dumps("just a text") + "\n")
    prompts, _ = read_prompts(str(file))
    assert prompts[0] == Prompt("-0Gj8", "a song", "-0Gj8")
    assert prompts[1].text == "just a text"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "\n \n", "no prompt: 2 empty lines"),
        ("a.txt", "", "no prompt"),
        ("a.csv", "title,length\nx,1\n", "columns 'length, title', none of them prompt, caption, text"),
        ("a.csv", "a" * 5000 + ",\x1b[2J\nx,1\n", r"a.csv has the columns .{1,200}, none of them"),
        ("a.jsonl", "{broken", "is no JSON"),
        ("a.jsonl", '{"tempo": ' + "9" * 5000 + "}", "a.jsonl is no JSON"),
        ("a.pdf", "x", "ends in '.pdf'"),
        ("a.txt", b"caf\xe9\n", "a.txt' is not UTF-8 .byte 3"),
        ("a.csv", b"prompt\ncaf\xe9\n", "a.csv' is not UTF-8"),
        ("a.csv", "prompt\n" + "x" * 200_000, "a.csv' cannot be read as a table: field larger"),
    ],
)
def test_bad_files(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=said):
        read_prompts(str(tmp_path / name))


def test_commas_spaces_and_case_of_a_table(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text('ID, Prompt , Reference\na, "slow, sad", album/one.wav\n')
    (prompt,), _ = read_prompts(str(file))
    assert (prompt.id, prompt.text, prompt.reference) == ("a", "slow, sad", "album/one.wav")
    file.write_text("id,prompt\na,slow, sad\n")
    with pytest.raises(ValueError, match=r"Line 2 .*3 fields.*quotes"):
        read_prompts(str(file))


@pytest.mark.parametrize("tempo", ["1e999", "-1", "NaN", '"fast"', "[1]", "9" * 400])
def test_a_tempo_that_is_no_number_asks_for_none(tmp_path, tempo):
    (tmp_path / "p.jsonl").write_text(f'{{"prompt": "a piano", "tempo": {tempo}}}\n')
    (prompt,), _ = read_prompts(str(tmp_path / "p.jsonl"))
    assert prompt.tempo is None


def test_halves_of_characters_can_be_written(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a \\ud800 piano"}\n')
    (prompt,), _ = read_prompts(str(tmp_path / "p.jsonl"))
    assert prompt.text.encode() == b"a ? piano"


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match="there is no prompt file"):
        read_prompts(str(tmp_path / "none.txt"))


def test_ids_become_names_that_every_file_system_takes(tmp_path):
    file = tmp_path / "prompts.jsonl"
    ids = [".hidden", "..", "a/b", "x" * 300, "x" * 301, "音" * 90]
    file.write_text("".join(json.dumps({"id": name, "prompt": "a"}) + "\n" for name in ids), encoding="utf-8")
    prompts, skipped = read_prompts(str(file))
    assert [prompt.id for prompt in prompts][:3] == ["_hidden", "_.", "a_b"]
    assert all(len(prompt.id.encode()) <= 100 for prompt in prompts)
    assert len({prompt.id for prompt in prompts}) == 6
    assert not skipped


def test_tempo_and_key(tmp_path):
    file = tmp_path / "prompts.jsonl"
    rows = [
        {"prompt": "a waltz in F# Minor"}, {"prompt": "drums, 100 bpm", "tempo": "nan"}, {"prompt": "drums", "tempo": -3},
        {"prompt": "a song in a minor key"},
    ]  # fmt: skip
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts, _ = read_prompts(str(file))
    assert [prompt.tempo for prompt in prompts] == [None, 100.0, None, None]
    assert [prompt.key for prompt in prompts] == [Key(6, "minor"), None, None, None]
