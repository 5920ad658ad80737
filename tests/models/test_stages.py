import math

import pytest
import torch
import torch.nn.functional as F
from goldens import STAGES, stage_inputs, stage_model
from tiny import STAGE_CLASSES, tiny_stage
from transformers import AutoModel
from transformers.cache_utils import DynamicCache, StaticCache

from open_musiclm import MusicLMCoarseModel, TokenStream
from open_musiclm.models.masks import forgetful_mask

CASE = "conv_continuous"


def random_inputs(model, batch: int = 2, frames: int = 6) -> dict[str, torch.Tensor]:
    return {
        s.argument: torch.randint(s.codebook_size, (batch, (1 if s.frame_rate is None else frames) * s.num_codebooks))
        for s in model.streams
    }


# ------------------------------------------------------------------- forward


@pytest.mark.parametrize("stage", STAGES)
def test_shapes(stage):
    model = tiny_stage(stage)
    inputs = random_inputs(model)
    stream = model.predicted_stream
    outputs = model(**inputs, output_condition_logits=True)
    assert outputs.logits.shape == (2, 6 * stream.num_codebooks + 1, stream.codebook_size + 1)
    for condition, logits in zip(model.condition_streams, outputs.condition_logits, strict=True):
        assert logits.shape == (2, inputs[condition.argument].shape[1] + 1, condition.codebook_size + 1)


@pytest.mark.parametrize("stage", STAGES)
def test_flat_and_framed_ids_are_one(stage):
    model = tiny_stage(stage)
    inputs = random_inputs(model)
    framed = {s.argument: inputs[s.argument].unflatten(1, (-1, s.num_codebooks)) for s in model.streams}
    assert torch.equal(model(**inputs).logits, model(**framed).logits)


def test_the_predicted_stream_may_be_left_out():
    model = tiny_stage("semantic")
    inputs = random_inputs(model)
    full = model(**inputs).logits
    first = model(clap_token_ids=inputs["clap_token_ids"]).logits
    assert first.shape[1] == 1
    torch.testing.assert_close(first, full[:, :1])


def test_another_stream_needs_no_code():
    streams = [TokenStream("clap", 16, 3), TokenStream("melody", 12, 2, 10.0), TokenStream("semantic", 20, 1, 25.0)]
    model = tiny_stage("semantic", streams)
    ids = {
        "clap_token_ids": torch.zeros(1, 3, dtype=torch.long),
        "semantic_token_ids": torch.ones(1, 4, dtype=torch.long),
    }
    melody = torch.randint(12, (1, 5, 2))
    logits = model(**ids, melody_token_ids=melody).logits
    assert not torch.equal(logits, model(**ids, melody_token_ids=(melody + 1) % 12).logits)
    tokens = model.generate(7, clap_token_ids=ids["clap_token_ids"], melody_token_ids=melody)
    assert tokens.shape == (1, 7)


def test_padding_has_a_zero_embedding_and_is_never_attended_to():
    model = tiny_stage("coarse")
    inputs = random_inputs(model)
    padded = dict(inputs, semantic_token_ids=F.pad(inputs["semantic_token_ids"], (0, 3), value=-1))
    embedded = model.embed_steps(padded["semantic_token_ids"][..., None], model.streams[1])
    assert (embedded[:, -3:] == 0).all()
    assert (embedded[:, :-3] != 0).any(-1).all()
    steps = {stream.name: padded[stream.argument][..., None] for stream in model.streams}
    _, visible, sizes = model.embed_sequence(steps, append_condition_eos=True, mask_condition_eos=True)
    assert visible.split(sizes, dim=1)[1].tolist() == [[True] * 7 + [False] * 4] * 2


def test_a_hidden_key_is_not_read():
    """Without a convolution a hidden key reaches nothing else, whatever its embedding."""
    model = tiny_stage("coarse", use_conv_feed_forward=False)
    inputs = random_inputs(model)
    inputs["semantic_token_ids"] = F.pad(inputs["semantic_token_ids"].clamp(min=1), (0, 3), value=-1)
    before = model(**inputs).logits
    model.embeddings["semantic"].weight.data[0] += 1.0  # the id that hidden keys are given
    torch.testing.assert_close(model(**inputs).logits, before)
    model.embeddings["semantic"].weight.data[1:] += 1.0
    assert not torch.allclose(model(**inputs).logits, before)


@pytest.mark.parametrize("stage", STAGES)
def test_conditioning_eos_is_hidden_in_training_and_seen_as_the_original_generates(stage):
    model = stage_model(CASE, stage)
    inputs = stage_inputs(CASE, stage)
    trained = model(**inputs).logits
    generated = model(**inputs, mask_condition_eos=False).logits
    assert (trained - generated).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clap_token_ids": None}, "needs `clap_token_ids`"),
        ({"fine_token_ids": torch.zeros(2, 3, dtype=torch.long)}, "has no 'fine_token_ids'"),
        ({"genre_token_ids": torch.zeros(2, 3, dtype=torch.long)}, "has no 'genre_token_ids'"),
        ({"semantic_token_ids": torch.zeros(1, 3, dtype=torch.long)}, "one batch size"),
        ({"semantic_token_ids": torch.full((2, 3), 20)}, "20"),
        ({"coarse_token_ids": torch.zeros(2, 3, 5, dtype=torch.long)}, "5 codebooks"),
        ({"clap_token_ids": torch.zeros(2, 3)}, "integer"),
    ],
)
def test_wrong_streams_are_refused_by_name(change, message):
    model = tiny_stage("coarse")
    inputs = {name: value for name, value in {**random_inputs(model), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        model(**inputs)


def test_more_tokens_than_learned_positions_are_refused():
    model = tiny_stage("semantic", max_position_embeddings=8)
    model(clap_token_ids=torch.zeros(1, 3, dtype=torch.long), semantic_token_ids=torch.zeros(1, 8, dtype=torch.long))
    with pytest.raises(ValueError, match="max_position_embeddings"):
        model(
            clap_token_ids=torch.zeros(1, 3, dtype=torch.long), semantic_token_ids=torch.zeros(1, 9, dtype=torch.long)
        )


# ---------------------------------------------------------------------- loss


@pytest.mark.parametrize("stage", STAGES)
def test_loss_is_cross_entropy_over_what_is_not_ignored(stage):
    model = tiny_stage(stage)
    inputs = random_inputs(model)
    labels = inputs[model.predicted_stream.argument].clone()
    labels[0, 1:4] = -100
    outputs = model(**inputs, labels=labels)
    wanted = F.pad(labels, (0, 1), value=model.predicted_stream.eos_id)
    manual = F.cross_entropy(outputs.logits.flatten(0, 1), wanted.flatten(), ignore_index=-100)
    torch.testing.assert_close(outputs.loss, manual)


def test_a_padded_sample_weighs_what_it_has():
    model = tiny_stage("semantic")
    inputs = random_inputs(model)
    inputs["semantic_token_ids"][1, 4:] = -1
    outputs = model(**inputs, labels=inputs["semantic_token_ids"])
    terms = F.cross_entropy(
        outputs.logits.flatten(0, 1),
        torch.cat(
            [
                inputs["semantic_token_ids"][0],
                torch.tensor([20]),
                inputs["semantic_token_ids"][1, :4],
                torch.full((3,), -100),
            ]
        ),
        reduction="sum",
    )
    torch.testing.assert_close(outputs.loss, terms / (7 + 4))


def test_labels_of_another_length_are_refused():
    model = tiny_stage("semantic")
    inputs = random_inputs(model)
    with pytest.raises(ValueError, match="labels"):
        model(**inputs, labels=inputs["semantic_token_ids"][:, :-1])


@pytest.mark.parametrize("stage", STAGES)
def test_first_loss_is_that_of_guessing(stage):
    """Raw parameters (start vectors, heads) are initialised: an untrained stage knows nothing, and says so mildly."""
    config_class, model_class = STAGE_CLASSES[stage]
    torch.manual_seed(0)
    model = model_class(config_class(hidden_size=64, num_hidden_layers=2, num_attention_heads=2)).eval()
    inputs = random_inputs(model, batch=4, frames=20)
    loss = model(**inputs, labels=inputs[model.predicted_stream.argument]).loss.item()
    assert abs(loss - math.log(1025)) < 0.4
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter).all(), name
        assert parameter.abs().max() < 10, name


def test_every_parameter_is_trained():
    model = tiny_stage("coarse", loss_weights=[1.0, 1.0, 1.0], max_position_embeddings=32).train()
    inputs = random_inputs(model)
    model(**inputs, labels=inputs["coarse_token_ids"]).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


# ------------------------------------------------------------ forgetful mask


def test_forgetful_mask_hides_a_fixed_share_and_never_the_first():
    mask = forgetful_mask(500, 40, 0.15, torch.device("cpu"))
    assert mask[:, 0].all()
    assert ((~mask).sum(1) == 6).all()  # int(40 · 0.15)
    assert (~mask).float().mean(0)[1:].min() > 0.08  # everywhere


def test_forgetful_mask_acts_in_training_only():
    model = tiny_stage("semantic", forgetful_mask_prob=0.5, hidden_dropout=0.0)
    inputs = random_inputs(model)
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    model.train()
    assert not torch.equal(model(**inputs).logits, model(**inputs).logits)
    model.config.forgetful_mask_prob = 0.0
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)


# --------------------------------------------------------------------- cache


def caches(model):
    return {
        "dynamic": lambda: DynamicCache(config=model.config),
        "static": lambda: StaticCache(config=model.config, max_cache_len=160),
    }


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("mask_eos", [True, False])
@pytest.mark.parametrize("case", ["conv_continuous", "plain_t5", "abs_none_prefix"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_cache_changes_nothing(stage, case, kind, attention, mask_eos):
    """All at once, or a prefill and then single tokens and pieces of several: the same logits."""
    model = stage_model(case, stage, attn_implementation=attention)
    inputs = stage_inputs(case, stage)
    argument = model.predicted_stream.argument
    ids = inputs.pop(argument).flatten(1)
    with torch.no_grad():
        whole = model(**inputs, **{argument: ids}, mask_condition_eos=mask_eos).logits
        cache = caches(model)[kind]()
        start = 5
        parts = [
            model(**inputs, **{argument: ids[:, :start]}, past_key_values=cache, mask_condition_eos=mask_eos).logits
        ]
        for stop in (start + 1, start + 2, start + 6, ids.shape[1]):
            parts.append(model(**{argument: ids[:, start:stop]}, past_key_values=cache).logits)
            start = stop
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=2e-5, rtol=1e-4)


def test_a_cache_that_would_cut_the_non_causal_prefix_is_refused():
    model = tiny_stage("semantic", non_causal_prefix_size=40)
    with pytest.raises(ValueError, match="non-causal prefix"):
        model(clap_token_ids=torch.zeros(1, 3, dtype=torch.long), use_cache=True)


# ------------------------------------------------- the library's conventions


@pytest.mark.parametrize("stage", STAGES)
def test_save_load_and_auto_model(stage, tmp_path):
    model = tiny_stage(stage)
    model.generation_config.temperature = 0.77
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json"}
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is type(model)
    inputs = random_inputs(model)
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
    assert again.generation_config.temperature == 0.77
    assert again.generation_config.top_k == model.generation_config.top_k
    assert again.generation_config.mask_condition_eos is True


def test_missing_weights_are_initialised_when_loading(tmp_path):
    """`from_pretrained` builds on the meta device: raw parameters that a file lacks must not come out as garbage."""
    tiny_stage("coarse").save_pretrained(tmp_path)
    streams = [*tiny_stage("coarse").config.streams[:2], TokenStream("coarse", 16, 4, 50.0).to_dict()]
    model = MusicLMCoarseModel.from_pretrained(tmp_path, streams=streams, ignore_mismatched_sizes=True)
    assert model.heads["coarse"].shape == (4, 17, 32)
    assert torch.isfinite(model.heads["coarse"]).all()
    assert 0 < model.heads["coarse"].std() < 0.5


def test_published_sampling_defaults():
    models = {
        stage: STAGE_CLASSES[stage][1](STAGE_CLASSES[stage][0](num_hidden_layers=1, hidden_size=32))
        for stage in STAGES
    }
    assert {stage: model.generation_config.temperature for stage, model in models.items()} == {
        "semantic": 1.0,
        "coarse": 0.95,
        "fine": 0.4,
    }
    assert {model.generation_config.top_k for model in models.values()} == {102}  # int(0.1 · 1025)
    assert all(model.generation_config.do_sample for model in models.values())


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_bfloat16(attention):
    model = stage_model(CASE, "coarse", attn_implementation=attention)
    inputs = stage_inputs(CASE, "coarse")
    exact = model(**inputs).logits
    rounded = model.to(torch.bfloat16)(**inputs).logits
    assert rounded.dtype == torch.bfloat16
    assert F.cosine_similarity(rounded.float().flatten(), exact.flatten(), dim=0) > 0.99


def test_gradient_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        model = tiny_stage("coarse", hidden_dropout=0.0, forgetful_mask_prob=0.0).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(1)
        inputs = random_inputs(model)
        model(**inputs, labels=inputs["coarse_token_ids"]).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], msg=name)


def test_attention_can_be_switched():
    model = tiny_stage("semantic")
    inputs = random_inputs(model)
    outputs = []
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        assert model.config._attn_implementation == attention
        outputs.append(model(**inputs).logits)
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)
    with pytest.raises((ValueError, ImportError)):
        model.set_attn_implementation("flash_attention_2")


def test_gradient_accumulation_of_the_trainer_averages(tmp_path):
    """One step on 4 samples is one step on 2 · 2 (a Trainer that hands the averaging to the model would sum)."""
    from transformers import Trainer, TrainingArguments

    torch.manual_seed(0)
    inputs = random_inputs(tiny_stage("semantic"), batch=4)
    rows = [
        {name: ids[i] for name, ids in inputs.items()} | {"labels": inputs["semantic_token_ids"][i]} for i in range(4)
    ]
    weights = []
    for batch_size, accumulation in ((4, 1), (2, 2)):
        model = tiny_stage("semantic", hidden_dropout=0.0, forgetful_mask_prob=0.0)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / str(accumulation)),
            max_steps=1,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            learning_rate=0.1,
            max_grad_norm=0.0,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            remove_unused_columns=False,
            disable_tqdm=True,
        )
        Trainer(model, arguments, train_dataset=rows).train()
        weights.append(model.state_dict())
    start = tiny_stage("semantic").state_dict()
    for name, one in weights[0].items():
        torch.testing.assert_close(one, weights[1][name], msg=name)
    assert any((one != start[name]).any() for name, one in weights[0].items())
