"""Another codec is another component: mono or stereo, 24 to 48 kHz, from recordings to tokens, training and audio."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from codecs_of_all_kinds import CODECS, dac, encodec
from music import music_pipeline, notes
from tiny import SIZES, tiny_codec
from transformers import EncodecModel

from open_musiclm import MusicLMPipeline, MusicLMStageConfig, MusicLMStageModel
from open_musiclm.audio import read_audio
from open_musiclm.audio.levels import remove_offset
from open_musiclm.cli import main
from open_musiclm.data import TokenDataset
from open_musiclm.tokenizers.codec import as_codec
from open_musiclm.tokenizers.compatibility import acoustic_stream, clap_stream

RATE = 22_050
DOCS = Path(__file__).parents[2] / "docs" / "training.md"


def interleaved(make):
    model = make()
    model.config.stereo = "interleaved"
    return model


def tiny_music_codec():
    """Its codebooks are of what its encoder gives, so that left and right differ in tokens."""
    return music_pipeline().codec


#: name → maker of the codec, its rate, its channels
KINDS = {
    "24 kHz": (encodec, 24_000, 1),
    "32 kHz": (CODECS["encodec 32 kHz"][0], 32_000, 1),
    "44.1 kHz": (CODECS["dac 44.1 kHz"][0], 44_100, 1),
    "48 kHz stereo": (CODECS["encodec 48 kHz"][0], 48_000, 2),
    "32 kHz interleaved stereo": (lambda: interleaved(CODECS["encodec 32 kHz"][0]), 32_000, 2),
    "44.1 kHz interleaved stereo": (lambda: interleaved(lambda: dac(sampling_rate=44_100, ratios=(2, 4, 8, 8))), 44_100, 2),
}  # fmt: skip


def pipeline_with(codec, num_codebooks=None):
    """CLAP → all codebooks of the codec, in the delay pattern: nothing in it knows which codec that is."""
    pipe = music_pipeline()
    number = as_codec(codec).num_codebooks if num_codebooks is None else num_codebooks
    sound = replace(acoustic_stream(codec, "sound", 0, number), pattern="delay")
    torch.manual_seed(0)
    config = MusicLMStageConfig(
        streams=[clap_stream(pipe.clap_quantizer).to_dict(), sound.to_dict()],
        window_in_s=1.0,
        window_stride_in_s=0.5,
        hidden_dropout=0.0,
        forgetful_mask_prob=0.0,
        **SIZES,
    )
    parts = {name: getattr(pipe, name) for name in ("clap", "clap_processor", "clap_quantizer")}
    return MusicLMPipeline(**parts, acoustic_model=MusicLMStageModel(config), codec=codec)


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Left and right play different tunes; one file is mono, and one has six channels."""
    folder = tmp_path_factory.mktemp("stereo")
    for index in range(3):
        sides = np.stack([notes(2 * index, 3.0, RATE), 0.5 * notes(2 * index + 1, 3.0, RATE)], axis=1)
        soundfile.write(folder / f"{index}.wav", sides, RATE)
    soundfile.write(folder / "mono.wav", notes(9, 3.0, RATE), RATE)
    soundfile.write(folder / "six.wav", np.stack([notes(10 + side, 3.0, RATE) for side in range(6)], axis=1), RATE)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_training_and_audio(kind, music, tmp_path):
    make, rate, channels = KINDS[kind]
    pipeline_with(make(), 4).save_pretrained(tmp_path / "pipe")
    at = ["--device", "cpu"]
    tokens = ["tokenize", str(music), "--model", str(tmp_path / "pipe"), "--output", str(tmp_path / "tokens"), *at]
    assert main(tokens) == 0
    record = TokenDataset.load(tmp_path / "tokens").record
    assert record.settings["sampling_rates"]["codec"] == rate
    assert record.settings.get("channels") == (None if channels == 1 else {"codec": 2})
    run = ["train", "--stage", "acoustic", "--tokens", str(tmp_path / "tokens"), "--from", str(tmp_path / "pipe")]
    run += ["--output", str(tmp_path / "tuned"), "--steps", "3", "--batch-size", "2", "--accumulate", "1"]
    assert main([*run, *at, "--hold-out", "0"]) == 0
    assert np.isfinite(json.loads((tmp_path / "tuned" / "training.json").read_text())["loss"])
    song = ["generate", "a calm piano", "--model", str(tmp_path / "tuned"), "--duration", "1.7", "--seed", "0"]
    assert main([*song, "-o", str(tmp_path / "song.wav"), *at]) == 0
    audio, its_rate = read_audio(tmp_path / "song.wav", mono=False)
    assert its_rate == rate
    assert audio.shape == (channels, round(1.7 * rate))
    if channels == 2:
        assert np.abs(audio[0] - audio[1]).max() > 1e-4, "both sides are made, not one twice"


@pytest.fixture(scope="module")
def tokens(music, tmp_path_factory):
    """The folder of a pipeline whose tokens tell sounds apart, and rows by file: each file is one crop."""
    folder = tmp_path_factory.mktemp("interleaved")
    pipeline_with(interleaved(tiny_music_codec)).save_pretrained(folder / "pipe")
    command = ["tokenize", str(music), "--model", str(folder / "pipe"), "--output", str(folder / "tokens")]
    assert main([*command, "--device", "cpu", "--crop", "3"]) == 0
    dataset = TokenDataset.load(folder / "tokens", crops_per_file=1)
    return folder, {row["path"]: row for row in (dataset[index] for index in range(len(dataset)))}


class TestInterleavedTokens:
    def test_each_side_is_what_the_mono_codec_makes_of_that_channel(self, tokens, music):
        codec = as_codec(tiny_music_codec())
        for name in ("0.wav", "mono.wav", "six.wav"):
            sides = read_audio(music / name, sampling_rate=8000, mono=False)[0]
            if len(sides) == 6:
                sides = np.stack([sides[0::2].mean(axis=0), sides[1::2].mean(axis=0)])
            ids = tokens[1][name]["sound_token_ids"]
            assert ids.shape == (150, 10)
            for side in range(2):
                own = codec.encode(torch.from_numpy(remove_offset(sides[side % len(sides)]))[None, None])[0].numpy()
                share = (ids[:, side::2] == own).mean()
                assert share > 0.99, (name, side, share)
        assert (tokens[1]["0.wav"]["sound_token_ids"][:, 0::2] != tokens[1]["0.wav"]["sound_token_ids"][:, 1::2]).mean() > 0.3  # fmt: skip
        mono = tokens[1]["mono.wav"]["sound_token_ids"]
        assert (mono[:, 0::2] == mono[:, 1::2]).all()

    def test_a_fresh_stage_takes_all_codebooks_of_both_sides(self, tokens, tmp_path):
        folder = tokens[0]
        command = ["train", "--stage", "acoustic", "--preset", "single_stage", "--tokens", str(folder / "tokens")]
        command += ["--output", str(tmp_path / "run"), "--steps", "2", "--batch-size", "2", "--accumulate", "1"]
        small = {"num_hidden_layers": 1, "hidden_size": 32, "window_in_s": 2.0, "window_stride_in_s": 1.0}
        command += [f"--config={name}={value}" for name, value in small.items()]
        assert main([*command, "--device", "cpu", "--hold-out", "0"]) == 0
        stage = MusicLMStageModel.from_pretrained(tmp_path / "run" / "stage")
        assert stage.predicted_stream.num_codebooks == 10
        assert stage.predicted_stream.pattern == "delay"
        pipe = MusicLMPipeline.from_pretrained(folder / "pipe")
        pipe.register_modules(acoustic_model=stage)
        pipe.set_progress_bar_config(disable=True)
        sides = pipe("a calm piano", 2.0, generator=torch.Generator().manual_seed(0)).audios[0]
        assert sides.shape == (2, 16_000)
        streamed = pipe.stream("a calm piano", 2.0, generator=torch.Generator().manual_seed(0))
        assert (np.concatenate(list(streamed), axis=-1)[0] == sides).all()

    def test_tokens_of_the_mono_codec_are_refused(self, tokens, music, tmp_path, capsys):
        folder = tokens[0]
        pipeline_with(tiny_music_codec()).save_pretrained(tmp_path / "mono")
        command = [
            "train",
            "--stage",
            "acoustic",
            "--tokens",
            str(folder / "tokens"),
            "--from",
            str(tmp_path / "mono"),
        ]
        assert main([*command, "--output", str(tmp_path / "run"), "--device", "cpu"]) == 1
        assert "num_codebooks is 10 for the one, 5 for the other" in capsys.readouterr().err


def test_the_documentation_builds_such_a_pipeline(tmp_path, monkeypatch):
    """docs/training.md, "Other codecs, and stereo", with a thin codec of the same class in the published one's place."""
    section = DOCS.read_text(encoding="utf-8").split("## Other codecs, and stereo")[1].split("\n## ")[0]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(EncodecModel, "from_pretrained", lambda name: CODECS["encodec 32 kHz"][0]())
    exec(code, {})
    monkeypatch.undo()
    pipe = MusicLMPipeline.from_pretrained(tmp_path / "stereo")
    assert (pipe.sampling_rate, as_codec(pipe.codec).channels) == (32_000, 2)
    assert pipe.acoustic_model.config.condition_dropout == 0.2
    assert pipe.acoustic_model.predicted_stream.num_codebooks == as_codec(pipe.codec).num_codebooks == 8


def test_channels_that_cancel_are_left_out_of_stereo_too(tmp_path, capsys):
    (tmp_path / "music").mkdir()
    left = notes(0, 3.0, RATE)
    soundfile.write(tmp_path / "music" / "opposite.wav", np.stack([left, -left], axis=1), RATE)
    soundfile.write(tmp_path / "music" / "whole.wav", np.stack([left, left], axis=1), RATE)
    pipeline_with(interleaved(tiny_codec)).save_pretrained(tmp_path / "pipe")
    command = ["tokenize", str(tmp_path / "music"), "--model", str(tmp_path / "pipe"), "--output", str(tmp_path / "t")]
    assert main([*command, "--device", "cpu"]) == 0
    assert "left out opposite.wav: channels cancel" in capsys.readouterr().out
