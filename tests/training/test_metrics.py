import numpy as np
import torch
import torch.nn.functional as F
from tiny import tiny_stage
from transformers import EvalPrediction

from open_musiclm.training import stage_metrics


def test_metrics_are_those_of_each_codebook_apart():
    stage = tiny_stage("fine")
    metrics = stage_metrics(stage)
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 10 * 3 + 1, 17, generator=random)
    labels = torch.randint(16, (5, 10, 3), generator=random)
    labels[0, 6:] = -100
    logits[0, 0, labels[0, 0, 0]] = 99.0  # at least one is right
    batches = [
        metrics["preprocess_logits_for_metrics"](logits[part], labels[part]) for part in (slice(3), slice(3, 5))
    ]
    found = metrics["compute_metrics"](EvalPrediction(np.concatenate(batches), labels.numpy()))

    counted = labels != -100
    for codebook in range(3):
        own = logits[:, codebook:-1:3]
        right = (own.argmax(-1) == labels[..., codebook])[counted[..., codebook]]
        loss = F.cross_entropy(own.flatten(0, 1), labels[..., codebook].flatten())
        np.testing.assert_allclose(found[f"loss_codebook_{codebook}"], loss.item(), rtol=1e-5)
        np.testing.assert_allclose(found[f"accuracy_codebook_{codebook}"], right.float().mean().item(), rtol=1e-6)
    assert found["accuracy"] > 0
    # a codebook without a token has no figures, rather than NaN
    labels[:, :, 1] = -100
    found = metrics["compute_metrics"](EvalPrediction(sum_up(metrics, logits, labels), labels.numpy()))
    assert "loss_codebook_1" not in found
    assert all(np.isfinite(value) for value in found.values())
    labels[:] = -100
    assert metrics["compute_metrics"](EvalPrediction(sum_up(metrics, logits, labels), labels.numpy())) == {}


def sum_up(metrics, logits, labels):
    return metrics["preprocess_logits_for_metrics"](logits, labels).numpy()


def test_the_loss_of_an_evaluation_is_that_of_all_tokens_whatever_the_batches():
    stage = tiny_stage("coarse")
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 41, 17, generator=random)
    labels = torch.randint(17, (3, 41), generator=random)
    labels[0, 10:] = -100  # a short file
    metrics = stage_metrics(stage)
    found = [
        metrics["compute_metrics"](
            EvalPrediction(np.concatenate([sum_up(metrics, logits[p], labels[p]) for p in parts]), labels.numpy())
        )["loss"]
        for parts in ([slice(0, 3)], [slice(0, 1), slice(1, 3)])
    ]
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten()).item()
    np.testing.assert_allclose(found, [expected, expected], rtol=1e-5)
    assert "loss" not in stage_metrics(tiny_stage("coarse", loss_weights=[0.1, 0.1, 1.0]))["compute_metrics"](
        EvalPrediction(sum_up(metrics, logits, labels), labels.numpy())
    )


def test_the_mean_over_codebooks_is_the_models_loss_but_for_eos():
    stage = tiny_stage("coarse")
    ids = torch.randint(16, (2, 40, 2), generator=torch.Generator().manual_seed(0))
    out = stage(
        clap_token_ids=torch.zeros(2, 3, dtype=torch.long),
        semantic_token_ids=torch.zeros(2, 19, dtype=torch.long),
        coarse_token_ids=ids,
        labels=ids,
    )
    sums = stage_metrics(stage)["preprocess_logits_for_metrics"](out.logits, ids)
    eos = F.cross_entropy(out.logits[:, -1], torch.full((2,), 16), reduction="sum")
    torch.testing.assert_close((sums[..., 0].sum() + eos) / (2 * 81), out.loss)
    assert sums[..., 2].sum() == 160
    assert (sums[:, -1] == 0).all()  # EOS is not among these labels
