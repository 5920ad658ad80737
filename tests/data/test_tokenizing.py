"""The command `tokenize`: what it writes, what it leaves out, and that neither interruptions nor workers change it."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from music import write_music

from open_musiclm.cli import main
from open_musiclm.data import AudioFile, TokenizingPlan
from open_musiclm.data.records import TokenRecord
from open_musiclm.data.shards import record_of_shard


def contents(folder):
    """Every file of a dataset by name, as bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def command(music, pipeline, output, *more):
    return ["tokenize", str(music), "--model", str(pipeline), "--output", str(output), "--device", "cpu",
            "--files-per-shard", "4", *map(str, more)]  # fmt: skip


def test_the_record_says_what_the_tokens_are(token_folder, pipeline_folder):
    from open_musiclm import MusicLMPipeline

    pipeline = MusicLMPipeline.from_pretrained(pipeline_folder)
    record = TokenRecord.load(token_folder)
    assert record.stream("clap").codebook_fingerprint == pipeline.clap_quantizer.fingerprint
    assert record.stream("semantic").codebook_fingerprint == pipeline.semantic_quantizer.fingerprint
    expected = {stream.name: stream for stream in pipeline.fine_model.streams}
    assert record.stream("coarse") == expected["coarse"]
    assert record.stream("fine") == expected["fine"]
    assert record.settings["crop_in_s"] == 4.0
    assert record.settings["sampling_rates"] == {"clap": 8000, "semantic": 16000, "codec": 8000}
    shards = sorted((token_folder / "data").glob("*.parquet"))
    assert [shard.name for shard in shards] == [f"tokens-0000{i}-of-00003.parquet" for i in range(3)]
    assert all(record_of_shard(shard) == record for shard in shards)


def test_the_shards_are_read_by_datasets_alone(token_folder, tmp_path):
    from datasets import load_dataset

    rows = load_dataset(str(token_folder), split="train", cache_dir=str(tmp_path))
    assert len(rows) == 9
    assert rows.features["coarse_token_ids"].dtype == "uint16"
    assert np.asarray(rows[0]["coarse_token_ids"]).shape[1] == 2


def test_shards_left_over_are_made_again_the_same(token_folder, music_folder, pipeline_folder, tmp_path):
    """What kill -9 leaves: some shards there, one begun, its list of what was left out already written."""
    output = tmp_path / "tokens"
    shutil.copytree(token_folder, output)
    (output / "report.json").unlink()
    for shard in sorted((output / "data").glob("*"))[1:]:
        shard.unlink()
    (output / "data" / ".tokens-00001-of-00003.parquet.4242.part").write_bytes(b"half a shard")
    (output / "skipped" / "00002.jsonl").unlink()
    assert main(command(music_folder, pipeline_folder, output)) == 0
    assert contents(output) == contents(token_folder)


def test_jobs_and_workers_make_what_one_run_makes(token_folder, music_folder, pipeline_folder, tmp_path, capsys):
    output = tmp_path / "jobs"
    for job in (1, 0):
        assert main(command(music_folder, pipeline_folder, output, "--num-shards", 2, "--shard-index", job)) == 0
        assert ("still to be made" in capsys.readouterr().out) == (job == 1)
    assert contents(output) == contents(token_folder)


@pytest.mark.slow
def test_two_workers_make_what_one_makes(token_folder, music_folder, pipeline_folder, tmp_path):
    assert main(command(music_folder, pipeline_folder, tmp_path / "two", "--workers", 2)) == 0
    assert contents(tmp_path / "two") == contents(token_folder)


def test_the_step_runs_in_a_datatrove_pipeline(token_folder, music_folder, pipeline_folder, tmp_path):
    from open_musiclm.data import TokenizeStep

    step = TokenizeStep(music_folder, pipeline_folder, tmp_path / "tokens", files_per_shard=4)
    for rank in range(3):
        assert list(step.run([f"passed on {rank}"], rank=rank, world_size=3)) == [f"passed on {rank}"]
    assert contents(tmp_path / "tokens") == contents(token_folder)


def test_other_settings_in_the_same_output_are_refused(token_folder, music_folder, pipeline_folder, tmp_path, capsys):
    before = contents(token_folder)
    assert main(command(music_folder, pipeline_folder, token_folder, "--crop", 3)) == 1
    assert "crop_in_s was 4.0, is now 3.0" in capsys.readouterr().err
    (tmp_path / "something.txt").write_text("mine")
    assert main(command(music_folder, pipeline_folder, tmp_path)) == 1
    assert "not empty" in capsys.readouterr().err
    assert contents(token_folder) == before


def test_unusable_files_are_listed_and_the_rest_is_made(pipeline_folder, tmp_path, capsys):
    music = tmp_path / "music"
    write_music(music, {"a.wav": 3.0, "b.flac": 2.0})
    (music / "broken.mp3").write_bytes(b"\x00" * 999)
    (music / "empty.ogg").write_bytes(b"")
    with open(os.fsencode(music) + b"/caf\xe9.wav", "wb") as file:  # a name that is not Unicode
        file.write(b"no music")
    soundfile.write(music / "silent.wav", np.zeros(99999), 22050)
    (music / "metadata.jsonl").write_text('{"file_name": "b.flac", "caption": "low tones", "bpm": 90}\n')
    assert main(command(music, pipeline_folder, tmp_path / "tokens")) == 0
    printed = capsys.readouterr().out
    assert "2 of 6 files" in printed
    assert "left out broken.mp3: unreadable" in printed
    report = json.loads((tmp_path / "tokens" / "report.json").read_text())
    assert report["skipped_by_reason"] == {"empty": 1, "silent": 1, "unreadable": 2}
    assert (report["num_tokenized"], report["num_skipped"]) == (2, 4)
    assert report["hours"] == pytest.approx(5 / 3600, abs=1e-6)

    from open_musiclm.data import TokenDataset

    tokens = TokenDataset.load(tmp_path / "tokens", cache_dir=tmp_path / "cache")
    assert (tokens[1]["path"], tokens[1]["caption"], tokens[1]["metadata"]) == ("b.flac", "low tones", '{"bpm": 90}')


def test_killed_before_anything_was_made_it_starts_again(music_folder, pipeline_folder, tmp_path, token_folder):
    """What kill -9 can leave of the very first moment."""
    output = tmp_path / "tokens"
    output.mkdir()
    (output / ".tokens.json.0123456789ab.part").write_bytes(b"{")
    assert main(command(music_folder, pipeline_folder, output)) == 0
    assert contents(output) == contents(token_folder)


def test_jobs_may_begin_in_the_same_moment(token_folder, tmp_path):
    """Many jobs of a scheduler find no folder and make it, each beside the others."""
    record, files = TokenRecord.load(token_folder), [AudioFile(Path(f"{i}.wav"), f"{i}.wav") for i in range(9)]
    for attempt in range(20):
        plan = TokenizingPlan.make(files, tmp_path / str(attempt), record.streams, record.settings)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _, plan=plan: plan.start(), range(8)))
        assert sorted(path.name for path in plan.output.iterdir()) == ["README.md", "data", "skipped", "tokens.json"]


def test_a_folder_of_nothing_usable_is_an_error(pipeline_folder, tmp_path, capsys):
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "a.wav").write_bytes(b"")
    assert main(command(tmp_path / "music", pipeline_folder, tmp_path / "tokens")) == 1
    assert "none of the 1 files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch-size", "0"], "--batch-size must be at least 1"),
        (["--num-shards", "2", "--shard-index", "2"], "--shard-index must lie in"),
        (["--workers", "2", "--num-shards", "2"], "give one of the two"),
        (["--model", "nowhere/to/be/found"], "no pipeline"),
        (["--device", "gpux"], "cannot be used here"),
        (["--min-length", "0.01"], "`min_length_in_s` must be at least 1 s"),
        (["--codebooks", "."], "holds neither"),
    ],
)
def test_wrong_usage_is_one_line(music_folder, pipeline_folder, tmp_path, capsys, more, message):
    assert main([*command(music_folder, pipeline_folder, tmp_path / "tokens"), *more]) == 1
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error.split("open-musiclm tokenize:")[-1]


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_undisturbed(pipeline_folder, tmp_path):
    """Each run is killed a random time after it began a random one of the next shards, and once as it writes one."""
    music, output = tmp_path / "music", tmp_path / "tokens"
    write_music(music, {f"{index:02d}.wav": 15.0 + index % 7 for index in range(80)})
    (music / "broken.flac").write_bytes(b"fLaC")
    assert main(command(music, pipeline_folder, tmp_path / "whole")) == 0
    run = [sys.executable, "-m", "open_musiclm", *command(music, pipeline_folder, output)]
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "PYTHONUNBUFFERED": "1"}
    chance = random.Random(0)
    done = []

    def num_done():
        return len(list(output.glob("data/*.parquet")))

    for kill in range(6):
        before, parts = num_done(), set(output.glob("data/.*"))
        wanted = before + chance.randint(0, 2)
        process = subprocess.Popen(run, env=environment, stdout=subprocess.PIPE)
        assert b"81 files" in process.stdout.readline()  # imports are over
        while process.poll() is None:
            if kill == 5:
                if set(output.glob("data/.*")) - parts:
                    break
            elif num_done() >= wanted:
                time.sleep(chance.uniform(0, 1.0))
                break
            time.sleep(0.0005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        done.append(num_done())
    print("shards done at each kill:", done, "of 21")
    assert done[-1] < 21
    assert len(set(done)) > 2
    subprocess.run(run, env=environment, check=True)
    assert contents(output) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_files(pipeline_folder, tmp_path):
    script = (
        "import sys; from open_musiclm.cli import main; code = main(sys.argv[1:]); "
        # not getrusage's, which begins with what the process was that started this one
        "print('peak', open('/proc/self/status').read().split('VmHWM:')[1].split()[0]); sys.exit(code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    peaks = {}
    for number in (8, 80):
        write_music(tmp_path / str(number), {f"{index}.wav": 20.0 for index in range(number)})
        run = command(tmp_path / str(number), pipeline_folder, tmp_path / f"tokens-{number}")
        result = subprocess.run([sys.executable, "-c", script, *run], env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        peaks[number] = int(result.stdout.split("peak ")[1])
    print(peaks)
    assert peaks[80] < 1.05 * peaks[8]
