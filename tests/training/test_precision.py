"""Weights in bfloat16: trained, resumed, evaluated and saved so, with float32 copies in the optimizer alone."""

import json

import pytest
import torch
from safetensors.torch import load_file
from test_train_stage import HELD_OUT, assert_same, clips, interrupted_in_step, losses, still, train, weights  # noqa: F401  (a fixture)

from open_musiclm import MusicLMPipeline
from open_musiclm.cli import main

BF16 = ("--precision", "bf16-true")


def dtypes(tensors):
    """Of all weights but the position bias, which stays in float32 whatever the model's."""
    return {tensor.dtype for name, tensor in tensors.items() if "position_bias" not in name}


def test_the_result_is_in_bfloat16_and_near_to_that_of_float32(clips, pipeline_folder, tmp_path):  # noqa: F811
    settings = still(pipeline_folder)
    assert main(train(clips, tmp_path / "exact", *settings, steps=30)) == 0
    assert main(train(clips, tmp_path / "rounded", *settings, *BF16, steps=30)) == 0
    saved = weights(tmp_path / "rounded")
    assert dtypes(saved) == {torch.bfloat16}
    assert {t.dtype for name, t in saved.items() if "position_bias" in name} == {torch.float32}
    assert json.loads((tmp_path / "rounded" / "coarse_model" / "config.json").read_text())["dtype"] == "bfloat16"
    found, expected = losses(tmp_path / "rounded"), losses(tmp_path / "exact")
    assert expected[-1] < 0.9 * expected[0]
    assert found == pytest.approx(expected, rel=0.02)
    stage = MusicLMPipeline.from_pretrained(tmp_path / "rounded", dtype=torch.bfloat16).coarse_model
    assert stage.dtype == torch.bfloat16
    for name, tensor in saved.items():
        assert torch.equal(stage.state_dict()[name], tensor)


def test_checkpoints_hold_the_float32_copies(clips, pipeline_folder, tmp_path):  # noqa: F811
    assert main(train(clips, tmp_path / "run", *still(pipeline_folder), *BF16)) == 0
    checkpoint = tmp_path / "run" / "training" / "checkpoint-6"
    states = torch.load(checkpoint / "optimizer.pt")["state"].values()
    copies = [state["master_weight"] for state in states if "master_weight" in state]
    saved = [t for t in load_file(checkpoint / "model.safetensors").values() if t.dtype == torch.bfloat16]
    assert {copy.dtype for copy in copies} == {torch.float32}
    assert {state["exp_avg"].dtype for state in states} == {torch.float32}
    for copy in copies:
        assert any(copy.shape == weight.shape and torch.equal(copy.bfloat16(), weight) for weight in saved)
    assert any(not torch.equal(copy, copy.bfloat16().float()) for copy in copies)


@pytest.mark.parametrize("more", [(), ("--lora", "4")], ids=["weights", "adapters"])
def test_resumed_equals_undisturbed(clips, pipeline_folder, tmp_path, monkeypatch, more):  # noqa: F811
    settings = ["--from", pipeline_folder, "--save-every", 3, *HELD_OUT, *BF16, *more]
    assert main(train(clips, tmp_path / "whole", *settings)) == 0

    with interrupted_in_step(5, monkeypatch):
        assert main(train(clips, tmp_path / "parts", *settings)) == 130
    assert main(train(clips, tmp_path / "parts", *settings)) == 0
    assert dtypes(weights(tmp_path / "whole")) == {torch.bfloat16}
    assert_same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_sharding_is_refused(clips, tmp_path, capsys):  # noqa: F811
    assert main(train(clips, tmp_path / "run", *BF16, "--set", "fsdp=true")) == 1
    assert "ask for `bf16` in place of `bf16-true`" in capsys.readouterr().err
