"""CLAP and EnCodec in the original's state-dict format convert, and compute what the originals were recorded to."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from seeded_weights import RECORDINGS, music_like, read_layout, seeded_state_dict
from tiny import tiny_tokenizer
from transformers import ClapFeatureExtractor, ClapModel, ClapProcessor, EncodecModel

from open_musiclm.conversion.checkpoint_error import CheckpointError
from open_musiclm.conversion.clap_conversion import convert_clap
from open_musiclm.conversion.encodec_conversion import convert_encodec

CLAPS = ["clap_tiny_unfused", "clap_tiny_fused", "clap_base_unfused", "clap_base_fused"]
TOLERANCE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def converted_clap(tmp_path, tokenizer_folder):
    def convert(name: str, **changes):
        checkpoint = {"epoch": 3, "name": name, "state_dict": {}}
        for key, tensor in (seeded_state_dict(read_layout(name)) | changes).items():
            checkpoint["state_dict"][f"module.{key}"] = tensor
        torch.save(checkpoint, tmp_path / "clap.pt")
        convert_clap(tmp_path / "clap.pt", tmp_path / "clap", tmp_path / "clap_processor", tokenizer_folder)
        model = ClapModel.from_pretrained(tmp_path / "clap").eval()
        return model, ClapProcessor.from_pretrained(tmp_path / "clap_processor")

    return convert


@pytest.mark.parametrize("name", CLAPS)
def test_clap_agrees_with_the_original(name, converted_clap):
    model, processor = converted_clap(name)
    recorded = load_file(RECORDINGS / f"{name}.safetensors")
    tokens = recorded["input_ids"]
    with torch.no_grad():
        text = model.get_text_features(input_ids=tokens, attention_mask=(tokens != 1).long()).pooler_output
        audio = model.get_audio_features(**audio_inputs(processor, fused="unfused" not in name)).pooler_output
    torch.testing.assert_close(text, recorded["text_embeddings"], **TOLERANCE)
    torch.testing.assert_close(audio, recorded["audio_embeddings"], **TOLERANCE)


def audio_inputs(processor, fused: bool) -> dict:
    if fused:  # the original picks three crops at random: the recording starts behind that, at the mel features
        features = torch.from_numpy(np.random.RandomState(5).standard_normal((2, 4, 1001, 64)).astype("f4") * 12 - 40)
        return {"input_features": features, "is_longer": torch.tensor([[True], [False]])}
    waveforms = [music_like(480_000, 48_000, seed).numpy() for seed in (1, 2)]
    return dict(processor.feature_extractor(waveforms, sampling_rate=48_000, return_tensors="pt"))


def test_clap_processor_is_the_originals(converted_clap):
    _, processor = converted_clap("clap_tiny_unfused")
    extractor = processor.feature_extractor
    assert (extractor.frequency_min, extractor.frequency_max) == (50, 14_000)
    assert extractor.truncation == "rand_trunc"
    assert processor.tokenizer("hi").input_ids[0] == processor.tokenizer.bos_token_id


def test_transformers_own_mel_range_would_not_agree(converted_clap):
    """Why the feature extractor is written with the original's range: the default one gives other embeddings."""
    model, _ = converted_clap("clap_tiny_unfused")
    recorded = load_file(RECORDINGS / "clap_tiny_unfused.safetensors")["audio_embeddings"]
    inputs = audio_inputs(ClapProcessor(ClapFeatureExtractor(truncation="rand_trunc"), tiny_tokenizer()), fused=False)
    with torch.no_grad():
        assert (model.get_audio_features(**inputs).pooler_output - recorded).abs().max() > 1e-4


def test_clap_with_a_tensor_of_another_tower_is_refused(converted_clap):
    with pytest.raises(CheckpointError, match=r"'audio_branch.conv_block1.weight' of shape \(3,\) has no place"):
        converted_clap("clap_tiny_unfused", **{"audio_branch.conv_block1.weight": torch.zeros(3)})


def test_encodec_agrees_with_the_original(tmp_path):
    torch.save(seeded_state_dict(read_layout("encodec")), tmp_path / "encodec.th")
    convert_encodec(tmp_path / "encodec.th", tmp_path / "codec")
    codec = EncodecModel.from_pretrained(tmp_path / "codec").eval()
    recorded = load_file(RECORDINGS / "encodec.safetensors")
    waveform = torch.stack([music_like(9_600, 24_000, seed) for seed in (3, 4)])[:, None]
    bandwidths = codec.config.target_bandwidths
    assert [codec.quantizer.get_num_quantizers_for_bandwidth(bandwidth) for bandwidth in bandwidths] == [2, 4, 8]
    with torch.no_grad():
        torch.testing.assert_close(codec.encoder(waveform), recorded["latents"], **TOLERANCE)
        encoded = codec.encode(waveform, bandwidth=bandwidths[1])
        assert torch.equal(encoded.audio_codes[0], recorded["codes"])
        decoded = codec.decode(recorded["codes"][None], [None]).audio_values
    torch.testing.assert_close(decoded, recorded["waveform"], **TOLERANCE)


def test_encodec_without_a_tensor_is_refused_by_name(tmp_path):
    tensors = seeded_state_dict(read_layout("encodec"))
    del tensors["decoder.model.0.conv.conv.weight_g"]
    torch.save(tensors, tmp_path / "encodec.th")
    with pytest.raises(CheckpointError, match=r"'decoder.model.0.conv.conv.weight_g' is missing"):
        convert_encodec(tmp_path / "encodec.th", tmp_path / "codec")
