"""`generate` as it is used: what is said, where files end up, what is left when it is interrupted."""

import os

import numpy as np
import pytest
import torch
from small_disk import small_disk

from open_musiclm.audio import read_audio, read_metadata
from open_musiclm.cli import generate, main


def command(pipeline_folder, *more):
    return ["generate", *map(str, more), "--model", str(pipeline_folder), "--duration", "0.5", "--device", "cpu"]


def test_what_was_understood_is_said_first(pipeline_folder, tmp_path, capsys):
    assert main(command(pipeline_folder, "a", "calm", "piano", "-o", tmp_path / "x.wav")) == 0
    first, *files, last = capsys.readouterr().out.splitlines()
    assert first == (
        f'3 prompts, "a", "calm", "piano", 0.5 s each: {tmp_path / "x-1.wav"} … {tmp_path / "x-3.wav"} '
        '(for one prompt of several words, write it in quotes: "a calm piano")'
    )
    assert [line.split()[0] for line in files] == [str(tmp_path / f"x-{index}.wav") for index in (1, 2, 3)]
    assert last.startswith("made 1.5 s of audio in ")
    assert main(command(pipeline_folder, "a calm piano", "-o", tmp_path / "y.wav")) == 0
    assert capsys.readouterr().out.startswith(f'"a calm piano", 0.5 s: {tmp_path / "y.wav"}\n')
    assert main(command(pipeline_folder, "a piano", "b", "-o", tmp_path / "z.wav")) == 0
    assert "in quotes" not in capsys.readouterr().out


def test_a_missing_folder_is_made(pipeline_folder, tmp_path):
    path = tmp_path / "new" / "folder" / "song.wav"
    assert main(command(pipeline_folder, "a", "-o", path)) == 0
    assert path.is_file()
    # and is gone again where nothing comes of it
    path = tmp_path / "song.wav" / "other" / "song.wav"
    path.parents[1].write_bytes(b"a file")
    assert main(command(pipeline_folder, "a", "-o", path)) == 1
    assert path.parents[1].is_file()


@pytest.mark.parametrize(("num_prompts", "num_samples", "size", "together"), [
    (3, 1, 8, False), (20, 1, 8, False), (3, 4, 8, False), (2, 20, 8, False), (2, 20, 8, True), (5, 3, 8, True),
])  # fmt: skip
def test_batches_hold_every_sample_once_in_order(num_prompts, num_samples, size, together):
    made = list(generate.batches(num_prompts, num_samples, size, together))
    rows = [(prompt, sample) for prompts, samples in made for prompt in prompts for sample in samples]
    assert rows == [(prompt, sample) for prompt in range(num_prompts) for sample in range(num_samples)]
    limit = max(size, num_samples) if together else size
    assert all(len(prompts) * len(samples) <= limit for prompts, samples in made)


@pytest.mark.parametrize("more", [(), ("--num-candidates", "5")], ids=["all", "best"])
def test_in_small_batches_the_files_are_the_same(pipeline_folder, tmp_path, monkeypatch, more):
    made = command(pipeline_folder, "a", "b", "-n", 3, "--seed", 2**63 - 2, *more)
    assert main([*made, "-o", str(tmp_path / "x.wav")]) == 0
    monkeypatch.setattr(generate, "ROWS_AT_ONCE", {"cpu": 2})
    assert main([*made, "-o", str(tmp_path / "y.wav")]) == 0
    for index in range(1, 7):
        x, y = (tmp_path / f"{name}-{index}.wav" for name in "xy")
        np.testing.assert_allclose(read_audio(x)[0], read_audio(y)[0], atol=2e-4)
        assert read_metadata(x) == read_metadata(y)
        assert 0 <= read_metadata(x)["seed"] < 2**63  # a seed that can be passed back


def test_interrupted_it_keeps_what_is_finished_and_says_so(pipeline_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate, "ROWS_AT_ONCE", {"cpu": 1})
    keep, done = generate.keep, []

    def interrupted(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(keep(*args))
        return done[-1]

    monkeypatch.setattr(generate, "keep", interrupted)
    assert main(command(pipeline_folder, "a", "-n", 4, "-o", tmp_path / "x.wav")) == 130
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].endswith("interrupted")
    assert "2 of 4 files are finished and stay" in said.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x-1.wav", "x-2.wav"]


def test_a_disk_without_room_is_refused_before_anything_is_made(pipeline_folder, tmp_path, capsys):
    with small_disk(tmp_path / "disk", "16k"):
        assert main(command(pipeline_folder, "a", "-n", 4, "-o", tmp_path / "disk" / "x.wav")) == 1
        assert "The result takes about" in capsys.readouterr().err
        assert list((tmp_path / "disk").iterdir()) == []


def test_what_cannot_be_written_is_kept_elsewhere(tmp_path, monkeypatch, capsys):
    """The disk is filled while the piece was made."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "song.wav").write_bytes(b"mine")
    monkeypatch.chdir(elsewhere)
    audio = np.linspace(-0.5, 0.5, 8000, dtype=np.float32)[None]
    with small_disk(tmp_path / "disk", "8k"):
        path = tmp_path / "disk" / "song.wav"
        kept = generate.keep(path, audio, 8000, {"prompt": "a"}, overwrite=False)
        assert list((tmp_path / "disk").iterdir()) == []
    assert kept == elsewhere / "song-2.wav"
    assert str(path) in capsys.readouterr().err
    np.testing.assert_allclose(read_audio(kept)[0], audio, atol=1e-4)
    assert (elsewhere / "song.wav").read_bytes() == b"mine"


def test_a_file_that_appeared_in_the_meantime_stays(tmp_path, capsys):
    path = tmp_path / "song.wav"
    path.write_bytes(b"of another command")
    audio = np.zeros((1, 800), dtype=np.float32)
    assert generate.keep(path, audio, 8000, {}, overwrite=False) == tmp_path / "song-2.wav"
    assert path.read_bytes() == b"of another command"
    assert "written by another command" in capsys.readouterr().err
    assert generate.keep(path, audio, 8000, {}, overwrite=True) == path


def test_threads_can_be_chosen(pipeline_folder, tmp_path, capsys, monkeypatch):
    before = torch.get_num_threads()
    try:
        assert main(command(pipeline_folder, "a", "-o", tmp_path / "x.wav", "--threads", 3)) == 0
        assert torch.get_num_threads() == 3
        assert "(cpu, 3 threads)" in capsys.readouterr().out
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # left to be measured
        assert main(command(pipeline_folder, "a", "-o", tmp_path / "y.wav")) == 0
        assert 1 <= torch.get_num_threads() <= 3
    finally:
        torch.set_num_threads(before)


def test_mini_is_the_box_beside_a_folder_of_that_name(tmp_path, monkeypatch):
    from open_musiclm import mini_checkpoint
    from open_musiclm.cli.loading import model_path

    monkeypatch.chdir(tmp_path)
    os.mkdir("mini")
    assert model_path("mini") == mini_checkpoint()
    (tmp_path / "mini" / "model_index.json").write_text("{}")
    assert model_path("mini") == "mini"
