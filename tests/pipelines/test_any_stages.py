"""Streams rule: a pipeline of any stages is built, tokenized for, trained, saved, loaded, heard and published alike."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from codecs_of_all_kinds import CODECS
from music import music_pipeline, write_music
from tiny import SIZES

import open_musiclm
from open_musiclm import MusicLMPipeline, MusicLMStageConfig, MusicLMStageModel, TokenStream
from open_musiclm.cli import main
from open_musiclm.data import TokenDataset
from open_musiclm.models.chain import order_stages
from open_musiclm.pipelines.chain import StageChain
from open_musiclm.tokenizers.compatibility import acoustic_stream
from open_musiclm.tokenizers.sources import SOURCES, Source

TOP_K = 12  # a tenth of a tiny vocabulary would be greedy


class MoodSource(Source):
    """A made-up source: the last digit of each half second's level, so to speak."""

    parts = codebook_parts = networks = ()

    @property
    def sampling_rate(self):
        return 8000

    def stream(self, name, first_codebook=0, num_codebooks=None):
        return TokenStream(name, 3, 1, 2.0, source="mood", first_codebook=first_codebook)

    def encode(self, crops, num_codebooks):
        frames = crops[:, : crops.shape[1] // 4000 * 4000].reshape(len(crops), -1, 4000)
        levels = np.sqrt((frames**2).mean(-1))
        return (levels * 1000).astype(int)[..., None] % 3


def stage(streams, window_in_s, stride_in_s, seed=0):
    """A stage of the general class: nothing but its streams says what it is."""
    torch.manual_seed(seed)
    config = MusicLMStageConfig(
        streams=[stream.to_dict() for stream in streams],
        window_in_s=window_in_s,
        window_stride_in_s=stride_in_s,
        forgetful_mask_prob=0.0,
        hidden_dropout=0.0,
        **SIZES,
    )
    model = MusicLMStageModel(config).eval()
    model.generation_config.top_k = TOP_K
    return model


def parts_of(pipe, *left_out):
    return {name: part for name, part in pipe.components.items() if part is not None and name not in left_out}


def three_stages():
    return music_pipeline()


def two_stages():
    """CLAP → semantic → all codebooks, under a name of their own."""
    pipe = music_pipeline()
    clap, semantic = pipe.semantic_model.streams
    every = acoustic_stream(pipe.codec, "sound", 0, 5)
    last = stage([clap, semantic, every], 2.0, 1.0)
    return MusicLMPipeline(**parts_of(pipe, "coarse_model", "fine_model"), acoustic_model=last)


def one_stage():
    """CLAP → all codebooks, in the delay pattern."""
    pipe = music_pipeline()
    clap = pipe.semantic_model.streams[0]
    every = acoustic_stream(pipe.codec, "sound", 0, 5).to_dict() | {"pattern": "delay"}
    only = stage([clap, TokenStream(**every)], 2.0, 1.0)
    left_out = ("semantic_model", "coarse_model", "fine_model", "semantic_encoder", "semantic_quantizer")
    return MusicLMPipeline(**parts_of(pipe, *left_out), acoustic_model=only)


def three_stages_with_mood():
    """A stream of a made-up source conditions the coarse stage, and may be left out."""
    pipe = music_pipeline()
    clap, semantic, coarse = pipe.coarse_model.streams
    mood = TokenStream("mood", 3, 1, 2.0, source="mood", optional=True)
    changed = stage([clap, mood, semantic, coarse], 2.0, 1.0)
    return MusicLMPipeline(**parts_of(pipe, "coarse_model"), coarse_model=changed)


PIPELINES = {
    "three stages": (three_stages, "fine"),
    "two stages": (two_stages, "sound"),
    "one stage": (one_stage, "acoustic"),
    "three stages and a stream of a made-up source": (three_stages_with_mood, "coarse_model"),
}


@pytest.fixture
def mood_source(monkeypatch):
    monkeypatch.setitem(SOURCES, "mood", MoodSource)


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    folder = tmp_path_factory.mktemp("music")
    write_music(folder, {f"{index}.wav": 4.0 + index for index in range(3)})
    return folder


def heard(pipe, length=1.3, **arguments):
    pipe.set_progress_bar_config(disable=True)
    return pipe("a calm piano", length, generator=torch.Generator().manual_seed(0), **arguments).audios


@pytest.mark.parametrize("name", PIPELINES)
def test_tokens_training_saving_loading_audio_and_the_hub(name, mood_source, music, tmp_path, hub, token):
    make, trained = PIPELINES[name]
    pipe = make()
    pipe.save_pretrained(tmp_path / "pipe")

    # tokenize makes every stream that any stage needs
    command = ["tokenize", str(music), "--model", str(tmp_path / "pipe"), "--output", str(tmp_path / "tokens")]
    assert main([*command, "--device", "cpu"]) == 0
    tokens = TokenDataset.load(tmp_path / "tokens", crops_per_file=1)
    assert [s.name for s in tokens.record.streams] == [*pipe.chain.streams]
    for stream in tokens.record.streams:
        assert len(np.unique(tokens[0][stream.argument])) > 1, f"{stream.name} says nothing"

    # a stage by its slot, its short name, or its stream's
    command = ["train", "--stage", trained, "--tokens", str(tmp_path / "tokens"), "--from", str(tmp_path / "pipe")]
    command += ["--output", str(tmp_path / "tuned"), "--steps", "3", "--batch-size", "2", "--accumulate", "1"]
    assert main([*command, "--warmup-steps", "1", "--learning-rate", "0.01", "--device", "cpu"]) == 0
    summary = json.loads((tmp_path / "tuned" / "training.json").read_text())
    assert summary["steps"] == 3
    assert np.isfinite(summary["loss"])

    tuned = MusicLMPipeline.from_pretrained(tmp_path / "tuned")
    component = pipe.chain.component(trained)
    assert {n for n, part in tuned.components.items() if part is not None} == set(parts_of(pipe))
    before, after = (getattr(each, component).state_dict() for each in (pipe, tuned))
    assert any((before[key] != after[key]).any() for key in before), "nothing was learnt"

    # the same audio whole, in pieces, and loaded again
    audio = heard(tuned)
    assert audio.shape == (1, 1, round(1.3 * tuned.sampling_rate))
    assert audio.std() > 1e-4
    stream = tuned.stream("a calm piano", 1.3, generator=torch.Generator().manual_seed(0))
    assert (np.concatenate(list(stream), axis=-1) == audio).all()
    again = heard(tuned, num_candidates=2)
    assert again.shape == audio.shape

    tuned.push_to_hub("someone/tuned", token=token)
    loaded = MusicLMPipeline.from_pretrained("someone/tuned", cache_dir=tmp_path / "cache")
    assert (heard(loaded) == audio).all()
    card = hub.files("someone/tuned")["README.md"].decode()
    for stream in tuned.chain.streams.values():
        assert f"| {stream.name} | {stream.num_codebooks} × {stream.codebook_size} |" in card
    numbers = {1: "in one stage ", 2: "in two stages ", 3: "in three stages "}
    assert numbers[len(tuned.chain.stages)] in card


@pytest.mark.parametrize("name", ["encodec 32 kHz", "encodec 48 kHz", "dac 24 kHz", "mimi"])
def test_another_codec_is_another_component(name, tmp_path):
    """By configuration alone: mono or stereo, causal or looking ahead, whole or as a stream."""
    make, sampling_rate, channels, _ = CODECS[name]
    parts, codec = parts_of(one_stage(), "codec", "acoustic_model"), make()
    clap = one_stage().chain.streams["clap"]
    only = stage([clap, acoustic_stream(codec, "sound", 0, 2)], 1.0, 0.5)
    MusicLMPipeline(**parts, codec=codec, acoustic_model=only).save_pretrained(tmp_path)
    pipe = MusicLMPipeline.from_pretrained(tmp_path)
    audio = heard(pipe, 2.3)
    assert pipe.sampling_rate == sampling_rate
    assert audio.shape == (1, channels, round(2.3 * sampling_rate))
    pieces = list(pipe.stream("a calm piano", 2.3, generator=torch.Generator().manual_seed(0)))
    assert len(pieces) > 1
    assert (np.concatenate(pieces, axis=-1) == audio).all()


class TestAStreamThatNobodyGave:
    def test_an_optional_one_is_hidden(self):
        pipe = three_stages_with_mood()
        calm, wild = (torch.full((1, 4), value) for value in (0, 2))
        quiet = heard(pipe, 1.0)
        assert (heard(pipe, 1.0, mood_token_ids=calm) != heard(pipe, 1.0, mood_token_ids=wild)).any()
        assert (heard(pipe, 1.0, mood_token_ids=torch.full((1, 4), -1)) == quiet).all()
        streamed = pipe.stream("a calm piano", 1.0, generator=torch.Generator().manual_seed(0), mood_token_ids=wild)
        assert (np.concatenate(list(streamed), axis=-1) == heard(pipe, 1.0, mood_token_ids=wild)).all()

    def test_another_is_refused_by_name(self):
        pipe = three_stages_with_mood()
        streams = [dict(s.to_dict(), optional=False) for s in pipe.coarse_model.streams]
        changed = stage([TokenStream(**s) for s in streams], 2.0, 1.0)
        strict = MusicLMPipeline(**parts_of(pipe, "coarse_model"), coarse_model=changed)
        with pytest.raises(ValueError, match=r"coarse_model needs the stream 'mood'.*pass `mood_token_ids`"):
            heard(strict)
        with pytest.raises(ValueError, match="`mood_token_ids` has 1 frames; 1 s need 2"):
            heard(strict, 1.0, mood_token_ids=torch.zeros(1, 1, dtype=torch.long))

    def test_an_unknown_argument_is_refused_by_name(self, pipe):
        with pytest.raises(ValueError, match="no argument 'mood_token_ids': its streams are clap_token_ids, semantic"):
            heard(pipe, mood_token_ids=torch.zeros(1, 4, dtype=torch.long))
        with pytest.raises(ValueError, match=r"no argument 'temperature'.*coarse_settings"):
            pipe.stream("a", temperature=1.0)


class TestTokensOfOtherNames:
    def test_all_codebooks_are_put_together_from_several_columns(self, mood_source, music, tmp_path):
        """A stage that predicts every codebook trains on the tokens of three stages."""
        three_stages().save_pretrained(tmp_path / "three")
        one_stage().save_pretrained(tmp_path / "one")
        command = ["tokenize", str(music), "--model", str(tmp_path / "three"), "--output", str(tmp_path / "tokens")]
        assert main([*command, "--device", "cpu"]) == 0
        record = TokenDataset.load(tmp_path / "tokens").record
        sound = one_stage().acoustic_model.predicted_stream
        assert [(own.name, part) for own, part in record.columns_of(sound)] == [
            ("coarse", slice(0, 2)),
            ("fine", slice(0, 3)),
        ]
        command = ["train", "--stage", "acoustic", "--tokens", str(tmp_path / "tokens"), "--steps", "2"]
        command += ["--batch-size", "2", "--accumulate", "1", "--device", "cpu", "--hold-out", "0"]
        assert main([*command, "--from", str(tmp_path / "one"), "--output", str(tmp_path / "tuned")]) == 0

    def test_a_missing_codebook_is_named(self):
        from open_musiclm.data import TokenRecord

        coarse = TokenStream("coarse", 16, 2, 50.0, first_codebook=0, source="codec")
        record = TokenRecord((coarse,))
        with pytest.raises(ValueError, match=r"no stream 'sound'; they have \['coarse'\]"):
            record.columns_of(TokenStream("sound", 16, 5, 50.0, source="codec", first_codebook=0))
        [(own, part)] = record.columns_of(TokenStream("top", 16, 1, 50.0, source="codec", first_codebook=1))
        assert (own.name, part) == ("coarse", slice(1, 2))


class TestChain:
    def test_order_follows_from_streams(self):
        a, b, c = (TokenStream(name, 4) for name in "abc")
        assert order_stages({"last": [a, b, c], "first": [a], "middle": [a, b]}) == ["first", "middle", "last"]
        with pytest.raises(ValueError, match="x, y wait for one another"):
            order_stages({"x": [a, b], "y": [b, a]})
        with pytest.raises(ValueError, match="x and y both predict the stream 'b'"):
            order_stages({"x": [a, b], "y": [c, b]})

    def test_a_gap_between_codebooks_is_refused(self, pipe):
        parts = parts_of(pipe, "coarse_model")
        with pytest.raises(ValueError, match=r"fine_model predicts the codec's codebooks from 2 on.*end at 0"):
            MusicLMPipeline(**parts)
        with pytest.raises(ValueError, match="a stage that predicts a codec's codes; there are semantic_model"):
            MusicLMPipeline(**parts_of(pipe, "coarse_model", "fine_model"))

    def test_coarse_alone_is_heard(self, pipe):
        assert heard(MusicLMPipeline(**parts_of(pipe, "fine_model"))).std() > 1e-4

    def test_needed_stages(self, pipe):
        chain = StageChain(pipe.components)
        assert chain.needed(["clap"]) == ["semantic_model", "coarse_model", "fine_model"]
        assert chain.needed(["clap", "semantic"]) == ["coarse_model", "fine_model"]
        assert chain.needed(["coarse", "fine"]) == []
        assert [stream.name for _, stream in chain.missing([])] == ["clap"] * 3
        assert chain.component("fine") == chain.component("fine_model") == "fine_model"
        with pytest.raises(ValueError, match="no stage 'loud'; there are semantic, coarse, fine"):
            chain.component("loud")


def test_no_code_spells_the_streams():
    """What streams there are is data: their names stand in defaults, presets, published names and the original's files alone."""
    named = {
        "models/configuration.py",  # defaults and presets
        "models/stage_kinds.py",
        "models/streams.py",  # configs saved before a stream named its source
        "training/plan.py",  # published settings
        "training/arguments.py",
        "pipelines/named_steps.py",  # published verbs
    }
    root = Path(open_musiclm.__file__).parent
    found = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name in named or name.startswith(("checkpoints/", "conversion/")) or name == "cli/convert.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in (
                "coarse",
                "fine",
                "coarse_token_ids",
                "fine_token_ids",
            ):
                found.append(f"{name}:{node.lineno}")
    assert not found
