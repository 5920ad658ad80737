"""Attention that adds the position bias to scores as they are made, and compiled layers: the same function as with masks."""

import pytest
import torch
from tiny import tiny_stage

from open_musiclm.models import scores
from open_musiclm.models.scores import ScoreBias
from open_musiclm.training import speed
from open_musiclm.training.speed import attend_without_masks, compile_layers

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
CONFIGS = {
    "continuous, hidden keys": {"forgetful_mask_prob": 0.3},
    "t5": {"position_bias_type": "t5", "forgetful_mask_prob": 0.0},
    "none": {"position_bias_type": "none", "forgetful_mask_prob": 0.3},
    "prefix": {"non_causal_prefix_size": 9, "forgetful_mask_prob": 0.0},
}


def training_stage(device="cpu", **config):
    return tiny_stage("coarse", hidden_dropout=0.0, **config).train().to(device)


def batch(stage):
    generator = torch.Generator().manual_seed(0)
    shapes = {"clap": (2, 3), "semantic": (2, 10), "coarse": (2, 20, 2)}
    ids = {
        each.argument: torch.randint(each.codebook_size, shapes[each.name], generator=generator).to(stage.device)
        for each in stage.streams
    }
    ids["semantic_token_ids"][0, 7:] = -1
    return {**ids, "labels": ids["coarse_token_ids"]}


def loss_of(stage):
    torch.manual_seed(0)  # which keys are hidden
    return stage(**batch(stage)).loss


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@torch.no_grad()
def test_the_same_as_with_a_mask(config):
    """On a CPU in PyTorch's own definition of flex attention."""
    stage = training_stage(**config)
    expected = loss_of(stage)
    attend_without_masks(stage)
    seen = []
    stage.decoder.layers[1].register_forward_pre_hook(lambda layer, arguments: seen.append(arguments[1]))
    torch.testing.assert_close(loss_of(stage), expected)
    assert isinstance(seen[0], ScoreBias)
    stage.eval()
    loss_of(stage)
    assert isinstance(seen[1], torch.Tensor), "with masks beside training"


def test_dropout_keeps_its_masks():
    stage = training_stage(attention_dropout=0.1)
    attend_without_masks(stage)
    assert stage.config._attn_implementation == "sdpa"


@needs_gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_gradients_are_the_same_as_with_a_mask(config, compiled):
    gradients = []
    for without in (False, True):
        stage = training_stage("cuda", **config)
        if without:
            attend_without_masks(stage)
            if compiled:
                compile_layers(stage)
        loss_of(stage).backward()
        gradients.append({name: p.grad for name, p in stage.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=5e-3, atol=1e-5, msg=name)


def test_layers_are_compiled_once_and_learn_the_same():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    plain, compiled = (training_stage(num_hidden_layers=4) for _ in range(2))
    assert compile_layers(compiled, backend=backend) == 4
    losses = [loss_of(stage) for stage in (plain, compiled)]
    torch.testing.assert_close(*losses)
    assert len(graphs) == 1, "one graph serves all layers"
    for loss in losses:
        loss.backward()
    for (name, expected), (its_name, found) in zip(plain.named_parameters(), compiled.named_parameters(), strict=True):
        assert name == its_name
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, msg=name)


def test_a_device_without_such_a_kernel_keeps_its_masks(monkeypatch):
    """PyTorch has no gradient of it on a CPU: what stands here for a GPU whose shared memory a kernel does not fit."""
    trouble = scores.find_trouble(torch.device("cpu"), torch.float32, num_heads=2, head_dim=16)
    assert "backward" in trouble.lower()
    monkeypatch.setattr(speed, "find_trouble", lambda device, *others: trouble)
    stage = training_stage()
    with pytest.warns(UserWarning, match="training makes them"):
        assert not attend_without_masks(stage, torch.device("cuda"), torch.bfloat16)
    assert stage.config._attn_implementation == "sdpa"


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_this_gpu_has_a_kernel_for_the_published_sizes(dtype):
    assert scores.find_trouble(torch.device("cuda"), dtype, num_heads=16, head_dim=64) is None


@torch.no_grad()
def test_one_compiled_layer_takes_the_bias_too():
    """PyTorch's compiler goes through the whole layer, score by score; on a CPU only forward."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    stage = training_stage(num_hidden_layers=3, forgetful_mask_prob=0.3)
    expected = loss_of(stage)
    attend_without_masks(stage)
    compile_layers(stage, backend=backend, fullgraph=True)
    torch.testing.assert_close(loss_of(stage), expected)
    assert len(graphs) == 1, "one graph serves all layers"
