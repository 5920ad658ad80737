"""What came last: stories, mixtures, attributes, kept tokens, melodies of files, vocabularies, adapters, edits by command."""

import json
import shutil
from contextlib import suppress

import mido
import numpy as np
import pytest
import torch
from asking import asking_pipeline, run_command
from tally import JSON_VALUES, VALUES, Tally, damaged, damaged_json, pick, seeded
from tiny import tiny_pipeline

from open_musiclm.audio import write_audio
from open_musiclm.cli import main
from open_musiclm.given import shown
from open_musiclm.models.streams import TokenStream
from open_musiclm.pipelines.arguments import stream_tokens
from open_musiclm.pipelines.mixtures import Mixture, Recording, parse_mixture
from open_musiclm.pipelines.sidecar import load_tokens, save_tokens
from open_musiclm.pipelines.story import Story, make_story, parse_story, read_story
from open_musiclm.tokenizers.attributes import attribute_names, find_attribute
from open_musiclm.training.lora import add_lora, save_lora

RATE = 8000
WORDS = ("0", "0:00", "0:15", "1:2:3", "15", "0.7", "1e9", "9" * 400, "٣", "*", "+", "-", "|", "\n", "#", " ", " " * 200, "calm", "piano", "song.wav",
         "x" * 300, "\ud800", "\x00", "0.7 *", "- 0.3 *", "s ", "0s", ":", ".", "½", "\ufeff", "/", "..", "nan *", "inf *", "0 *")  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sounds") / "song.wav"
    write_audio(path, 0.3 * np.sin(np.arange(RATE) / 4)[None], RATE)
    return path


def sentence(random) -> str:
    joint = pick(random, ("", " "))
    return joint.join(pick(random, WORDS) for _ in range(random.integers(1, 12)))


def test_texts_of_stories_and_mixtures(pipe, sound, tmp_path, number, monkeypatch):
    """What a text is taken for depends on nothing but the text and files; what it is taken for can be told."""
    tally = Tally("new: texts of stories and mixtures", (ValueError,), 700)
    monkeypatch.chdir(sound.parent)

    def read(index):
        random = seeded(index)
        text = sentence(random)
        if text.encode("utf-8", "replace").decode() == text:
            (tmp_path / "story.txt").write_text(text, encoding="utf-8")
            with suppress(ValueError):
                read_story(tmp_path / "story.txt")
        story = parse_story(text, float(pick(random, (0.0, 1.0, 1e9))))
        if story is not None:
            moments = [*story.starts, -1.0, 1e9]
            assert all(abs(sum(story.weights_at(moment)) - 1) < 1e-6 for moment in moments), story
        mixture = parse_mixture(text)
        prompt = story or mixture or text
        if index % number(50, 200) == 0:
            audio = pipe(prompt, audio_length_in_s=0.2).audios
            assert np.isfinite(audio).all()

    for index in range(number(150, 20_000)):
        tally.attempt(index, lambda index=index: read(index))

    def long_text(text):
        parse_mixture(text)
        parse_story(text)

    for text in (
        " " * 300_000,
        "+ " * 200_000,
        "1" * 300_000,
        "1:" * 200_000,
        "0 a|" * 100_000,
        "+" + " " * 300_000,
        "0.1*a+" * 50_000,
        "1." * 200_000,
    ):
        tally.attempt(f"{len(text)} of {text[:6]!r}", lambda text=text: long_text(text))
    for index in range(number(60, 3000)):
        random = seeded(index)
        many = [pick(random, VALUES) for _ in range(3)]
        make = pick(random, (lambda a, b, c: Story(a, b, c), lambda a, b, c: make_story([(a, b)], c), lambda a, b, c: make_story([(0, "a"), (a, b)], c),
                             lambda a, b, c: Mixture((a, "b"), (b, c)), lambda a, b, c: Mixture(a, b), lambda a, b, c: Recording(a, b), lambda a, b, c: Recording(np.ones((1, 100)), a)))  # fmt: skip
        tally.attempt([shown(each) for each in many], lambda make=make, many=many: made_or_refused(make, many))
    tally.finish()


def made_or_refused(make, values) -> None:
    """Data classes take what can be iterated; what cannot is a `ValueError` like any other."""
    made = make(*values)
    assert isinstance(made, Story | Mixture | Recording)


REQUESTS = ("120", "120 bpm", "nan bpm", "1e999", "A minor", "H", "A" * 5000, "C##", "folk", "folk+techno", "a+b+c", "+", "la la", "\u0301", "ﬁ", "ß" * 9, (1e9, 0), (5, 1), (5, 9),
            [(0, 1, 60)], [(0, 1, 128)], [(0, 1e308, 60)], [(0, 10**400, 60)], [(0, 1, "la")], [(0, 2, "a"), (1, 3, "b")], [(0, 1e-300, "a")],
            (np.sin(np.arange(9000) / 9), 8000), (np.zeros(100), 8000), (np.ones(1), 8000), (np.ones((9, 0)), 8000), (np.ones(100), 10**12),
            (np.ones(100), 0), (np.ones(100), -8000), (torch.ones(100), 8000), (np.array(["a"]), 8000))  # fmt: skip


def any_stream(name: str, random) -> TokenStream:
    """A stream of an attribute, as a config may describe it."""
    changed = {"vocabulary": ["folk", "techno"]} if name in ("genre", "artist") else {}
    stream = find_attribute(name).default_stream(**changed)
    if random.random() < 0.5:
        field = pick(
            random,
            (
                "codebook_size",
                "num_codebooks",
                "frame_rate",
                "vocabulary",
                "pattern",
                "num_edge_frames",
                "source",
                "name",
                "context",
                "optional",
            ),
        )
        value = pick(
            random,
            (
                *JSON_VALUES,
                2,
                3,
                12.5,
                0.01,
                500_000,
                ["a"],
                ["a", "a"],
                ["", " "],
                ["\ud800"],
                ["a" * 3000] * 2,
                "parallel",
                "after",
            ),
        )
        stream = TokenStream(**{**stream.to_dict(), field: value})
    return stream


@pytest.mark.filterwarnings("ignore")
def test_what_is_asked_of_attributes(number):
    """Ids of the stream, or a refusal."""
    tally = Tally("new: attributes and vocabularies", (ValueError, OSError), 900)

    def ask(index):
        random = seeded(index)
        name = pick(random, attribute_names())
        stream = any_stream(name, random)
        request = pick(random, REQUESTS if random.random() < 0.6 else VALUES)
        attribute, duration = find_attribute(name), float(pick(random, (0.1, 1.0, 7.3)))
        ids = attribute.from_request(request, stream, duration)
        made = stream_tokens(stream, ids[None])
        assert made.shape[0] == 1, tuple(made.shape)
        heard = attribute.from_audio(
            np.sin(np.arange(4000) / 9), 8000, stream, {name: pick(random, (*VALUES, "folk", "la"))}
        )
        stream_tokens(stream, heard[None])

    for index in range(number(300, 30_000)):
        tally.attempt(index, lambda index=index: ask(index))
    tally.finish()


def midi_file(random) -> bytes:
    import io

    file = mido.MidiFile(
        type=int(pick(random, (1, 1, 1, 0, 2))), ticks_per_beat=int(pick(random, (1, 96, 480, 32767)))
    )
    for _ in range(random.integers(0, 3)):
        track = mido.MidiTrack()
        for _ in range(random.integers(0, 12)):
            time = int(pick(random, (0, 10, 100, 480, 0x0FFFFFFF)))
            note = int(pick(random, (0, 60, 60, 64, 127)))
            kind = int(pick(random, (0, 1, 1, 1, 2, 2, 3)))
            if kind == 0:
                track.append(
                    mido.MetaMessage("set_tempo", tempo=int(pick(random, (0, 1, 500_000, 16_777_215))), time=time)
                )
            elif kind == 1:
                track.append(
                    mido.Message(
                        "note_on",
                        note=note,
                        velocity=int(random.integers(128)),
                        channel=int(random.integers(16)),
                        time=time,
                    )
                )
            elif kind == 2:
                track.append(mido.Message("note_off", note=note, time=time))
            else:
                track.append(mido.Message("program_change", program=5, time=time))
        file.tracks.append(track)
    buffer = io.BytesIO()
    file.save(file=buffer)
    return buffer.getvalue()


def test_midi_files(tmp_path, number):
    tally = Tally("new: MIDI files", (ValueError, OSError), 600)
    stream, melody = find_attribute("melody").default_stream(), find_attribute("melody")

    def ask(index):
        random = seeded(index)
        content = midi_file(random)
        (tmp_path / "tune.mid").write_bytes(damaged(content, random) if index % 3 else content)
        stream_tokens(stream, melody.from_request(tmp_path / "tune.mid", stream, 2.0)[None])

    for index in range(number(120, 10_000)):
        tally.attempt(index, lambda index=index: ask(index))
    tally.finish()


def test_tokens_that_were_kept(pipe, tmp_path, number):
    from safetensors.torch import load_file, save_file

    tally = Tally("new: tokens that were kept", (ValueError, OSError), 900)
    made = pipe("a", audio_length_in_s=1.0, generator=torch.Generator().manual_seed(0), return_tokens=True).tokens
    sound = tmp_path / "sound.safetensors"
    save_tokens(sound, made, pipe)
    with open(sound, "rb") as file:
        content = file.read()
    from safetensors import safe_open

    with safe_open(sound, "pt") as file:
        record = json.loads(file.metadata()["open_musiclm_tokens"])
    odd = (torch.zeros(0), torch.zeros(1, 5), torch.full((1, 9), -5), torch.full((1, 9), 10**6), torch.zeros(3, 9, dtype=torch.long), torch.full((1, 9), -1),
           torch.zeros(1, 9, 7, dtype=torch.long), torch.zeros((), dtype=torch.long), torch.zeros(1, 9, dtype=torch.bool), torch.zeros(1, 0, dtype=torch.long))  # fmt: skip

    def take_up(index):
        random = seeded(index)
        path = tmp_path / "kept.safetensors"
        if index % 2:
            path.write_bytes(damaged(content, random))
        else:
            tensors = load_file(sound)
            if random.random() < 0.7:
                tensors[pick(random, (*tensors, "clap", "new", ""))] = pick(random, odd)
            text = json.dumps(record).encode()
            if random.random() < 0.6:
                text = damaged_json(text, random)
            metadata = {"open_musiclm_tokens": text.decode("latin-1")} if random.random() < 0.9 else None
            save_file(tensors, path, metadata)
        kept = load_tokens(path, pipe)
        longer = pipe("a", audio_length_in_s=1.5, beginnings=kept, return_tokens=True)
        assert np.isfinite(longer.audios).all()
        for name, tokens in kept.items():
            found = longer.tokens[name].cpu()
            assert torch.equal(
                found[:, : tokens.shape[1]].flatten(), tokens.expand(len(found), *tokens.shape[1:]).flatten()
            ), name

    for index in range(number(20, 400)):
        tally.attempt(index, lambda index=index: take_up(index))
    tally.finish()


@pytest.mark.filterwarnings("ignore")
def test_adapters_of_others(tmp_path, number):
    """Refused, an adapter leaves the stage as it was."""
    tally = Tally("new: adapters of others", (ValueError, OSError), 1500)
    pipe = tiny_pipeline()
    torch.manual_seed(0)
    adapted = add_lora(tiny_pipeline().coarse_model, 2)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    save_lora(adapted, tmp_path / "sound")
    before = {name: tensor.clone() for name, tensor in pipe.coarse_model.state_dict().items()}

    def unchanged():
        now = pipe.coarse_model.state_dict()
        assert now.keys() == before.keys(), f"left behind: {sorted(now.keys() ^ before.keys())[:3]}"
        assert all(torch.equal(now[name], before[name]) for name in before), "other weights"

    def load(index):
        random = seeded(index)
        folder = shutil.copytree(tmp_path / "sound", tmp_path / f"adapter-{index}")
        for _ in range(random.integers(1, 3)):
            path = folder / pick(
                random, ("adapter_config.json", "adapter_config.json", "streams.json", "adapter_model.safetensors")
            )
            if path.name == "adapter_config.json" and random.random() < 0.6:
                config = json.loads(path.read_text())
                field = pick(
                    random,
                    [*config, "r", "r", "target_modules", "target_modules", "peft_type", "base_model_name_or_path"],
                )
                config[field] = pick(
                    random,
                    (
                        *JSON_VALUES,
                        2**20,
                        ["q_proj"],
                        "(a+)+$",
                        "all-linear",
                        "PROMPT_TUNING",
                        "ADALORA",
                        "eval",
                        {"auto_mapping": "x"},
                        ["nope"],
                    ),
                )
                path.write_text(json.dumps(config))
            elif path.is_file():
                path.write_bytes((damaged_json if path.suffix == ".json" else damaged)(path.read_bytes(), random))
        try:
            pipe.load_lora_weights(folder)
            assert all(torch.isfinite(tensor).all() for tensor in pipe.coarse_model.state_dict().values()), (
                "not finite"
            )
            pipe.unload_lora_weights()
        finally:
            unchanged()

    for index in range(number(40, 2000)):
        tally.attempt(index, lambda index=index: load(index))
        shutil.rmtree(tmp_path / f"adapter-{index}")
    tally.finish()


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
        for path in tmp_path.iterdir():
            assert code == 0 or path == recording, f"{path.name} is left, {said}"
            path.unlink()
        if code:
            raise ValueError("refused")

    for index in range(number(5, 150)):
        tally.attempt(index, lambda index=index: edit(index))
    tally.finish()
