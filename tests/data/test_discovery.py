import json

import pytest

from open_musiclm.data import find_audio


def test_folder_is_searched_deeply_and_sorted(tmp_path):
    for name in ("b.WAV", "a/z.mp3", "a/b/c.flac", "notes.txt", "._b.wav", ".hidden/x.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [file.name for file in find_audio(tmp_path)] == ["a/b/c.flac", "a/z.mp3", "b.WAV"]


def test_folder_with_metadata_describes_its_files(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    (tmp_path / "b.wav").write_bytes(b"")
    (tmp_path / "metadata.csv").write_text('file_name,text,genre\nb.wav,"slow, sad",jazz\n')
    files = find_audio(tmp_path)
    assert (files[0].caption, files[0].metadata) == (None, {})
    assert (files[1].caption, files[1].metadata) == ("slow, sad", {"genre": "jazz"})


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_manifest_keeps_its_order_and_paths_are_relative_to_it(tmp_path, ending):
    rows = [{"path": "x/2.wav", "caption": "two", "year": 1999}, {"path": "1.wav", "caption": "", "year": 2001}]
    manifest = tmp_path / f"list.{ending}"
    if ending == "csv":
        manifest.write_text("path,caption,year\n" + "\n".join(f"{r['path']},{r['caption']},{r['year']}" for r in rows))
    else:
        manifest.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    files = find_audio(manifest)
    assert [file.name for file in files] == ["x/2.wav", "1.wav"]
    assert files[0].path == tmp_path / "x/2.wav"
    assert [file.caption for file in files] == ["two", None]
    assert int(files[0].metadata["year"]) == 1999


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty", None, "holds no audio"),
        ("list.jsonl", "{oops", "Line 1 of"),
        ("list.jsonl", "[1]", "no JSON object"),
        ("list.csv", "title\nsong\n", "names no file"),
        ("list.csv", "", "names no files"),
        ("song.wav", "", "neither a folder nor a manifest"),
    ],
)
def test_bad_sources_are_refused(tmp_path, name, content, message):
    source = tmp_path / name
    if content is None:
        source.mkdir()
    else:
        source.write_text(content)
    with pytest.raises(ValueError, match=message):
        find_audio(source)


def test_missing_source_is_refused(tmp_path):
    with pytest.raises(ValueError, match="There is no"):
        find_audio(tmp_path / "nothing")
