"""The model in the box."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from open_musiclm import MusicLMPipeline, mini_checkpoint
from open_musiclm.audio import read_audio
from open_musiclm.cli import main


@pytest.fixture(scope="module")
def mini():
    pipeline = MusicLMPipeline.from_pretrained(mini_checkpoint())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_it_is_small_and_holds_no_pickle():
    files = [path for path in Path(mini_checkpoint()).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(len(zlib.compress(path.read_bytes())) for path in files) <= 25_000_000  # as in a wheel
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt", ".md", ".py"}


def test_every_part_is_there_and_knows_its_codebooks(mini):
    assert [name for name, part in mini.components.items() if part is None] == ["acoustic_model"]
    for stage in (mini.semantic_model, mini.coarse_model, mini.fine_model):
        coded = [stream for stream in stage.streams if stream.source in ("clap", "semantic", "codec")]
        assert all(stream.codebook_fingerprint for stream in coded)
        assert stage.dtype == torch.float32
        assert stage.generation_config.mask_condition_eos is True
    card = (Path(mini_checkpoint()) / "README.md").read_text()
    assert "demonstration" in card


def test_it_makes_sound_that_depends_on_the_prompt(mini):
    prompts = ["a loud fast rock piece with drums on a synth", "a soft slow flute melody without drums"]
    audios = mini(prompts, 4.0, generator=[torch.Generator().manual_seed(0) for _ in prompts]).audios
    assert audios.shape == (2, 1, 4 * 24_000)
    levels = 10 * np.log10(np.mean(audios**2, axis=(1, 2)))
    assert (levels > -45).all(), "silence"
    assert np.mean(np.abs(audios) >= 0.999) < 0.01, "clipping"
    spectrum = np.abs(np.fft.rfft(audios[:, 0]))
    flatness = np.exp(np.mean(np.log(spectrum + 1e-9), axis=1)) / spectrum.mean(axis=1)
    assert (flatness < 0.6).all(), "noise: white noise has 0.85"
    own = [mini.encode_prompt(prompt)[0].tolist() for prompt in prompts]
    assert own[0] != own[1]


def test_the_command_needs_no_model(tmp_path):
    path = tmp_path / "song.wav"
    assert main(["generate", "a calm piano melody in a minor key", "-d", "1", "-o", str(path), "--seed", "0"]) == 0
    audio, rate = read_audio(path)
    assert rate == 24_000
    assert audio.shape == (1, 24_000)
    assert np.abs(audio).max() > 0.005


def test_index_names_the_public_module():
    index = json.loads((Path(mini_checkpoint()) / "model_index.json").read_text())
    assert index["coarse_model"] == ["open_musiclm", "MusicLMCoarseModel"]
