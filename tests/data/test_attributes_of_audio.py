"""Streams that say something about a piece, made beside the tokens: heard where it is sure, known from metadata, else hidden."""

import csv
import json

import numpy as np
import pytest
import soundfile
from music import notes

from open_musiclm.cli import main
from open_musiclm.data import TokenDataset, load_musiclm_dataset, write_manifest
from open_musiclm.data.attributes import ATTRIBUTE_RATE, attribute_streams, hear
from open_musiclm.data.shards import shard_path
from open_musiclm.tokenizers.attributes import find_attribute

RATE = 16_000


def beats(tempo, seconds, pitch=69):
    """A tone with a click on every beat."""
    time = np.arange(round(seconds * RATE)) / RATE
    audio = 0.05 * sum(np.sin(2 * np.pi * 440 * 2 ** ((pitch - 69) / 12) * k * time) / k for k in (1, 2, 3))
    burst = np.random.default_rng(1).normal(0, 0.3, 800) * np.exp(-np.arange(800) / 130)
    for beat in np.arange(0, seconds - 0.1, 60 / tempo):
        audio[round(beat * RATE) :][: len(burst)] += burst
    return audio


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    pieces = {
        "a.wav": (beats(120, 12.0), "Dance", "Ada"),
        "b.wav": (np.concatenate([beats(90, 20.0), beats(150, 20.0)]), "dance + Folk", "Grace"),
        "noise.wav": (np.random.default_rng(0).normal(0, 0.1, 12 * RATE), "", ""),
    }
    with open(folder / "metadata.csv", "w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["file_name", "caption", "Genre", "artist"])
        for name, (audio, genre, artist) in pieces.items():
            soundfile.write(folder / name, audio, RATE)
            writer.writerow([name, "a piece", genre, artist])
    return folder


def tokenize(clips, pipeline, output, *more):
    return main(
        ["tokenize", str(clips), "--model", str(pipeline), "--output", str(output), "--device", "cpu", *map(str, more)]
    )


@pytest.fixture(scope="module")
def tokens(clips, pipeline_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("tokens") / "tokens"
    assert tokenize(clips, pipeline_folder, output, "--streams", "melody,tempo,key,genre,artist,timing") == 0
    return output


def rows_of(tokens):
    dataset = TokenDataset.load(tokens, crops_per_file=1)
    return dataset.record, {row["path"]: row for row in (dataset[index] for index in range(len(dataset)))}


def test_what_is_heard_and_known_is_what_would_be_asked_for(tokens):
    record, rows = rows_of(tokens)
    assert [s.name for s in record.streams][-6:] == ["melody", "tempo", "key", "genre", "artist", "timing"]
    assert record.stream("genre").vocabulary == ("Dance", "Folk")
    assert record.stream("artist").vocabulary == ("Ada", "Grace")
    asked = {
        name: int(find_attribute("tempo").from_request(bpm, record.stream("tempo"), 1.0)[0, 0])
        for name, bpm in (("a.wav", 120), ("b.wav", 90))
    }
    for name, tempo in asked.items():
        assert abs(rows[name]["tempo_token_ids"][0, 0] - tempo) <= 1
    melody = rows["a.wav"]["melody_token_ids"]
    assert melody.shape == (150, 1)
    assert (melody == 9).mean() > 0.9, "it is an A throughout"
    assert rows["a.wav"]["genre_token_ids"].tolist() == [[0, -1]]
    assert rows["b.wav"]["genre_token_ids"].tolist() == [[0, 1]]
    assert rows["b.wav"]["artist_token_ids"].tolist() == [[1, -1]]
    assert rows["b.wav"]["timing_token_ids"].shape == (20, 3)


def test_a_tempo_that_changes_is_heard_window_by_window(tokens):
    record, rows = rows_of(tokens)
    ids = rows["b.wav"]["tempo_token_ids"][:, 0]
    assert len(ids) == len(rows["b.wav"]["clap_token_ids"]) == 31
    tempos = [find_attribute("tempo").tempo_of(int(i), record.stream("tempo")) for i in (ids[0], ids[-1])]
    assert tempos == [pytest.approx(90, rel=0.04), pytest.approx(150, rel=0.04)]


def test_what_is_not_sure_is_hidden_and_the_report_says_how_often(tokens, capsys, clips, pipeline_folder):
    _, rows = rows_of(tokens)
    for name in ("melody", "tempo", "key", "genre", "artist"):
        assert (rows["noise.wav"][f"{name}_token_ids"] == -1).all(), name
        assert rows["noise.wav"][f"{name}_token_ids"].dtype == np.int64
    known = json.loads((tokens / "report.json").read_text())["known"]
    assert known["genre"] == pytest.approx(2 / 3, abs=1e-3)
    assert known["timing"] == 1.0
    assert 0 < known["tempo"] < 1
    # the same command again says it again
    assert tokenize(clips, pipeline_folder, tokens, "--streams", "melody,tempo,key,genre,artist,timing") == 0
    assert "genre: known in 67% of its frames" in capsys.readouterr().out


def test_confidence_is_a_setting(clips, pipeline_folder, tokens, tmp_path, capsys):
    more = ["--streams", "tempo,key", "--confidence", "key=1", "--confidence", "tempo=0"]
    assert tokenize(clips, pipeline_folder, tmp_path / "t", *more) == 0
    record, rows = rows_of(tmp_path / "t")
    assert record.settings["attributes"]["confidences"] == {"tempo": 0.0, "key": 1.0}
    assert all((row["key_token_ids"] == -1).all() for row in rows.values())
    assert (rows["noise.wav"]["tempo_token_ids"] >= 0).all(), "a guess is believed"
    # another confidence is other work
    assert tokenize(clips, pipeline_folder, tmp_path / "t", "--streams", "tempo,key") == 1
    assert "settings.attributes.confidences.key was 1.0, is now 0.05" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--streams", "loudness"], "no stream 'loudness' that can be read from audio and metadata; there are melody, tempo"),
        (["--streams", "tempo", "--confidence", "tempo=2"], "confidence of tempo must be a number from 0 to 1, got 2"),
        (["--streams", "genre", "--confidence", "genre=0.5"], "'genre' is not heard with a confidence here; nothing is"),
        (["--confidence", "tempo"], "'tempo' is no setting"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(clips, pipeline_folder, tmp_path, capsys, more, message):
    assert tokenize(clips, pipeline_folder, tmp_path / "t", *more) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_labels_of_the_stage_or_of_the_files():
    own = find_attribute("genre").default_stream(vocabulary=("Rock", "Folk"), first_codebook=0)
    pieces = [{"genre": "Polka"}, {"genre": ["folk", "Polka"]}, {}]
    (kept,) = attribute_streams(["genre"], [[own]], pieces)
    assert kept == own
    (theirs,) = attribute_streams(["genre"], [[own]], pieces, labels_from="files")
    assert theirs.vocabulary == ("folk", "Polka")
    assert attribute_streams(["all"], [[own]], pieces) == [own]
    silent = np.zeros(RATE)
    assert hear(own, silent, pieces[1], 10.0).tolist() == [[1, -1]], "what the stage does not know is left out"
    (lyrics,) = attribute_streams(["lyrics"], [], [{"lyrics": "Ho là"}, {"lyrics": [[0, 1, "lo"]]}])
    assert lyrics.vocabulary == ("a", "h", "l", "o")
    with pytest.raises(ValueError, match="'artist' needs names: no file"):
        attribute_streams(["artist"], [], pieces)


def test_fmas_metadata_feeds_genre_and_artist(pipeline_folder, tmp_path):
    audio = tmp_path / "audio" / "000"
    audio.mkdir(parents=True)
    header = ",artist,set,set,track,track\n,name,split,subset,genre_top,title\ntrack_id,,,,,\n"
    lines = ["2,Ada,training,small,Rock,One", "3,Grace,training,small,Folk,Two", "5,Ada,training,small,,Three"]
    (tmp_path / "tracks.csv").write_text(header + "\n".join(lines) + "\n")
    for track in (2, 3, 5):
        soundfile.write(audio / f"{track:06d}.mp3", notes(track, 4.0, 22050), 22050)
    tracks = load_musiclm_dataset("fma", tmp_path / "audio")
    write_manifest(tracks["train"], tmp_path / "train.jsonl")
    assert tokenize(tmp_path / "train.jsonl", pipeline_folder, tmp_path / "tokens", "--streams", "genre,artist") == 0
    record, rows = rows_of(tmp_path / "tokens")
    assert record.stream("genre").vocabulary == ("Folk", "Rock")
    ids = [[int(row[f"{name}_token_ids"][0, 0]) for name in ("genre", "artist")] for row in rows.values()]
    assert ids == [[1, 0], [0, 1], [-1, 0]]


def test_ids_out_of_range_are_still_refused(tokens, tmp_path):
    """65535 stands for what is hidden, in optional streams alone."""
    import shutil

    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, value, message in (("tempo", 100, "tempo_token_ids holds the id 100"), ("clap", 65_535, "the id 65535")):
        copy = tmp_path / name
        shutil.copytree(tokens, copy)
        path = shard_path(copy, 0, 1)
        table = pq.read_table(path)
        place = table.schema.get_field_index(f"{name}_token_ids")
        values = table[f"{name}_token_ids"].to_pylist()
        values[0][0][0] = value
        column = pa.array(values, type=table.schema.field(place).type)
        pq.write_table(table.set_column(place, table.schema.field(place), column), path)
        with pytest.raises(ValueError, match=message):
            TokenDataset.load(copy)


def test_windows_between_those_that_are_heard_have_what_is_before_them():
    stream = find_attribute("tempo").default_stream()
    audio = beats(120, 17.5)
    ids = hear(stream, audio, {}, 10.0)
    assert ids.shape == (8, 1)
    apart = find_attribute("tempo").from_audio(audio[5 * ATTRIBUTE_RATE : 15 * ATTRIBUTE_RATE], ATTRIBUTE_RATE, stream)
    assert ids[5:].tolist() == [apart[0].tolist()] * 3
