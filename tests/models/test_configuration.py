import pytest
import torch
from transformers import AutoConfig

from open_musiclm import (
    ClapQuantizerConfig,
    MusicLMCoarseConfig,
    MusicLMCoarseModel,
    MusicLMFineConfig,
    MusicLMFineModel,
    MusicLMSemanticConfig,
    MusicLMSemanticModel,
    SemanticQuantizerConfig,
    TokenStream,
)
from open_musiclm.models.streams import resolve_streams

STAGES = [
    (MusicLMSemanticConfig, MusicLMSemanticModel, 283),
    (MusicLMCoarseConfig, MusicLMCoarseModel, 289),
    (MusicLMFineConfig, MusicLMFineModel, 298),
]


@pytest.mark.parametrize(("config_class", "model_class", "millions"), STAGES)
def test_large_has_the_published_number_of_parameters(config_class, model_class, millions):
    with torch.device("meta"):
        model = model_class(config_class.from_preset("large"))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions


def test_presets():
    small = MusicLMSemanticConfig.from_preset("small")
    assert (small.num_hidden_layers, small.num_attention_heads, small.hidden_size) == (6, 8, 1024)
    assert small.intermediate_size == 2730
    paper = [config_class.from_preset("paper") for config_class, _, _ in STAGES]
    assert [config.window_in_s for config in paper] == [30.0, 10.0, 3.0]
    assert {config.intermediate_size for config in paper} == {4096}
    assert {(config.num_hidden_layers, config.num_attention_heads) for config in paper} == {(24, 16)}
    assert [config.predicted_stream.num_codebooks for config in paper] == [1, 4, 8]
    assert paper[2].token_streams[1].num_codebooks == 4
    assert MusicLMFineConfig.from_preset("small", hidden_size=128).hidden_size == 128
    with pytest.raises(ValueError, match="medium"):
        MusicLMFineConfig.from_preset("medium")


def test_published_streams():
    streams = [config_class().token_streams for config_class, _, _ in STAGES]
    assert [[(s.name, s.num_codebooks) for s in each] for each in streams] == [
        [("clap", 12), ("semantic", 1)],
        [("clap", 12), ("semantic", 1), ("coarse", 3)],
        [("clap", 12), ("coarse", 3), ("fine", 5)],
    ]


@pytest.mark.parametrize("config_class", [each[0] for each in STAGES])
def test_round_trip_through_a_folder_and_auto_config(config_class, tmp_path):
    streams = [TokenStream("melody", 12, 2, 10.0, 0, "sha256:0"), TokenStream("clap", 4)]
    config = config_class(streams=streams, hidden_size=64, loss_weights=[0.5, 1.0], position_bias_type="t5")
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is config_class
    assert again.to_diff_dict() == config.to_diff_dict()
    assert again.token_streams == resolve_streams(streams)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"position_bias_type": "rotary"}, "continuous"),
        ({"loss_weights": [1.0]}, "one weight"),
        ({"window_stride_in_s": 9.0}, "window_stride_in_s"),
        ({"streams": []}, "streams"),
        ({"streams": [{"name": "a", "codebook_size": 1}, {"name": "a", "codebook_size": 1}]}, "different names"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(Exception, match=message):
        MusicLMCoarseConfig(**settings)


def test_model_types_are_our_own():
    kinds = [each[0].model_type for each in STAGES] + [
        ClapQuantizerConfig.model_type,
        SemanticQuantizerConfig.model_type,
    ]
    assert len(set(kinds)) == 5
    assert all(kind.startswith("open_musiclm_") for kind in kinds)
