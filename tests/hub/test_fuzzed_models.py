"""Saved models and checkpoints damaged at random, with fixed seeds: what is read is whole, what is not is one line."""

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from goldens import FILES, GOLDENS
from tiny import tiny_pipeline
from transformers import ClapModel, EncodecModel

from open_musiclm import ClapQuantizer, MusicLMCoarseModel
from open_musiclm.conversion.checkpoint_error import CheckpointError
from open_musiclm.conversion.checkpoint_files import read_state_dict
from open_musiclm.conversion.original_config import read_original_config
from open_musiclm.conversion.quantizer_files import read_kmeans_centroids, read_rvq_codebooks
from open_musiclm.hub.reading import all_finite, read_pretrained

GOLDEN = GOLDENS / "conv_continuous"
MODELS = {
    "coarse_model": MusicLMCoarseModel,
    "clap_quantizer": ClapQuantizer,
    "codec": EncodecModel,
    "clap": ClapModel,
}
CHECKPOINTS = {
    FILES["coarse"]: read_state_dict,
    "clap.rvq.950_no_fusion.pt": read_rvq_codebooks,
    "kmeans_10s_no_fusion.joblib": read_kmeans_centroids,
    "model_config.json": read_original_config,
}
VALUES = (None, True, -1, 0, 1.5, 10**9, 10**400, "x", "", [], {}, [1, [2]], {"a": {"b": 1}}, "\x00\x1b[2J", 1e308)


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """Bytes cut, flipped, zeroed, repeated or put in."""
    kind, place = random.integers(5), int(random.integers(len(content)))
    length = int(random.integers(1, 5000))
    if kind == 0:
        return content[:place]
    if kind == 1:
        changed = bytearray(content)
        for position in random.integers(len(content), size=3):
            changed[position] ^= 1 << int(random.integers(8))
        return bytes(changed)
    if kind == 2:
        return content[:place] + bytes(min(length, len(content) - place)) + content[place + length :]
    if kind == 3:
        return content[:place] + content[place : place + length] * 2 + content[place + length :]
    return content[:place] + random.bytes(length) + content[place:]


def damaged_json(content: bytes, random: np.random.Generator) -> bytes:
    """A JSON file with one of its values another, or its bytes damaged."""
    if random.random() < 0.2:
        return damaged(content, random)
    table = json.loads(content)
    inner = table
    while True:
        key = list(inner)[int(random.integers(len(inner)))]
        if isinstance(inner[key], dict) and inner[key] and random.random() < 0.8:
            inner = inner[key]
            continue
        inner[key] = VALUES[int(random.integers(len(VALUES)))]
        return json.dumps(table).encode()


def one_line(error: Exception) -> bool:
    return isinstance(error, ValueError | OSError) and "\n" not in str(error) and len(str(error)) < 2000


class Report:
    """What was tried, and what failed: an error of another kind, or a model with values that are no numbers."""

    def __init__(self):
        self.tried, self.read, self.failed = 0, 0, []

    def attempt(self, what, read):
        self.tried += 1
        try:
            read()
        except Exception as error:
            if not one_line(error):
                self.failed.append((what, type(error).__name__, str(error)[:300]))
        else:
            self.read += 1

    def finish(self, name: str) -> None:
        print(f"{name}: {self.tried} tried, {self.read} read whole, {len(self.failed)} failed")
        assert not self.failed, self.failed[:5]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "pipeline"
    tiny_pipeline().save_pretrained(folder)
    return folder


def fuzz_models(saved: Path, scratch: Path, num_each: int) -> None:
    report = Report()
    for component, model_class in MODELS.items():
        for index in range(num_each):
            random = np.random.default_rng(index)
            folder = shutil.copytree(saved / component, scratch / f"{component}-{index}")
            file = folder / ("config.json" if index % 2 else "model.safetensors")
            file.write_bytes((damaged_json if index % 2 else damaged)(file.read_bytes(), random))

            def read(folder=folder, model_class=model_class):
                model = read_pretrained(model_class, folder)
                assert all(all_finite(parameter) for parameter in model.parameters())

            report.attempt((component, index), read)
            shutil.rmtree(folder)
    report.finish("saved models")


def fuzz_checkpoints(scratch: Path, num_each: int) -> None:
    report = Report()
    for name, reader in CHECKPOINTS.items():
        content = (GOLDEN / name).read_bytes()
        for index in range(num_each):
            random = np.random.default_rng(index)
            change = damaged_json if name.endswith(".json") else damaged
            (scratch / name).write_bytes(change(content, random))

            report.attempt((name, index), lambda reader=reader, file=scratch / name: reader(file))
    report.finish("checkpoints")


def test_some_damaged_models(saved, tmp_path):
    fuzz_models(saved, tmp_path, 20)


def test_some_damaged_checkpoints(tmp_path):
    fuzz_checkpoints(tmp_path, 40)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_damaged_models(saved, tmp_path):
    fuzz_models(saved, tmp_path, 400)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_damaged_checkpoints(tmp_path):
    fuzz_checkpoints(tmp_path, 2000)


def test_a_bit_that_flips_in_a_checkpoint_is_never_converted(tmp_path):
    """Wherever it is: refused, or (in the archive's padding) the very same tensors."""
    file = FILES["coarse"]
    content, random = (GOLDEN / file).read_bytes(), np.random.default_rng(0)
    expected = torch.load(GOLDEN / file, weights_only=True)
    for position in random.integers(len(content), size=60):
        changed = bytearray(content)
        changed[position] ^= 1 << int(random.integers(8))
        (tmp_path / file).write_bytes(changed)
        with contextlib.suppress(CheckpointError):
            read = read_state_dict(tmp_path / file)
            assert read.keys() == expected.keys()
            assert all(torch.equal(read[name], expected[name]) for name in expected)
