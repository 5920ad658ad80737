"""Streams that may be left out, training that hides them, and what streams say of themselves."""

import pytest
import torch
from tiny import inputs_of, patterned_stage, tiny_stage
from transformers import AutoConfig, AutoModel

from open_musiclm import MusicLMCoarseConfig, MusicLMFineConfig, MusicLMStageConfig, MusicLMStageModel, TokenStream
from open_musiclm.models.masks import drop_conditions
from open_musiclm.models.streams import PADDING_ID, frames_beside, resolve_streams


def optional_stage(pattern: str = "flat", **settings):
    """CLAP, a melody that may be left out, acoustic tokens."""
    model = patterned_stage(pattern, "delay", **settings)
    streams = [{**stream, "optional": stream["name"] == "melody"} for stream in model.config.streams]
    config = MusicLMStageConfig(**{**model.config.to_diff_dict(), "streams": streams})
    other = MusicLMStageModel(config).eval()
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("pattern", ["flat", "parallel", "delay"])
@pytest.mark.parametrize("mask_eos", [True, False])
def test_left_out_is_hidden(pattern, mask_eos):
    model = optional_stage(pattern)
    inputs = inputs_of(model)
    hidden = {**inputs, "melody_token_ids": torch.full_like(inputs["melody_token_ids"], PADDING_ID)}
    out = {name: ids for name, ids in inputs.items() if name != "melody_token_ids"}
    logits = [model(**each, mask_condition_eos=mask_eos).logits for each in (hidden, out, inputs)]
    torch.testing.assert_close(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])
    # nothing of its table is left: neither its tokens nor, in the flat pattern, their end
    model.embeddings["melody"].weight.data[1:] += 1.0
    after = model(**out, mask_condition_eos=mask_eos).logits
    if pattern == "flat" and not mask_eos:
        torch.testing.assert_close(after, logits[1])
    model.embeddings["melody"].weight.data += 1.0
    torch.testing.assert_close(model(**out, mask_condition_eos=mask_eos).logits, logits[1])
    # its start vector stays
    model.start_vectors["melody"].data += 1.0
    assert not torch.allclose(model(**out).logits, logits[1])


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("pattern", ["flat", "parallel"])
def test_hidden_for_some_samples_of_a_batch(pattern, fast):
    model = optional_stage(pattern)
    given = inputs_of(model, batch=3)
    given.pop("acoustic_token_ids")
    some = {**given, "melody_token_ids": given["melody_token_ids"].clone()}
    some["melody_token_ids"][1] = PADDING_ID
    without = {name: ids for name, ids in given.items() if name != "melody_token_ids"}
    made = [
        model.generate(6, **each, generator=[torch.Generator().manual_seed(i) for i in range(3)], fast=fast)
        for each in (some, given, without)
    ]
    assert torch.equal(made[0][0], made[1][0])
    assert torch.equal(made[0][1], made[2][1])
    assert torch.equal(made[0][2], made[1][2])
    assert not torch.equal(made[1][1], made[2][1])


def test_what_is_not_optional_is_needed():
    model = optional_stage()
    inputs = inputs_of(model)
    inputs.pop("clap_token_ids")
    with pytest.raises(ValueError, match="needs `clap_token_ids`"):
        model(**inputs)
    with pytest.raises(Exception, match="neither optional"):
        MusicLMStageConfig(streams=[{"name": "only", "codebook_size": 4, "optional": True}])


def test_with_dropout_everything_may_be_left_out():
    model = optional_stage(condition_dropout=0.2)
    made = model.generate(6, generator=[torch.Generator().manual_seed(i) for i in range(2)])
    assert made.shape == (2, 6, 4)
    frames = inputs_of(model)["acoustic_token_ids"]
    assert torch.isfinite(model(acoustic_token_ids=frames, labels=frames).loss)


def test_dropout_hides_samples_in_training_only():
    model = optional_stage(condition_dropout=0.5, hidden_dropout=0.0, forgetful_mask_prob=0.0)
    inputs = inputs_of(model)
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    model.train()
    torch.manual_seed(0)
    seen = {round(model(**inputs).logits[0].sum().item(), 2) for _ in range(40)}
    assert len(seen) == 3, "all conditioning, none, or no melody"


def test_dropout_probabilities():
    conditions = {name: torch.zeros(20_000, 2, dtype=torch.long) for name in ("clap", "melody")}
    torch.manual_seed(0)
    dropped = drop_conditions(conditions, ["melody"], 0.2)
    clap, melody = ((dropped[name] == PADDING_ID).all(1) for name in ("clap", "melody"))
    assert abs(clap.float().mean() - 0.2) < 0.01
    assert abs(melody.float().mean() - 0.36) < 0.01  # 1 - 0.8²
    assert (melody | ~clap).all(), "the branch without conditioning hides all of it"
    assert (conditions["clap"] == 0).all(), "what was given stays as it was"


def test_every_parameter_is_trained_with_dropout():
    model = optional_stage(condition_dropout=0.3, loss_weights=[0.0, 0.0, 1.0]).train()
    torch.manual_seed(0)
    inputs = inputs_of(model, batch=8)
    model(**inputs, labels=inputs["acoustic_token_ids"]).loss.backward()
    for name in ("embeddings.clap.weight", "embeddings.melody.weight", "start_vectors.melody"):
        assert model.get_parameter(name).grad.abs().sum() > 0, name


# ------------------------------------------------- what streams say of themselves


def test_streams_of_old_configs_say_where_they_come_from():
    fine = MusicLMFineConfig(streams=[
        {"name": "clap", "codebook_size": 4, "num_codebooks": 2},
        {"name": "coarse", "codebook_size": 8, "num_codebooks": 3, "frame_rate": 75.0},
        {"name": "fine", "codebook_size": 8, "num_codebooks": 5, "frame_rate": 75.0},
    ])  # fmt: skip
    assert [(s.source, s.first_codebook) for s in fine.token_streams] == [("clap", 0), ("codec", 0), ("codec", 3)]
    assert [s.pattern for s in fine.token_streams] == ["flat"] * 3
    assert [s.source for s in MusicLMCoarseConfig().token_streams] == ["clap", "semantic", "codec"]
    assert TokenStream("melody", 13).source == "melody"


def test_a_place_among_codebooks_that_is_said_stays():
    after = TokenStream("next", 8, 3, 75.0, source="codec", context="after", context_in_s=1.0)
    coarse = TokenStream("coarse", 8, 3, 75.0)
    assert [s.first_codebook for s in resolve_streams([after, coarse])] == [0, 0]
    assert [s.first_codebook for s in resolve_streams([TokenStream("fine", 8, 5, first_codebook=3)])] == [3]


@pytest.mark.parametrize(
    ("stream", "frames"),
    [
        (TokenStream("clap", 8, 12), 1),
        (TokenStream("semantic", 8, 1, 50.0, num_edge_frames=1), 199),
        (TokenStream("melody", 8, 1, 10.0), 40),
        (TokenStream("next", 8, 3, 75.0, context="after", context_in_s=1.0), 75),
    ],
)
def test_frames_beside_one_another(stream, frames):
    assert frames_beside(stream, TokenStream("coarse", 8, 3, 75.0), 300) == frames


@pytest.mark.parametrize(
    "fields",
    [{"context": "before"}, {"context": "after"}, {"context_in_s": 1.0}, {"first_codebook": -1}]
)  # fmt: skip
def test_streams_that_contradict_themselves_are_refused(fields):
    with pytest.raises(ValueError, match=r"context|first_codebook"):
        TokenStream("any", 8, frame_rate=10.0, **fields)


def test_a_single_stage_by_itself(tmp_path):
    config = MusicLMStageConfig.from_preset(
        "single_stage", hidden_size=32, num_hidden_layers=2, num_attention_heads=2, head_dim=16
    )
    assert [(s.name, s.num_codebooks, s.pattern) for s in config.token_streams] == [
        ("clap", 12, "parallel"),
        ("acoustic", 8, "delay"),
    ]
    assert config.predicted_stream.source == "codec"
    model = MusicLMStageModel(config).eval()
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is MusicLMStageModel
    assert AutoConfig.from_pretrained(tmp_path).token_streams == config.token_streams
    clap = torch.randint(1024, (1, 12))
    made = [
        each.generate(4, clap_token_ids=clap, generator=torch.Generator().manual_seed(0)) for each in (model, again)
    ]
    assert made[0].shape == (1, 4, 8)
    assert torch.equal(*made)
    with pytest.raises(ValueError, match="single_stage"):
        MusicLMCoarseConfig.from_preset("single_stage")


def test_published_stages_hide_nothing():
    model = tiny_stage("coarse")
    assert not any(stream.optional for stream in model.streams)
    assert model.config.condition_dropout == 0.0
