"""What came last, by command: requests with files of any content, edits with any numbers."""

import mido
import pytest
from asking import REQUESTS, asking_pipeline, check_nothing_left, run_command
from tally import Tally, damaged, pick, seeded

from open_musiclm.cli import main


@pytest.fixture(scope="module")
def asking_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asking") / "pipeline"
    asking_pipeline().save_pretrained(folder)
    return folder


FILES_ASKED = ("--story", "--from-tokens", "--melody", "--reference-audio", "--structure-from")
ASKED = (
    "--tempo",
    "--key",
    "--genre",
    "--timing",
    "--lyrics",
    "--negative-prompt",
    "--guidance-scale",
    "--keep",
    "--transition",
)


def test_requests_by_command(asking_folder, sound, tmp_path, number, capsys):
    """Files of any content, in the place of any other."""
    tally = Tally("new: requests by command")
    output, kept = tmp_path / "out.wav", tmp_path / "kept.safetensors"
    command = ["--model", str(asking_folder), "--device", "cpu", "-o", str(output), "--duration=0.3"]
    assert main(["generate", "a song", *command, "--save-tokens", str(kept)]) == 0
    melody = mido.MidiFile()
    melody.tracks.append(
        mido.MidiTrack([mido.Message("note_on", note=60), mido.Message("note_off", note=60, time=480)])
    )
    melody.save(tmp_path / "tune.mid")
    (tmp_path / "story.txt").write_text("0:00 calm piano\n0:15 add drums\n", encoding="utf-8")
    contents = {path.name: path.read_bytes() for path in (kept, tmp_path / "tune.mid", tmp_path / "story.txt", sound)}
    capsys.readouterr()  # the first command's progress
    given = tmp_path / "given"
    given.mkdir()

    def ask(index):
        random = seeded(index)
        output.unlink(missing_ok=True)
        arguments = ["generate", *command]
        if random.random() < 0.7:
            arguments.insert(
                1,
                pick(
                    random, ("a song", "0.7 * a + 0.3 * b", "0:00 a | 0:01 b", "- 1 * a", "0:00 a | b", "0.5 * a + b")
                ),
            )
        for place in range(random.integers(1, 3)):
            if random.random() < 0.6:
                name = pick(random, [*contents])
                path = given / f"{place}{name}"
                path.write_bytes(damaged(contents[name], random) if random.random() < 0.5 else contents[name])
                arguments.append(f"{pick(random, FILES_ASKED)}={path}")
            else:
                arguments.append(
                    f"{pick(random, ASKED)}={pick(random, (*NUMBERS, *(text for text in REQUESTS if isinstance(text, str))))}"
                )
        code, said = run_command(arguments, capsys)
        assert output.exists() == (code == 0), (code, arguments[-3:], said)
        if code:
            raise ValueError("refused")

    for index in range(number(5, 200)):
        tally.attempt(index, lambda index=index: ask(index))
    tally.finish()


NUMBERS = ("0", "-1", "0.5", "1e9", "9" * 30, "nan", "inf", "1e308", "1e-300", "", "½", "1")
OPTIONS = (
    "--start",
    "--stop",
    "--duration",
    "--num-samples",
    "--num-candidates",
    "--guidance-scale",
    "--seed",
    "--keep",
    "--prompt",
)


def test_edits_by_command(pipeline_folder, sound, tmp_path, number, capsys):
    tally = Tally("new: edits by command")
    output = tmp_path / "out.wav"

    def edit(index):
        random = seeded(index)
        recording = tmp_path / "in.wav"
        content = sound.read_bytes()
        recording.write_bytes(damaged(content, random) if random.random() < 0.2 else content)
        way = pick(random, ("continue", "replace", "extend", "vary", "repeat", "loop", "remake"))
        arguments = [
            "edit",
            str(recording),
            way,
            "--model",
            str(pipeline_folder),
            "--device",
            "cpu",
            "-o",
            str(output),
            "--stop=0.5",
            "--duration=0.3",
        ]
        for _ in range(random.integers(1, 4)):
            arguments.append(pick(random, OPTIONS) + "=" + pick(random, NUMBERS))
        code, said = run_command(arguments, capsys)
        check_nothing_left(tmp_path, code, said, recording)
        if code:
            raise ValueError("refused")

    for index in range(number(5, 150)):
        tally.attempt(index, lambda index=index: edit(index))
    tally.finish()
