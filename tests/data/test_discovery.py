import json
import os
import unicodedata

import pytest

from open_musiclm.data import find_audio


def test_folder_is_searched_deeply_and_sorted(tmp_path):
    for name in ("b.WAV", "a/z.mp3", "a/b/c.flac", "notes.txt", "._b.wav", ".hidden/x.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [file.name for file in find_audio(tmp_path)] == ["a/b/c.flac", "a/z.mp3", "b.WAV"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    music, elsewhere = tmp_path / "music", tmp_path / "elsewhere"
    (music / "a").mkdir(parents=True)
    elsewhere.mkdir()
    for path in (music / "1.wav", music / "a" / "2.wav", elsewhere / "3.wav"):
        path.write_bytes(b"")
    (music / "a" / "up").symlink_to(music)
    (music / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(music)
    (music / "broken").symlink_to(tmp_path / "nowhere")
    assert [file.name for file in find_audio(music)] == ["1.wav", "a/2.wav", "linked/3.wav"]


def test_names_need_not_be_unicode(tmp_path):
    """Old collections have names in the encodings of their time; they are found, read, and shown as well as may be."""
    path = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    with open(path, "wb") as file:
        file.write(b"")
    (found,) = find_audio(tmp_path)
    assert found.name == "caf\N{REPLACEMENT CHARACTER}.wav"
    assert os.fsencode(found.path) == path


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
        ("list.jsonl", '{"year": ' + "9" * 5000 + "}", "Line 1 of .*list.jsonl' is no JSON"),
        ("list.csv", "title\nsong\n", "names no file"),
        ("list.csv", "", "names no files"),
        ("list.csv", b"path,artist\n1.wav,Beyonc\xe9\n", "cannot be read as a table in UTF-8"),
        ("list.csv", 'path,notes\n1.wav,"' + 200_000 * "x" + '"\n', "cannot be read as a table"),
        ("song.wav", "", "neither a folder nor a manifest"),
    ],
)
def test_bad_sources_are_refused(tmp_path, name, content, message):
    source = tmp_path / name
    if content is None:
        source.mkdir()
    else:
        source.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        find_audio(source)


def test_missing_source_is_refused(tmp_path):
    with pytest.raises(ValueError, match="There is no"):
        find_audio(tmp_path / "nothing")


def test_captions_find_their_files_however_names_are_written(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in (unicodedata.normalize("NFD", "naïve.wav"), "sub/b.wav", "sub/c.wav", "D.WAV"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "metadata.csv").write_text('file_name , Caption\nnaïve.wav, "slow, sad"\nsub\\b.wav,two\nd.wav,four\n')
    (tmp_path / "sub" / "metadata.csv").write_text("file_name;text\nc.wav;three, as here\n")
    captions = {unicodedata.normalize("NFC", file.name): file.caption for file in find_audio(tmp_path)}
    assert captions == {"naïve.wav": "slow, sad", "sub/b.wav": "two", "sub/c.wav": "three, as here", "D.WAV": "four"}
    (file,) = find_audio_of(tmp_path / "list.csv", "path\nnaïve.wav\n")
    assert file.path.exists()


def find_audio_of(manifest, content):
    manifest.write_text(content)
    return find_audio(manifest)


def test_rows_that_mean_no_file_are_listed(tmp_path):
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "song.wav").write_bytes(b"")
    (tmp_path / "metadata.csv").write_text("file_name,text\nother/song.wav,one\ngone.wav,two\n")
    files = {file.name: file for file in find_audio(tmp_path)}
    assert files["album/song.wav"].caption is None
    assert "row 1 of metadata.csv" in files["other/song.wav"].problem
    assert "is it 'album/song.wav'?" in files["other/song.wav"].problem
    assert files["gone.wav"].problem.endswith("there is no such file")


def test_an_unquoted_comma_is_refused_by_its_line(tmp_path):
    with pytest.raises(ValueError, match=r"Line 3 of .* has 3 fields, the header 2.*quotes"):
        find_audio_of(tmp_path / "list.csv", "path,caption\n1.wav,slow\n2.wav,slow, sad\n")
    with pytest.raises(ValueError, match="two columns 'caption'"):
        find_audio_of(tmp_path / "list.csv", "path,caption,caption\n1.wav,slow,sad\n")
