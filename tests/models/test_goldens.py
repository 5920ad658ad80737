"""Every recorded number of the original implementation."""

import pytest
import torch
from goldens import CASES, STAGES, expected, stage_inputs, stage_model

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
NUM_FRAMES = {"semantic": 40, "coarse": 20, "fine": 12}
NUM_PRIMED = {"semantic": 15, "coarse": 7, "fine": 5}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("case", CASES)
class TestTraining:
    def test_logits_and_loss(self, case, stage, attention):
        golden = expected(case)
        model = stage_model(case, stage, forgetful_mask_prob=0.0, hidden_dropout=0.0, attn_implementation=attention)
        inputs = stage_inputs(case, stage)
        outputs = model(**inputs, labels=golden[stage])
        torch.testing.assert_close(outputs.logits, golden[f"{stage}_train_logits"], **TOLERANCE)
        torch.testing.assert_close(outputs.loss[None], golden[f"{stage}_train_loss"], **TOLERANCE)
        labels = golden[f"{stage}_train_labels"]
        assert torch.equal(labels[:, :-1], golden[stage].flatten(1))
        assert (labels[:, -1] == model.predicted_stream.eos_id).all()

    def test_loss_over_all_streams(self, case, stage, attention):
        golden = expected(case)
        inputs = stage_inputs(case, stage)
        model = stage_model(case, stage, loss_weights=[1.0] * len(inputs), attn_implementation=attention)
        loss = model(**inputs, labels=golden[stage]).loss
        torch.testing.assert_close(loss[None], golden[f"{stage}_train_loss_all_sequences"], **TOLERANCE)

    def test_logits_without_eos(self, case, stage, attention):
        model = stage_model(case, stage, attn_implementation=attention)
        outputs = model(**stage_inputs(case, stage), append_condition_eos=False)
        torch.testing.assert_close(outputs.logits, expected(case)[f"{stage}_logits"], **TOLERANCE)


def condition(case, stage):
    inputs = stage_inputs(case, stage)
    del inputs[f"{stage}_token_ids"]
    if stage == "fine":
        inputs["coarse_token_ids"] = inputs["coarse_token_ids"][:, :12]
    return inputs


@pytest.mark.parametrize("use_cache", [True, False], ids=["cache", "no-cache"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("case", CASES)
class TestGeneration:
    def test_greedy(self, case, stage, use_cache):
        tokens = stage_model(case, stage).generate(
            **condition(case, stage),
            num_frames=NUM_FRAMES[stage],
            do_sample=False,
            mask_condition_eos=False,
            use_cache=use_cache,
        )
        golden = expected(case)[f"{stage}_greedy"]
        assert torch.equal(tokens, golden.squeeze(-1))

    def test_greedy_primed(self, case, stage, use_cache):
        golden = expected(case)[f"{stage}_greedy_primed"]
        prime = expected(case)[stage][:, : NUM_PRIMED[stage]]
        tokens = stage_model(case, stage).generate(
            **condition(case, stage),
            **{f"{stage}_token_ids": prime},
            num_frames=NUM_FRAMES[stage],
            do_sample=False,
            mask_condition_eos=False,
            use_cache=use_cache,
        )
        assert torch.equal(tokens, golden.squeeze(-1))
        assert torch.equal(tokens[:, : NUM_PRIMED[stage]], prime)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("case", CASES)
def test_sampling_from_the_best_one_is_greedy(case, stage):
    tokens = stage_model(case, stage).generate(
        **condition(case, stage),
        num_frames=NUM_FRAMES[stage],
        top_k=1,
        mask_condition_eos=False,
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.equal(tokens, expected(case)[f"{stage}_greedy"].squeeze(-1))
