"""The stages load as any transformers model: dtype, device_map, low_cpu_mem_usage, variants, int8 weights."""

import pytest
import torch
from diffusers import PipelineQuantizationConfig
from tiny import tiny_stage
from transformers import AutoModel, QuantoConfig, TorchAoConfig

from open_musiclm import MusicLMCoarseModel, MusicLMPipeline


@pytest.fixture(scope="module")
def coarse():
    """Wide enough that most of its weights are in linear layers."""
    return tiny_stage("coarse", hidden_size=128, head_dim=64)


@pytest.fixture(scope="module")
def folder(coarse, tmp_path_factory):
    folder = tmp_path_factory.mktemp("coarse")
    coarse.save_pretrained(folder)
    return folder


def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = {"clap_token_ids": (16, (2, 3)), "semantic_token_ids": (20, (2, 9)), "coarse_token_ids": (16, (2, 10, 2))}
    return {name: torch.randint(high, shape, generator=generator) for name, (high, shape) in sizes.items()}


@pytest.mark.parametrize(
    "options", [{"device_map": "cpu"}, {"device_map": {"": "cpu"}}, {"low_cpu_mem_usage": True}, {}]
)
def test_placing_options(folder, coarse, options):
    loaded = MusicLMCoarseModel.from_pretrained(folder, **options)
    assert torch.equal(loaded(**inputs()).logits, coarse(**inputs()).logits)


def test_automatic_placing(folder, coarse):
    loaded = MusicLMCoarseModel.from_pretrained(folder, device_map="auto")
    torch.testing.assert_close(loaded(**inputs()).logits.cpu(), coarse(**inputs()).logits, atol=1e-3, rtol=1e-3)


def test_by_the_automatic_class(folder):
    assert type(AutoModel.from_pretrained(folder)) is MusicLMCoarseModel


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_position_bias(folder, coarse, dtype):
    loaded = MusicLMCoarseModel.from_pretrained(folder, dtype=dtype)
    assert loaded.decoder.layers[0].mlp.up_proj.weight.dtype == dtype
    assert {parameter.dtype for parameter in loaded.decoder.position_bias.parameters()} == {torch.float32}
    logits = loaded(**inputs()).logits
    assert logits.dtype == dtype
    expected = coarse(**inputs()).logits
    assert (logits.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_the_position_bias_survives_casts_and_autocast(folder):
    """bfloat16 has no 257, and rounding the bias's first weight moves the bias of far keys by a tenth."""
    model = MusicLMCoarseModel.from_pretrained(folder)
    distances = torch.arange(1000)
    exact = model.decoder.position_bias(distances)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.decoder.position_bias(distances), exact)
    model.to(torch.bfloat16)
    assert model.decoder.norm.weight.dtype == torch.bfloat16
    assert torch.equal(model.decoder.position_bias(distances), exact)


def test_variants(tmp_path, coarse):
    coarse.save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "model.fp16.safetensors").is_file()
    loaded = MusicLMCoarseModel.from_pretrained(tmp_path, variant="fp16")
    assert torch.equal(loaded(**inputs()).logits, coarse(**inputs()).logits)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        MusicLMCoarseModel.from_pretrained(tmp_path)


def quanto() -> QuantoConfig:
    pytest.importorskip("optimum.quanto")
    return QuantoConfig(weights="int8")


def torchao() -> TorchAoConfig:
    return TorchAoConfig(pytest.importorskip("torchao.quantization").Int8WeightOnlyConfig())


def is_int8(layer: torch.nn.Module) -> bool:
    """A linear layer whose weight is held in int8 by either library."""
    return isinstance(layer, torch.nn.Linear) and type(layer.weight.data) is not torch.Tensor


def stored_tensors(weight: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors that a weight is made of."""
    if type(weight) is torch.Tensor:
        return [weight]
    names, _ = weight.__tensor_flatten__()
    return [part for name in names for part in stored_tensors(getattr(weight, name))]


@pytest.fixture(params=[quanto, torchao], ids=["quanto", "torchao"])
def int8(request):
    """Makes a `quantization_config` for int8 weights."""
    return request.param


@pytest.fixture
def quantized(folder, int8):
    return MusicLMCoarseModel.from_pretrained(folder, quantization_config=int8())


class TestInt8:
    """Weight-only int8 through `quantization_config`."""

    def test_what_is_quantized(self, quantized):
        expected = {
            f"decoder.layers.{layer}.{part}"
            for layer in range(2)
            for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
        }  # fmt: skip
        assert {name for name, layer in quantized.named_modules() if is_int8(layer)} == expected

    def test_it_computes_nearly_the_same(self, quantized, coarse):
        logits, expected = quantized(**inputs()).logits, coarse(**inputs()).logits
        difference = (logits - expected).abs().max() / expected.abs().max()
        assert 0 < difference < 0.05

    def test_it_generates_with_and_without_cache(self, quantized):
        conditions = {name: ids for name, ids in inputs().items() if not name.startswith("coarse")}
        cached, plain = (
            quantized.generate(**conditions, num_frames=5, do_sample=False, use_cache=use_cache)
            for use_cache in (True, False)
        )
        assert torch.equal(cached, plain)

    def test_it_takes_less_memory(self, quantized, coarse):
        def linear_bytes(model):
            layers = [layer for layer in model.decoder.layers.modules() if isinstance(layer, torch.nn.Linear)]
            return sum(part.nbytes for layer in layers for part in stored_tensors(layer.weight.data))

        assert linear_bytes(quantized) < 0.3 * linear_bytes(coarse)

    def test_in_a_pipeline(self, pipeline_folder, int8, pipe):
        config = PipelineQuantizationConfig(quant_mapping={"coarse_model": int8(), "fine_model": int8()})
        loaded = MusicLMPipeline.from_pretrained(pipeline_folder, quantization_config=config)
        loaded.set_progress_bar_config(disable=True)
        assert is_int8(loaded.fine_model.decoder.layers[0].mlp.up_proj)
        assert not is_int8(loaded.semantic_model.decoder.layers[0].mlp.up_proj)
        audio = loaded("calm piano", audio_length_in_s=1.0, generator=torch.Generator().manual_seed(0)).audios
        assert audio.shape == (1, 1, pipe.sampling_rate)


def test_saved_int8_weights_load_again(folder, tmp_path):
    """With torchao; quanto does not save."""
    quantized = MusicLMCoarseModel.from_pretrained(folder, quantization_config=torchao())
    quantized.save_pretrained(tmp_path)
    loaded = MusicLMCoarseModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(**inputs()).logits, quantized(**inputs()).logits)
    size, full = ((path / "model.safetensors").stat().st_size for path in (tmp_path, folder))
    assert size < 0.6 * full
