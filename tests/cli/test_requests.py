"""What the command can be asked for besides a text, and `open-musiclm edit`, on a tiny pipeline."""

import numpy as np
import pytest
from tiny import tiny_pipeline

from open_musiclm.audio import read_audio, read_metadata, write_audio
from open_musiclm.cli import main

RATE = 8000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_pipeline(1).save_pretrained(folder / "model")
    time = np.arange(4 * RATE) / RATE
    tune = 0.2 * np.sin(2 * np.pi * np.repeat([220.0, 330, 440, 262], RATE) * time)
    write_audio(folder / "tune.wav", tune[None].astype(np.float32), RATE)
    return folder


@pytest.fixture
def run(folder, tmp_path, capsys):
    def run(*arguments):
        code = main([*arguments, "--model", str(folder / "model"), "--device", "cpu"])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


@pytest.mark.parametrize(
    "request_",
    [
        ["0:00 calm piano | 0:01 fast drums", "--transition", "1"],
        ["--story", "{folder}/story.txt"],
        ["0.7 * calm piano + 0.3 * {folder}/tune.wav"],
        ["--reference-audio", "{folder}/tune.wav"],
        ["song", "--reference-audio", "{folder}/tune.wav", "--reference-weight", "0.2"],
        ["song", "--semantic-from", "{folder}/tune.wav"],
        ["song", "--structure-from", "{folder}/tune.wav", "--keep", "coarse"],
    ],
)
def test_what_can_be_asked_for_makes_a_file(run, folder, tmp_path, request_):
    (folder / "story.txt").write_text("0:00 calm\n0:01 fast drums\n", encoding="utf-8")
    request_ = [part.replace("{folder}", str(folder)) for part in request_]
    code, printed = run("generate", *request_, "-d", "2", "--seed", "1", "-o", str(tmp_path / "song.wav"))
    assert code == 0, printed
    audio, rate = read_audio(tmp_path / "song.wav")
    assert audio.shape[-1] == 2 * rate
    assert np.abs(audio).max() > 0


def test_a_draft_kept_as_tokens_is_made_longer(run, tmp_path):
    draft, tokens = str(tmp_path / "draft.wav"), str(tmp_path / "draft.safetensors")
    assert run("generate", "song", "-d", "2", "--seed", "1", "-o", draft, "--save-tokens", tokens)[0] == 0
    longer = str(tmp_path / "longer.wav")
    code, printed = run("generate", "song", "-d", "4", "--seed", "9", "-o", longer, "--from-tokens", tokens)
    assert code == 0, printed
    first, second = read_audio(draft)[0][0], read_audio(longer)[0][0]
    assert len(second) == 4 * RATE
    np.testing.assert_allclose(second[: RATE + RATE // 2], first[: RATE + RATE // 2], atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "say what the music should be like"),
        (["song", "--melody", "hum.wav"], "there is no file 'hum.wav'"),
        (["song", "--timing", "A" * 5000], "--timing must be a number of seconds, got 'AAA"),
        (["song", "--tempo", "120"], "No stage of this pipeline has a stream of tempo"),
        (["song", "--guidance-scale", "3"], "condition dropout"),
        (["song", "--negative-prompt", "drums"], "guidance_scale"),
        (["0:00 a | 0:00 b"], "must rise"),
        (["0:00 a | 0:10 b", "song"], "only prompt"),
        (["song", "--keep", "coarse"], "--structure-from"),
        (["song", "--save-tokens", "x.txt"], ".safetensors"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(run, tmp_path, arguments, says):
    code, printed = run("generate", *arguments, "-d", "1", "-o", str(tmp_path / "song.wav"))
    assert code == 1
    assert says in printed
    assert len(printed) < 2000
    assert "Traceback" not in printed
    assert not (tmp_path / "song.wav").exists()


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [
        (["continue", "--duration", "1.5"], 5.5),
        (["replace", "--start", "1", "--stop", "2"], 4.0),
        (["extend", "--start", "2", "--duration", "1"], 5.0),
        (["vary", "--start", "1", "--stop", "2", "--prompt", "loud drums"], 4.0),
        (["repeat", "--start", "1", "--stop", "2"], 5.0),
        (["loop"], 4.0),
        (["remake", "--prompt", "loud drums"], 4.0),
    ],
)
def test_a_recording_is_edited(run, folder, tmp_path, arguments, seconds):
    output = str(tmp_path / "edited.wav")
    code, printed = run(
        "edit", str(folder / "tune.wav"), *arguments, "--seed", "1", "--num-candidates", "2", "-o", output
    )
    assert code == 0, printed
    (audio, *_), rate = read_audio(output)
    assert len(audio) / rate == pytest.approx(seconds, abs=0.05)
    assert read_metadata(output)["edited"] == arguments[0]
    if arguments[0] != "remake":
        original = read_audio(folder / "tune.wav")[0][0]
        assert np.array_equal(audio[: RATE // 2], original[: RATE // 2])


def test_an_edit_of_nothing_is_one_line(run, folder, tmp_path):
    code, printed = run("edit", "nothing.wav", "loop", "-o", str(tmp_path / "x.wav"))
    assert (code, "no file" in printed) == (1, True)
    code, printed = run(
        "edit", str(folder / "tune.wav"), "replace", "--start", "3", "--stop", "9", "-o", str(tmp_path / "x.wav")
    )
    assert (code, "not within" in printed) == (1, True)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["continue", "--duration", "0"], "--duration must be a number of seconds"),
        (["continue", "--duration", "1e308"], "--duration must be a number of seconds"),
        (["continue", "--num-samples", "9" * 30], "--num-samples must be at most"),
        (["replace", "--num-candidates", "1000000000"], "--num-candidates must be at most"),
        (
            ["replace", "--num-samples", "900", "--num-candidates", "900"],
            "810000 waveforms are more than one call makes",
        ),
        (["remake", "--seed", "-1"], "--seed must lie in"),
    ],
)
def test_an_edit_beyond_all_measure_is_refused_at_once(run, folder, tmp_path, more, says):
    code, printed = run("edit", str(folder / "tune.wav"), *more, "-o", str(tmp_path / "x.wav"))
    assert (code, says in printed) == (1, True), printed
    assert not list(tmp_path.iterdir())


def test_asking_for_nothing_is_said(run, tmp_path):
    """Unconditional generation needs stages whose conditions were hidden in training, which these are not."""
    code, printed = run("generate", "--unconditional", "-d", "1", "-o", str(tmp_path / "x.wav"))
    assert (code, "Pass a `prompt`" in printed) == (1, True)
    code, printed = run("generate", "song", "--unconditional", "-d", "1", "-o", str(tmp_path / "x.wav"))
    assert (code, "asks for nothing" in printed) == (1, True)


def test_only_a_remaking_is_decoded_up_to_a_stream(run, folder, tmp_path):
    tune = str(folder / "tune.wav")
    code, printed = run(
        "edit", tune, "remake", "--keep", "semantic", "--decode-up-to", "coarse", "-o", str(tmp_path / "x.wav")
    )
    assert code == 0, printed
    code, printed = run("edit", tune, "loop", "--decode-up-to", "coarse", "-o", str(tmp_path / "y.wav"))
    assert (code, "is for remake" in printed) == (1, True)
