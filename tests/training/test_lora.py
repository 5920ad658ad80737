import json

import pytest
import torch
from tiny import tiny_stage

from open_musiclm.training import add_lora, load_lora, merge_lora, push_lora, save_lora

INPUTS = {
    "clap_token_ids": torch.arange(6).view(2, 3),
    "coarse_token_ids": torch.arange(80).view(2, 20, 2) % 16,
    "fine_token_ids": torch.arange(120).view(2, 20, 3) % 16,
}


def adapter(folder, seed, rank=4, streams=None):
    """A saved adapter with random weights, and what the stage gives with it."""
    model = add_lora(tiny_stage("fine", streams), rank)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    save_lora(model, folder)
    return model.eval()(**INPUTS).logits


def test_only_adapters_are_trained_and_a_fresh_one_changes_nothing():
    model = add_lora(tiny_stage("fine"), rank=4)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    torch.testing.assert_close(model.eval()(**INPUTS).logits, tiny_stage("fine")(**INPUTS).logits)


def test_loading_and_merging_give_the_same(tmp_path):
    expected = adapter(tmp_path, seed=0)
    plain = tiny_stage("fine")(**INPUTS).logits
    assert not torch.allclose(expected, plain, atol=1e-2)
    loaded = load_lora(tiny_stage("fine"), tmp_path)
    torch.testing.assert_close(loaded(**INPUTS).logits, expected)
    merged = merge_lora(loaded)
    assert type(merged) is type(tiny_stage("fine"))
    assert set(merged.state_dict()) == set(tiny_stage("fine").state_dict())
    torch.testing.assert_close(merged(**INPUTS).logits, expected, rtol=1e-4, atol=1e-5)


def test_stacked_adapters_add_up(tmp_path):
    """The change of a weight is the weighted sum of the adapters' own changes, of whatever rank."""
    adapter(tmp_path / "a", seed=0, rank=4)
    adapter(tmp_path / "b", seed=1, rank=2)
    name = "decoder.layers.0.mlp.down_proj.weight"
    base = tiny_stage("fine").state_dict()[name]
    changes = [merge_lora(load_lora(tiny_stage("fine"), tmp_path / each)).state_dict()[name] - base for each in "ab"]
    stacked = merge_lora(load_lora(tiny_stage("fine"), tmp_path / "a", tmp_path / "b", weights=[0.7, -0.5]))
    torch.testing.assert_close(
        stacked.state_dict()[name] - base, 0.7 * changes[0] - 0.5 * changes[1], rtol=1e-4, atol=1e-5
    )


def test_what_was_loaded_can_be_saved_again(tmp_path):
    expected = adapter(tmp_path / "a", seed=0)
    adapter(tmp_path / "b", seed=1)
    save_lora(load_lora(tiny_stage("fine"), tmp_path / "a"), tmp_path / "again")
    torch.testing.assert_close(load_lora(tiny_stage("fine"), tmp_path / "again")(**INPUTS).logits, expected)
    stacked = load_lora(tiny_stage("fine"), tmp_path / "a", tmp_path / "b", weights=[0.5, 0.5])
    save_lora(stacked, tmp_path / "both")
    torch.testing.assert_close(
        load_lora(tiny_stage("fine"), tmp_path / "both")(**INPUTS).logits,
        stacked(**INPUTS).logits,
        rtol=1e-4,
        atol=1e-5,
    )
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "streams.json"
    ]  # fmt: skip


@pytest.mark.parametrize("what", ["folder", "model"])
def test_pushed_and_loaded_from_the_hub(hub, token, tmp_path, what):
    """With the record of its codebooks: another stage is refused there too."""
    streams = tiny_stage("fine").config.streams
    known = [{**stream, "codebook_fingerprint": f"sha256:{index:016d}"} for index, stream in enumerate(streams)]
    expected = adapter(tmp_path / "a", seed=0, streams=known)
    pushed = tmp_path / "a" if what == "folder" else load_lora(tiny_stage("fine", known), tmp_path / "a")
    push_lora(pushed, f"someone/{what}", token=token)
    files = hub.files(f"someone/{what}")
    assert {"adapter_model.safetensors", "adapter_config.json", "streams.json", "README.md"} <= set(files)
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] is None
    assert "sha256:0000000000000001" in files["README.md"].decode()
    loaded = load_lora(tiny_stage("fine", known), f"someone/{what}")
    torch.testing.assert_close(loaded(**INPUTS).logits, expected)
    other = [{**known[0], "codebook_fingerprint": "sha256:ffffffffffffffff"}, *known[1:]]
    with pytest.raises(ValueError, match="Codebooks differ"):
        load_lora(tiny_stage("fine", other), f"someone/{what}")
    with pytest.raises(ValueError, match="is no adapter"):
        push_lora(tmp_path, f"someone/{what}", token=token)


def test_an_adapter_for_other_tokens_is_refused(tmp_path):
    streams = tiny_stage("fine").config.streams
    known = [{**stream, "codebook_fingerprint": f"sha256:{index:016d}"} for index, stream in enumerate(streams)]
    adapter(tmp_path, seed=0, streams=known)
    other = [{**known[0], "codebook_fingerprint": "sha256:ffffffffffffffff"}, *known[1:]]
    with pytest.raises(ValueError, match="Codebooks differ"):
        load_lora(tiny_stage("fine", other), tmp_path)
    with pytest.raises(ValueError, match="for a stage with the streams"):
        load_lora(tiny_stage("semantic"), tmp_path)


@pytest.mark.parametrize("value", [5, {"a": 1}, [1], True])
@pytest.mark.parametrize("name", ["base_model_name_or_path", "revision", "task_type", "peft_version"])
def test_settings_of_another_type_are_refused_by_name(tmp_path, name, value):
    adapter(tmp_path, 0)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    stage = tiny_stage("fine")
    with pytest.raises(ValueError, match=f"adapter_config.json: `{name}` must be a text, got"):
        load_lora(stage, tmp_path)
    assert not any("lora" in parameter for parameter, _ in stage.named_parameters())


def test_wrong_calls_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one adapter"):
        load_lora(tiny_stage("fine"))
    with pytest.raises(ValueError, match="2 weights for 1"):
        load_lora(tiny_stage("fine"), tmp_path, weights=[1, 2])
    for name in ("a" * 300, f"a/{'a' * 300}/b", "a\x00b"):
        with pytest.raises(ValueError, match="There is no adapter"):
            load_lora(tiny_stage("fine"), name)
    with pytest.raises(ValueError, match="rank"):
        add_lora(tiny_stage("fine"), rank=0)
