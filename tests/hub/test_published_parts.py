"""Each stage and quantizer through the Hub alone."""

import pytest
import torch
from huggingface_hub import ModelCard
from tiny import STAGE_CLASSES, tiny_quantizers, tiny_stage

from open_musiclm import ClapQuantizer, MusicLMFineModel, SemanticQuantizer


def same_weights(first, second) -> bool:
    found, wanted = first.state_dict(), second.state_dict()
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("stage", STAGE_CLASSES)
def test_stages(hub, token, tmp_path, stage):
    model = tiny_stage(stage)
    model.generation_config.temperature = 0.123
    model.push_to_hub(f"someone/{stage}", token=token)
    downloaded = STAGE_CLASSES[stage][1].from_pretrained(f"someone/{stage}", cache_dir=tmp_path)
    assert same_weights(downloaded, model)
    assert downloaded.config.streams == model.config.streams
    assert downloaded.generation_config.temperature == 0.123
    card = ModelCard(hub.files(f"someone/{stage}")["README.md"].decode())
    assert card.data.library_name == "transformers"
    assert f'{type(model).__name__}.from_pretrained("someone/{stage}")' in card.text


def test_quantizers(hub, token, tmp_path):
    for model in tiny_quantizers():
        model.push_to_hub("someone/quantizer", token=token)
        downloaded = type(model).from_pretrained("someone/quantizer", cache_dir=tmp_path)
        assert downloaded.fingerprint == model.fingerprint
        assert (
            f"`{model.fingerprint}`" in hub.files("someone/quantizer")["README.md"].decode()
            or type(model) is SemanticQuantizer
        )
        hub.clear()
    assert {type(model) for model in tiny_quantizers()} == {ClapQuantizer, SemanticQuantizer}


def test_a_sharded_stage(hub, token, tmp_path):
    model = tiny_stage("fine")
    model.push_to_hub("someone/fine", token=token, max_shard_size="40KB")
    shards = [path for path in hub.files("someone/fine") if path.endswith(".safetensors")]
    assert len(shards) > 2
    assert "model.safetensors.index.json" in hub.files("someone/fine")
    assert same_weights(MusicLMFineModel.from_pretrained("someone/fine", cache_dir=tmp_path), model)


def test_a_private_stage(hub, token, tmp_path):
    model = tiny_stage("fine")
    model.push_to_hub("someone/secret", token=token, private=True)
    with pytest.raises(OSError, match="private repository, make sure to pass a token"):
        MusicLMFineModel.from_pretrained("someone/secret", cache_dir=tmp_path)
    assert same_weights(MusicLMFineModel.from_pretrained("someone/secret", token=token, cache_dir=tmp_path), model)


def test_a_revision_of_a_stage(hub, token, tmp_path):
    first, second = tiny_stage("fine", seed=1), tiny_stage("fine", seed=2)
    commit = first.push_to_hub("someone/fine", token=token)
    second.push_to_hub("someone/fine", token=token)
    assert same_weights(
        MusicLMFineModel.from_pretrained("someone/fine", revision=commit.oid, cache_dir=tmp_path), first
    )
    assert same_weights(MusicLMFineModel.from_pretrained("someone/fine", cache_dir=tmp_path), second)


def test_sampling_settings_without_their_file(tmp_path):
    """diffusers downloads only config.json beside a component's weights."""
    model = tiny_stage("fine")
    model.generation_config.update(temperature=0.321, mask_condition_eos=False)
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    loaded = MusicLMFineModel.from_pretrained(tmp_path)
    assert (loaded.generation_config.temperature, loaded.generation_config.mask_condition_eos) == (0.321, False)
