"""What came last: stories, mixtures, attributes, kept tokens, melodies of files, vocabularies, adapters."""

import json
import shutil
from contextlib import suppress

import mido
import numpy as np
import pytest
import torch
from asking import REQUESTS
from tally import JSON_VALUES, VALUES, Tally, damaged, damaged_json, pick, seeded
from tiny import tiny_pipeline

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
