"""What the first release saved loads in every later version and gives the same tokens and audio.

`tests/saved/first_release` was written by `MusicLMPipeline.save_pretrained` of that release, with the networks of tiny.py.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from open_musiclm import MusicLMPipeline

SAVED = Path(__file__).parents[1] / "saved"
PROMPTS = ["a calm piano", "fast drums"]


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def pipe() -> MusicLMPipeline:
    return MusicLMPipeline.from_pretrained(SAVED / "first_release")


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(SAVED / "first_release_expected.safetensors")


def test_a_saved_pipeline_gives_the_same_tokens(pipe, expected):
    clap = pipe.encode_prompt(PROMPTS)
    assert torch.equal(clap, expected["clap"])
    assert torch.equal(pipe.generate_semantic_tokens(clap, 3.0, generators()), expected["semantic"])
    assert torch.equal(pipe.generate_coarse_tokens(clap, expected["semantic"], 3.0, generators()), expected["coarse"])
    assert torch.equal(pipe.generate_fine_tokens(clap, expected["coarse"], 3.0, generators()), expected["fine"])


def test_a_saved_pipeline_gives_the_same_audio(pipe, expected):
    audio = pipe(PROMPTS, audio_length_in_s=3.0, generator=generators(), output_type="pt").audios
    torch.testing.assert_close(audio, expected["audio"], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "part", ["semantic_model", "coarse_model", "fine_model", "clap_quantizer", "semantic_quantizer"]
)
def test_saved_parts_load_through_auto_classes(pipe, part):
    loaded = AutoModel.from_pretrained(SAVED / "first_release" / part)
    assert type(loaded) is type(getattr(pipe, part))
    for name, value in getattr(pipe, part).state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
