import unicodedata

import pytest

from open_musiclm.data.pairing import PATH_RULES, pair

FILES = [
    "café.wav", "a/mixture.wav", "b/mixture.wav", "my song.flac", "song.wav", "song_2.wav", "Title [-0Gj8-vB1q4].m4a",
    "[_-kssA-FOzU]-[30-40].wav", "-0SdAVK79lg_30.mp3", "-0SdAVK79lg_60.mp3", "Old Title-0fqtA_ZBn_8.opus", "Loud.WAV",
]  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["café.wav"], "café.wav"),
        ([unicodedata.normalize("NFD", "café.wav")], "café.wav"),
        (["a\\mixture.wav"], "a/mixture.wav"),
        (["./b//mixture"], "b/mixture.wav"),
        (["/data/elsewhere/song.wav"], "song.wav"),
        (["mixture.wav"], None),  # which of the two?
        (["my_song"], "my song.flac"),
        (["loud.wav"], "Loud.WAV"),
        (["song.mp3"], "song.wav"),  # kept in another format
        (["-0Gj8-vB1q4"], "Title [-0Gj8-vB1q4].m4a"),
        (["_-kssA-FOzU"], "[_-kssA-FOzU]-[30-40].wav"),
        (["0fqtA_ZBn_8"], "Old Title-0fqtA_ZBn_8.opus"),
        (["-0SdAVK79lg"], None),
        (["-0SdAVK79lg", "-0SdAVK79lg_60"], "-0SdAVK79lg_60.mp3"),
        (["", "son"], None),
        (["nothing"], None),
    ],
)
def test_a_name_means_one_file_or_none(wanted, expected):
    (found,) = pair([wanted], FILES)
    assert (None if found is None else FILES[found]) == expected


def test_a_guess_takes_no_file_that_another_name_means():
    files = ["calm_2.wav"]
    assert pair([["calm"]], files) == [0]
    assert pair([["calm"], ["calm_2"]], files) == [None, 0]
    assert pair([["one.wav"], ["one"]], ["one.wav"]) == [0, 0]  # two may mean the same


def test_captions_are_not_given_to_files_of_other_folders():
    assert pair([["x/song.wav"], ["SONG.wav"]], ["y/song.wav", "song.wav"], PATH_RULES) == [None, 1]
