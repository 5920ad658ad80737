import pytest
import torch
from tiny import tiny_stage

from open_musiclm.training import StageAdamW, recommended_optimizer, recommended_training_arguments


@pytest.mark.parametrize(("stage", "warmup", "batch"), [("semantic", 3000, 4), ("coarse", 6000, 2), ("fine", 0, 2)])
def test_the_published_arguments(tmp_path, stage, warmup, batch):
    args = recommended_training_arguments(tiny_stage(stage), tmp_path, use_cpu=True)
    assert args.get_warmup_steps(100_000) == warmup
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (batch, 8)
    assert (args.learning_rate, args.max_grad_norm, args.weight_decay) == (3e-4, 0.5, 0.01)
    assert recommended_optimizer(args)[1]["betas"] == (0.9, 0.99)


def test_any_argument_can_be_changed_and_unknown_stages_are_refused(tmp_path):
    assert recommended_training_arguments("fine", tmp_path, learning_rate=1e-5, use_cpu=True).learning_rate == 1e-5
    with pytest.raises(ValueError, match="Unknown stage 'finest'"):
        recommended_training_arguments("finest", tmp_path)


def test_only_matrices_and_tables_decay():
    stage = tiny_stage("coarse")
    names = {id(parameter): name for name, parameter in stage.named_parameters()}
    # in the groups in which a Trainer would hand them over: by names, not by shapes
    groups = [
        {"params": [p for n, p in stage.named_parameters() if "norm" not in n], "weight_decay": 0.3},
        {"params": [p for n, p in stage.named_parameters() if "norm" in n], "weight_decay": 0.0},
    ]
    optimizer = StageAdamW(groups, lr=0.1, weight_decay=0.01)
    sorted_names = {group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in optimizer.param_groups}
    assert sorted_names[0.01] == {n for n, p in stage.named_parameters() if p.ndim >= 2}
    assert sorted_names[0.0] == {n for n, p in stage.named_parameters() if p.ndim < 2}
    assert any("start_vectors" in name for name in sorted_names[0.0])
    assert any("conv" in name for name in sorted_names[0.01])


def test_without_a_gradient_only_decay_moves_a_weight():
    matrix, gain = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    optimizer = StageAdamW([matrix, gain], lr=0.1, weight_decay=0.5)
    matrix.grad, gain.grad = torch.zeros(2, 2), torch.zeros(2)
    optimizer.step()
    torch.testing.assert_close(matrix.data, torch.full((2, 2), 0.95))
    torch.testing.assert_close(gain.data, torch.ones(2))
