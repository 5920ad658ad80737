"""README's table of what can be asked for: its commands run as they are written, and none is missing from it."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from open_musiclm import MusicLMPipeline, mini_checkpoint
from open_musiclm.audio import read_audio, write_audio
from open_musiclm.cli import build_parser, main
from open_musiclm.cli.edit import WAYS
from open_musiclm.cli.requests import ATTRIBUTES, PLAIN

README = Path(__file__).parents[1] / "README.md"
#: in the box there is one model; the rest is downloaded (tests/evaluation/test_other_systems.py has them)
OF_OTHERS = "--model facebook/"
#: of the table, what takes seconds
QUICK = ("twice.wav", "without.wav", "rough.wav")


def commands() -> list[str]:
    """Every command of the table, as a shell would get it."""
    text = README.read_text(encoding="utf-8")
    table = text[text.index("| | command, on the model in the box |") :].split("\n\n")[0]
    found = re.findall(r"`(open-musiclm [^`]+)`", table)
    return [command.replace("\\|", "|") for command in found]


def arguments(command: str) -> list[str]:
    return shlex.split(command)[1:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the commands find: the song of README's first command (a shorter one), a hum, a story, a file of low quality."""
    folder = tmp_path_factory.mktemp("table")
    pipe = MusicLMPipeline.from_pretrained(mini_checkpoint())
    pipe.set_progress_bar_config(disable=True)
    audio = pipe("a calm piano melody in a minor key", audio_length_in_s=10.0).audios[0]
    write_audio(folder / "song.wav", audio, pipe.sampling_rate)
    soundfile.write(folder / "phone.mp3", audio.T, pipe.sampling_rate, format="MP3", compression_level=0.95)
    time = np.arange(16000) / 16000
    hum = np.concatenate([0.3 * np.sin(2 * np.pi * f * time) for f in (220.0, 247, 262, 294)])
    write_audio(folder / "hum.wav", hum[None].astype(np.float32), 16000)
    (folder / "story.txt").write_text("0:00 calm piano\n0:15 add drums\n", encoding="utf-8")
    return folder


def test_the_table_has_what_the_commands_can_be_asked_for():
    parser, asked, ways = build_parser(), set(), set()
    for command in commands():
        args = parser.parse_args(arguments(command))  # exits for a command that is none
        ways |= {args.way} if args.command == "edit" else set()
        asked |= {name for name, value in vars(args).items() if value not in (None, False)}
        assert args.output not in ("song.wav", "edited.wav"), f"{command}: as written it stops at a file that is there"
    outputs = [parser.parse_args(arguments(command)).output for command in commands()]
    assert len(set(outputs)) == len(outputs)
    assert ways == set(WAYS)
    others = {
        "story",
        "structure_from",
        "from_tokens",
        "save_tokens",
        "num_candidates",
        "num_samples",
        "unconditional",
        "keep",
    }
    assert asked >= {*PLAIN, *ATTRIBUTES, *others}


@pytest.mark.parametrize("output", QUICK)
def test_a_few_of_them_run(folder, monkeypatch, tmp_path, output):
    for path in folder.iterdir():
        shutil.copy(path, tmp_path)
    run_as_written(next(c for c in commands() if output in c), monkeypatch, tmp_path)


@pytest.mark.slow  # minutes: pieces of up to a minute
def test_all_of_them_run(folder, monkeypatch):
    for command in commands():
        if OF_OTHERS not in command:
            run_as_written(command, monkeypatch, folder)


def run_as_written(command, monkeypatch, folder):
    monkeypatch.chdir(folder)
    before = set(folder.iterdir())
    assert main(arguments(command)) == 0, command
    made = [path for path in set(folder.iterdir()) - before if path.suffix == ".wav"]
    args = build_parser().parse_args(arguments(command))
    several = args.command == "generate" and len(args.prompts) * args.num_samples
    assert len(made) == max(several, 1), command
    for path in made:
        audio, rate = read_audio(path)
        assert np.abs(audio).max() > 1e-3, command
        if args.command == "generate" and args.tempo is None:
            assert audio.shape[-1] / rate == pytest.approx(args.duration, abs=0.1), command
