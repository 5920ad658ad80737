"""What people try with a pipeline in its first hour."""

import ast
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_pipeline, tiny_stage

import open_musiclm
from open_musiclm.cli.loading import pick_device
from open_musiclm.training import add_lora, load_lora, merge_lora, save_lora


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_numbers_of_numpy_are_numbers(pipe):
    made = pipe("a", np.float32(0.5), num_waveforms_per_prompt=np.int64(2), generator=seeded())
    assert made.audios.shape == (2, 1, 4000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"audio_length_in_s": 0.00001}, "1e-05 s hold no sample at 8000 Hz"),
        ({"audio_length_in_s": True}, "must be a number of seconds"),
        ({"generator": 0}, r"`torch.Generator\(\).manual_seed\(0\)`"),
        ({"generator": [0]}, "must be a `torch.Generator`"),
        ({"generator": "0"}, "must be a `torch.Generator`"),
        ({"num_waveforms_per_prompt": 10**9}, "1000000000 waveforms are more than one call makes"),
        ({"num_waveforms_per_prompt": 1.5}, "must be a whole number"),
        ({"num_candidates": 10**9}, "1000000000 waveforms are more than one call makes"),
        ({"settings": {"num_beams": 4}}, "there are no beams"),
        ({"settings": {"num_return_sequences": 2}}, "`num_waveforms_per_prompt`"),
        ({"settings": {"return_dict_in_generate": True}}, "token ids alone are returned"),
        ({"settings": {"max_new_tokens": 9}}, "the length is `num_frames`"),
        ({"settings": {"early_stopping": True}}, "the settings there are: "),
        ({"coarse_settings": {"top_p": 2}}, r"`top_p` must be a number in \(0, 1\], got 2"),
        ({"coarse_settings": {"top_p": float("nan")}}, "`top_p` must be a number"),
        ({"coarse_settings": {"temperature": 0.0}}, "`temperature` must be a number above 0"),
        ({"coarse_settings": {"top_k": 1.5}}, "`top_k` must be a whole number"),
        ({"coarse_settings": {"min_p": -1}}, "`min_p` must be a number"),
        ({"coarse_settings": {"loudness": 1}}, "does not know the setting 'loudness'"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe("a", **{"audio_length_in_s": 0.5, **arguments})


def test_settings_that_are_heeded_and_those_that_say_the_usual_pass(pipe):
    settings = {"temperature": 0.7, "top_p": 0.9, "min_p": 0.01, "num_beams": 1, "num_return_sequences": 1, "top_k": 5}
    assert np.isfinite(pipe("a", 0.5, settings=settings).audios).all()


def test_a_stream_of_too_many_is_refused(pipe):
    with pytest.raises(ValueError, match="more than one call makes"):
        pipe.stream("a", 1.0, num_waveforms_per_prompt=10**9)


def test_a_pipeline_can_be_pickled(pipe):
    """As data loaders, process pools and Ray do it."""
    copy = pickle.loads(pickle.dumps(pipe))
    assert type(copy) is type(pipe)
    copy.set_progress_bar_config(disable=True)
    expected = pipe("a calm piano", 0.5, generator=seeded()).audios
    np.testing.assert_array_equal(copy("a calm piano", 0.5, generator=seeded()).audios, expected)
    assert copy.coarse_model.generation_config.temperature == pipe.coarse_model.generation_config.temperature
    half = pickle.loads(pickle.dumps(tiny_pipeline().to(torch.bfloat16)))
    assert half.coarse_model.dtype == torch.bfloat16


def adapter(folder, stage, seed):
    model = add_lora(stage, 4)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    save_lora(model, folder)
    return folder


def test_adapters_are_loaded_into_the_stage_that_they_are_for_and_taken_out_again(tmp_path):
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=True)
    before = {name: tensor.clone() for name, tensor in pipe.coarse_model.state_dict().items()}
    untouched = pipe("a piano", 0.5, generator=seeded()).audios
    one, two = (adapter(tmp_path / str(seed), tiny_pipeline().coarse_model, seed) for seed in (1, 2))
    fine = adapter(tmp_path / "fine", tiny_pipeline().fine_model, 3)

    pipe.load_lora_weights(one, two, fine, weights=[0.7, -0.5, 1.0])
    expected = merge_lora(load_lora(tiny_pipeline().coarse_model, one, two, weights=[0.7, -0.5])).state_dict()
    torch.testing.assert_close(dict(pipe.coarse_model.state_dict()), dict(expected))
    assert not torch.equal(pipe.fine_model.state_dict()["decoder.layers.0.mlp.down_proj.weight"],
                           tiny_pipeline().fine_model.state_dict()["decoder.layers.0.mlp.down_proj.weight"])  # fmt: skip
    assert (pipe("a piano", 0.5, generator=seeded()).audios != untouched).any()
    pipe.load_lora_weights(one)  # once more

    pipe.unload_lora_weights()
    found = pipe.coarse_model.state_dict()
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], before[name]) for name in before)
    np.testing.assert_array_equal(pipe("a piano", 0.5, generator=seeded()).audios, untouched)
    pipe.unload_lora_weights()


def test_adapters_that_do_not_fit_are_refused(tmp_path, hub, token):
    pipe = tiny_pipeline()
    with pytest.raises(ValueError, match="neither a folder nor a Hub id"):
        pipe.load_lora_weights(tmp_path / "nothing")
    other = [
        {**stream.to_dict(), "codebook_fingerprint": "sha256:0123456789abcdef"}
        for stream in tiny_stage("fine").streams
    ]
    with pytest.raises(ValueError, match="Codebooks differ"):
        pipe.load_lora_weights(adapter(tmp_path / "a", tiny_stage("fine", other), 0))
    with pytest.raises(ValueError, match="Got 1 weights for 2 adapters"):
        pipe.load_lora_weights("me/a", "me/b", weights=[1.0])


def test_python_in_the_folder_of_a_stage_says_what_is_wrong(pipeline_folder):
    for command in (["-c", "import open_musiclm"], ["-m", "open_musiclm", "--version"]):
        result = subprocess.run(
            [sys.executable, *command], cwd=pipeline_folder / "coarse_model", capture_output=True, text=True
        )
        assert result.returncode == 1
        assert "use another folder" in result.stderr
        assert "Traceback" not in result.stderr


def test_type_checkers_see_every_name():
    source = Path(open_musiclm.__file__)
    block = next(node for node in ast.parse(source.read_text()).body if isinstance(node, ast.If))
    names = {alias.name for node in block.body for alias in node.names}
    assert names | {"__version__"} == set(open_musiclm.__all__)
    assert (source.parent / "py.typed").is_file()


@pytest.mark.slow
def test_types_reveal_the_pipeline(tmp_path):
    (tmp_path / "use.py").write_text(
        "from open_musiclm import MusicLMPipeline\n"
        "pipe = MusicLMPipeline.from_pretrained('x')\n"
        "reveal_type(pipe)\n"
        "reveal_type(pipe.sampling_rate)\n"
    )
    result = subprocess.run([sys.executable, "-m", "mypy", "use.py", "--ignore-missing-imports", "--follow-imports=silent"],
                            cwd=tmp_path, capture_output=True, text=True)  # fmt: skip
    assert "open_musiclm.pipelines.musiclm.MusicLMPipeline" in result.stdout
    assert '"int"' in result.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("meta", "holds shapes and no numbers"),
        ("mps", "Apple silicon"),
        ("cuda:9", "cannot be used here"),
        ("abacus", "abacus"),
    ],
)
def test_devices_that_cannot_be_used_say_why(name, message):
    with pytest.raises(ValueError, match=message):
        pick_device(name)


def test_the_case_of_a_device_does_not_matter():
    assert pick_device("CPU") == "cpu"
