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


def problem(dtype, seed=0):
    """A matrix and a gain of weights far larger than the steps, and a float32 parameter beside them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(shape, generator=generator) for shape in ((4, 3), (5,), (2, 2))]
    kinds = dtype, dtype, torch.float32
    return [torch.nn.Parameter(each.bfloat16().to(kind)) for each, kind in zip(drawn, kinds, strict=True)]


def make_steps(parameters, optimizer, first, last):
    for step in range(first, last):
        generator = torch.Generator().manual_seed(100 + step)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator).bfloat16().to(parameter.dtype)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_weights_are_those_of_float32_rounded(dtype):
    """The reference is PyTorch's AdamW on float32 weights that get the same gradients."""
    exact, rounded = problem(torch.float32), problem(dtype)
    groups = [{"params": [exact[0], exact[2]], "weight_decay": 0.1}, {"params": [exact[1]], "weight_decay": 0.0}]
    begun = [each.detach().clone() for each in rounded]
    optimizer = StageAdamW(rounded, lr=1e-4, weight_decay=0.1)
    make_steps(exact, torch.optim.AdamW(groups, lr=1e-4), 0, 40)
    make_steps(rounded, optimizer, 0, 40)
    for found, expected in zip(rounded, exact, strict=True):
        assert torch.equal(found, expected.to(found.dtype))
    assert not torch.equal(rounded[0], begun[0]), "steps below a weight's last digit were lost"
    for parameter in rounded[:2]:
        kinds = {name: value.dtype for name, value in optimizer.state[parameter].items() if name != "step"}
        assert kinds == dict.fromkeys(["exp_avg", "exp_avg_sq", "master_weight"], torch.float32)
    assert "master_weight" not in optimizer.state[rounded[2]]


def test_the_copies_are_saved_and_loaded_to_the_last_bit(tmp_path):
    whole, part = problem(torch.bfloat16), problem(torch.bfloat16)
    make_steps(whole, StageAdamW(whole, lr=1e-4), 0, 30)
    first = StageAdamW(part, lr=1e-4)
    make_steps(part, first, 0, 13)
    torch.save(first.state_dict(), tmp_path / "optimizer.pt")
    resumed = [torch.nn.Parameter(each.detach().clone()) for each in part]
    second = StageAdamW(resumed, lr=1.0)
    second.load_state_dict(torch.load(tmp_path / "optimizer.pt"))
    make_steps(resumed, second, 13, 30)
    assert all(torch.equal(*pair) for pair in zip(resumed, whole, strict=True))


def test_a_step_that_fails_leaves_groups_and_copies_as_they_were(monkeypatch):
    parameters = problem(torch.bfloat16)
    optimizer = StageAdamW(parameters, lr=1e-4)
    make_steps(parameters, optimizer, 0, 2)
    copies = [optimizer.state[each]["master_weight"] for each in parameters[:2]]
    groups = [list(group["params"]) for group in optimizer.param_groups]

    def fail(self, closure=None):
        raise RuntimeError("no memory")

    monkeypatch.setattr(torch.optim.AdamW, "step", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        make_steps(parameters, optimizer, 2, 3)
    assert all(
        a is b
        for now, then in zip(optimizer.param_groups, groups, strict=True)
        for a, b in zip(now["params"], then, strict=True)
    )
    assert all(optimizer.state[each]["master_weight"] is copy for each, copy in zip(parameters, copies, strict=False))
