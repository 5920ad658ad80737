"""On small folders of the published layouts."""

import csv

import pytest

from open_musiclm.data import find_audio, load_musiclm_dataset, write_manifest

MUSICCAPS_COLUMNS = [
    "ytid", "start_s", "end_s", "audioset_positive_labels", "aspect_list", "caption", "author_id",
    "is_balanced_subset", "is_audioset_eval",
]  # fmt: skip
CLIPS = {
    "-0Gj8-vB1q4": ("-0Gj8-vB1q4.wav", False),
    "-0SdAVK79lg": ("-0SdAVK79lg_30.mp3", True),
    "_-kssA-FOzU": ("[_-kssA-FOzU]-[30-40].wav", False),
    "zzzzzzzzzzz": (None, True),
}


@pytest.fixture
def musiccaps(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    with open(tmp_path / "musiccaps-public.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(MUSICCAPS_COLUMNS)
        for ytid, (name, evaluation) in CLIPS.items():
            caption = f'A "slow" song,\nof {ytid}.'
            writer.writerow(
                [ytid, 30, 40, "/m/0140xf,/m/02cjck", "['low quality', \"it's sad\"]", caption, 4, True, evaluation]
            )
            if name is not None:
                (folder / name).write_bytes(b"audio")
    (folder / "unrelated.wav").write_bytes(b"audio")
    return folder


def test_musiccaps_joins_captions_with_the_clips_there_are(musiccaps, tmp_path, capsys):
    dataset = load_musiclm_dataset("musiccaps", musiccaps, metadata=tmp_path / "musiccaps-public.csv")
    assert "found the audio of 3 of 4 clips" in capsys.readouterr().out
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 2, "test": 1}
    row = next(row for row in dataset["train"] if row["title"] == "_-kssA-FOzU")
    assert row["path"].endswith("[_-kssA-FOzU]-[30-40].wav")
    assert row["caption"] == 'A "slow" song,\nof _-kssA-FOzU.'
    assert row["aspects"] == ["low quality", "it's sad"]
    assert row["audioset_labels"] == ["/m/0140xf", "/m/02cjck"]
    assert row["is_balanced_subset"] is True


def test_a_split_becomes_a_manifest(musiccaps, tmp_path):
    dataset = load_musiclm_dataset("musiccaps", musiccaps, metadata=tmp_path / "musiccaps-public.csv")
    write_manifest(dataset["test"], tmp_path / "elsewhere.jsonl")
    (file,) = find_audio(tmp_path / "elsewhere.jsonl")
    assert file.path == musiccaps / "-0SdAVK79lg_30.mp3"
    assert file.caption.startswith('A "slow" song')
    assert file.metadata["aspects"] == ["low quality", "it's sad"]


@pytest.fixture
def fma(tmp_path):
    """The two header lines, and the line with the index's name, of the published tracks.csv."""
    header = [
        [",album", "artist", "set", "set", "track", "track", "track", "track"],
        [",title", "name", "split", "subset", "genre_top", "license", "tags", "title"],
        ["track_id", "", "", "", "", "", "", "", ""],
    ]
    rows = [
        "2,AWOL,AWOL,training,small,Hip-Hop,CC,\"['old', 'tape']\",Food",
        "3,AWOL,AWOL,validation,medium,,CC,[],Electric Ave",
        "140,Live,Alec,test,large,Folk,CC,[],Queen",
        "99134,Gone,Gone,training,large,Rock,CC,[],Gone",
        "134000,Far,Far,training,full,,CC,[],Far",
    ]
    (tmp_path / "fma_metadata").mkdir()
    (tmp_path / "fma_metadata" / "tracks.csv").write_text("\n".join([",".join(line) for line in header] + rows) + "\n")
    folder = tmp_path / "fma_full"
    for name, content in {
        "000/000002": b"x",
        "000/000003": b"x",
        "000/000140": b"",
        "099/099134": b"x",
        "134/134000": b"x",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.mp3").write_bytes(content)
    return folder


def test_fma_joins_genres_and_splits_with_the_tracks_there_are(fma, capsys):
    dataset = load_musiclm_dataset("fma", fma)
    assert "found the audio of 3 of 5 clips" in capsys.readouterr().out  # one is empty, one known to be missing
    assert {split: len(rows) for split, rows in dataset.items()} == {"train": 2, "validation": 1}
    row = dataset["train"][0]
    assert row["path"].endswith("000/000002.mp3")
    assert (row["genre"], row["title"], row["artist"], row["tags"]) == ("Hip-Hop", "Food", "AWOL", ["old", "tape"])
    assert dataset["validation"][0]["genre"] is None


@pytest.mark.parametrize(("subset", "number"), [("small", 1), ("medium", 2), ("large", 2), ("full", 3)])
def test_subsets_of_fma_contain_one_another(fma, subset, number):
    assert sum(map(len, load_musiclm_dataset("fma", fma, subset=subset).values())) == number


def test_wrong_calls_are_refused(fma, musiccaps, tmp_path):
    (tmp_path / "nothing").mkdir()
    for call, message in [
        (("audioset", fma), "Unknown dataset"),
        (("fma", tmp_path / "gone"), "no folder of audio"),
        (("fma", tmp_path / "nothing"), "None of the 5 clips"),
        (("fma", fma, None, "tiny"), "subsets are"),
        (("fma", fma, tmp_path / "no.csv"), "no tracks.csv"),
        (("musiccaps", musiccaps, tmp_path / "no.csv"), "no table of MusicCaps"),
        (("musiccaps", musiccaps, None, "small"), "Only FMA has subsets"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_musiclm_dataset(*call)
