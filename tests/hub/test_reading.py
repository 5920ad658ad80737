"""The door by which models are read: whole, or refused by name in one line, and never with code of a repository."""

import builtins
import contextlib
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_pipeline
from transformers import ClapModel, EncodecModel, HubertModel

from open_musiclm import ClapQuantizer, MusicLMCoarseModel, MusicLMFineModel, MusicLMPipeline, SemanticQuantizer
from open_musiclm.cli import main
from open_musiclm.data.networks import load_networks
from open_musiclm.evaluation.embedders.networks import load_embedder
from open_musiclm.hub.reading import all_finite, read_pretrained, read_processor
from open_musiclm.training.base_stage import load_base

CLASSES = {
    "clap": ClapModel,
    "clap_quantizer": ClapQuantizer,
    "coarse_model": MusicLMCoarseModel,
    "fine_model": MusicLMFineModel,
    "semantic_encoder": HubertModel,
    "semantic_quantizer": SemanticQuantizer,
    "codec": EncodecModel,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "pipeline"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def pipeline(saved, tmp_path):
    """A copy to damage."""
    return shutil.copytree(saved, tmp_path / "pipeline")


def read(folder, component, **options):
    return read_pretrained(CLASSES[component], folder / component, **options)


def change_weights(folder, component, change):
    file = folder / component / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def change_json(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def a_weight(tensors):
    """Of the matrices the first by name, which every model here needs."""
    return min(name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.ndim > 1)


def refused(read_it, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_it()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000


def lose(tensors):
    del tensors[a_weight(tensors)]


def add(tensors):
    tensors["decoder.layers.9.extra"] = torch.ones(3)


def reshape(tensors):
    name = a_weight(tensors)
    tensors[name] = torch.zeros(*tensors[name].shape[:-1], tensors[name].shape[-1] + 1)


def make_integer(tensors):
    name = a_weight(tensors)
    tensors[name] = tensors[name].to(torch.int32)


def make_float8(tensors):
    name = a_weight(tensors)
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)


def make_nan(tensors):
    tensors[a_weight(tensors)].view(-1)[-1] = torch.nan


def make_infinite(tensors):
    tensors[a_weight(tensors)].view(-1)[0] = torch.inf


DAMAGES = {
    "missing": (lose, "is not whole: its weights lack '"),
    "unexpected": (add, r"hold 'decoder\.layers\.9\.extra', for which its config has no place"),
    "mis-shaped": (reshape, "has shape .* in the weights; its config needs"),
    "integer": (make_integer, "is stored as I32; weights are floating-point"),
    "float8": (make_float8, "is stored as F8_E4M3; weights are floating-point"),
    "nan": (make_nan, "holds values that are not finite"),
    "infinite": (make_infinite, "holds values that are not finite"),
    "empty": (dict.clear, "is not whole: its weights lack"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("component", CLASSES)
def test_weights_that_are_not_wholly_those_of_the_config(pipeline, component, damage):
    change, message = DAMAGES[damage]
    change_weights(pipeline, component, change)
    refused(lambda: read(pipeline, component), message)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])


FILES = {
    "cut": (cut, r"model\.safetensors is cut off or damaged .*: copy or download it again"),
    "cut in the header": (lambda file: file.write_bytes(file.read_bytes()[:40]), "is cut off or damaged"),
    "nothing": (lambda file: file.write_bytes(b""), r"model\.safetensors is empty"),
    "pointer": (
        lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"),
        r"model\.safetensors is a Git LFS pointer, not the file itself: run `git lfs pull`",
    ),
    "page": (lambda file: file.write_text("<!DOCTYPE html><html>404</html>"), r"model\.safetensors is a web page"),
    "noise": (lambda file: file.write_bytes(os.urandom(999)), "is cut off or damaged"),
    "a huge header": (lambda file: file.write_bytes((1 << 62).to_bytes(8, "little") + b"{}"), "is cut off or damaged"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("component", ["clap", "coarse_model", "clap_quantizer"])
def test_files_that_are_no_weights(pipeline, component, kind):
    damage, message = FILES[kind]
    damage(pipeline / component / "model.safetensors")
    refused(lambda: read(pipeline, component), message)


CONFIGS = {
    "deep": (lambda file: file.write_text('{"a":' * 100_000 + "1" + "}" * 100_000), "is nested too deeply"),
    "no table": (lambda file: file.write_text("[1, 2]"), "holds a list where a table"),
    "cut": (cut, r"config\.json is no JSON"),
    "page": (lambda file: file.write_text("<html></html>"), "is a web page"),
    "another model": (lambda file: change_json(file, model_type="bert"), "holds a model of the type 'bert'"),
    "no model": (lambda file: change_json(file, model_type=["x"]), "holds a model of the type"),
}


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("component", ["coarse_model", "clap", "semantic_quantizer"])
def test_configs_that_are_none(pipeline, component, kind):
    damage, message = CONFIGS[kind]
    damage(pipeline / component / "config.json")
    refused(lambda: read(pipeline, component), message)


@pytest.mark.parametrize(
    ("component", "changes", "message"),
    [
        (
            "coarse_model",
            {"hidden_size": 10**9},
            "hidden_size is 1e\\+09, which the weights beside it do not bear out",
        ),
        ("coarse_model", {"hidden_size": 900_000}, "its config describes .* numbers, and its weights hold"),
        ("coarse_model", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1e\\+09"),
        ("coarse_model", {"num_hidden_layers": 3}, "is not whole: its weights lack"),
        ("coarse_model", {"hidden_size": 64}, "has shape"),
        ("coarse_model", {"hidden_size": "wide"}, "hidden_size"),
        ("coarse_model", {"hidden_size": -3}, "cannot be read"),
        ("coarse_model", {"streams": 3}, "cannot be read|Streams are a list"),
        ("coarse_model", {"streams": [{"name": "a", "codebook_size": 10**12}] * 5000}, "streams has 5,000 entries"),
        ("coarse_model", {"position_bias_type": "quantum"}, "position_bias_type"),
        ("clap_quantizer", {"codebook_size": 10**9}, "codebook_size is 1e\\+09"),
        ("clap_quantizer", {"num_quantizers": 0}, "must be a whole number from 1"),
        ("codec", {"num_lstm_layers": 10**8}, "num_lstm_layers is 1e\\+08"),
        ("codec", {"upsampling_ratios": "fast"}, "cannot be read|upsampling_ratios"),
        ("semantic_encoder", {"conv_dim": [8] * 5000}, "conv_dim has 5,000 entries"),
        ("semantic_encoder", {"attn_implementation": "someone/kernel"}, "a repository whose code would be run"),
    ],
)
def test_configs_that_the_weights_do_not_bear_out(pipeline, component, changes, message):
    change_json(pipeline / component / "config.json", **changes)
    refused(lambda: read(pipeline, component), message)


def test_what_is_whole_is_read(pipeline):
    """Also with state that only training uses damaged, weights in half precision, and a size that no weight has."""
    change_weights(pipeline, "codec", lambda t: t["quantizer.layers.0.codebook.embed_avg"].fill_(torch.nan))
    assert read(pipeline, "codec").config.codebook_size == 16
    plain = read(pipeline, "coarse_model")
    plain.half().save_pretrained(pipeline / "half")
    assert MusicLMCoarseModel.from_pretrained(pipeline / "half", dtype="auto").dtype == torch.float16
    change_json(pipeline / "coarse_model" / "config.json", relative_attention_max_distance=500_000)
    model, info = MusicLMCoarseModel.from_pretrained(pipeline / "coarse_model", output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(model.heads["coarse"].half(), plain.heads["coarse"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_finite_whatever_the_sum(dtype):
    assert all_finite(torch.full((100_000,), torch.finfo(dtype).max, dtype=dtype))
    for value in (torch.inf, -torch.inf, torch.nan):
        values = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
        values[7] = value
        assert not all_finite(values)
    assert not all_finite(torch.tensor([torch.inf, -torch.inf], dtype=dtype))


def readers(folder):
    """All that read the coarse stage or the CLAP of a pipeline."""
    return {
        "pipeline": lambda: MusicLMPipeline.from_pretrained(folder),
        "tokenize": lambda: load_networks(folder),
        "train": lambda: load_base("coarse", folder),
        "evaluate": lambda: load_embedder(f"clap:{folder}"),
    }


@pytest.mark.parametrize("reader", ["pipeline", "train"])
def test_a_damaged_stage_by_every_reader(pipeline, reader):
    change_weights(pipeline, "coarse_model", make_nan)
    refused(readers(pipeline)[reader], "coarse_model: '.*' holds values that are not finite")


@pytest.mark.parametrize("reader", ["pipeline", "tokenize", "evaluate"])
def test_a_damaged_clap_by_every_reader(pipeline, reader):
    change_weights(pipeline, "clap", lose)
    refused(readers(pipeline)[reader], "clap is not whole: its weights lack")


def test_the_commands_say_it_in_one_line(pipeline, tmp_path, capsys):
    change_weights(pipeline, "fine_model", lose)
    output = tmp_path / "song.wav"
    assert main(["generate", "a", "--model", str(pipeline), "--duration", "1", "-o", str(output)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("open-musiclm generate: ")
    assert "fine_model is not whole: its weights lack '" in error
    assert error.count("\n") == 1
    assert not output.exists()


INDEXES = {
    "no class": ({"_class_name": None}, "pipeline"),
    "a component that is a number": ({"clap": 3}, r"`clap` is not \[library, class\]"),
    "a component of three": ({"clap": ["a", "b", "c"]}, r"`clap` is not \[library, class\]"),
    "no such class": ({"clap": ["transformers", "NoSuchModel"]}, "no such class of models"),
    "a function": ({"clap": ["transformers", "pipeline"]}, "no such class of models"),
    "another library": ({"clap": ["os", "system"]}, "no such class of models"),
    "a file": ({"clap": ["payload", "ClapModel"]}, "no such class of models"),
    "the wrong slot": ({"coarse_model": ["transformers", "ClapModel"]}, "as `coarse_model`, where MusicLMStageModel"),
    "a stage as clap": ({"clap": ["open_musiclm", "MusicLMFineModel"]}, "as `clap`, where ClapModel belongs"),
    "a model as processor": ({"clap_processor": ["transformers", "ClapModel"]}, "where ClapProcessor belongs"),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_indexes_that_name_what_does_not_belong(pipeline, kind):
    changes, message = INDEXES[kind]
    (pipeline / "clap" / "payload.py").write_text("raise SystemExit('ran')")
    file = pipeline / "model_index.json"
    index = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: value for name, value in index.items() if value is not None}))
    refused(lambda: MusicLMPipeline.from_pretrained(pipeline), message)
    if kind != "no class" and "coarse_model" not in changes:
        refused(lambda: load_networks(pipeline), message)


@pytest.mark.parametrize("text", ["", "[]", "<html>", '{"a":' * 100_000, "\x00\xff"])
def test_indexes_that_are_none(pipeline, text):
    (pipeline / "model_index.json").write_text(text)
    for reader in ("pipeline", "tokenize"):
        with pytest.raises((ValueError, OSError)) as caught:
            readers(pipeline)[reader]()
        assert "model_index.json" in str(caught.value)


@pytest.fixture
def unasked(monkeypatch):
    """Fails where a user would be asked whether to run code."""

    def ask(*_):
        raise AssertionError("asked whether to run the repository's code")

    monkeypatch.setattr(builtins, "input", ask)


def with_code(folder, ran):
    """A repository's own classes for whatever can be named, in every config of the pipeline."""
    for component in [path for path in folder.iterdir() if path.is_dir()]:
        (component / "payload.py").write_text(f"open({str(ran)!r}, 'w')\nclass Payload: pass\n")
        for file in component.glob("*.json"):
            if file.name not in ("tokenizer.json", "vocab.json"):
                names = dict.fromkeys(
                    ("AutoConfig", "AutoModel", "AutoProcessor", "AutoFeatureExtractor"), "payload.Payload"
                )
                change_json(file, auto_map={**names, "AutoTokenizer": ["payload.Payload", None]})


def test_no_code_of_a_repository_is_run(pipeline, tmp_path, unasked):
    """Known classes are loaded as ever; the repository's own beside them are not looked at."""
    with_code(pipeline, tmp_path / "ran")
    (pipeline / "pipeline.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for reader in readers(pipeline).values():
        reader()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("tokenizer_class", ["Payload", "PayloadTokenizerFast", None])
def test_a_tokenizer_that_only_the_repository_knows(pipeline, tmp_path, unasked, tokenizer_class):
    from transformers import ClapProcessor

    with_code(pipeline, tmp_path / "ran")
    file = pipeline / "clap_processor" / "tokenizer_config.json"
    content = {**json.loads(file.read_text()), "tokenizer_class": tokenizer_class}
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    with contextlib.suppress(ValueError):
        read_processor(ClapProcessor, pipeline / "clap_processor")
    assert not (tmp_path / "ran").exists()


def test_a_kernel_is_not_fetched(pipeline):
    for name in ("someone/kernel", "someone/kernel:f", "flash_attention_2|someone/kernel", {"": "someone/kernel"}):
        refused(
            lambda name=name: MusicLMCoarseModel.from_pretrained(pipeline / "coarse_model", attn_implementation=name),
            "a repository whose code would be run",
        )
    model = MusicLMCoarseModel.from_pretrained(pipeline / "coarse_model", attn_implementation="eager")
    assert model.config._attn_implementation == "eager"


def test_shards_that_lead_out_of_the_folder(pipeline):
    folder = pipeline / "coarse_model"
    read(pipeline, "coarse_model").save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert read(pipeline, "coarse_model").config.hidden_size == 32
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] = {name: f"../coarse_model/{file}" for name, file in index["weight_map"].items()}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(lambda: read(pipeline, "coarse_model"), "points out of its folder")


def test_a_tar_in_place_of_weights(pipeline, tmp_path):
    """PyTorch's oldest format is unpacked to the disk when it is read."""
    import tarfile

    folder = pipeline / "coarse_model"
    (folder / "model.safetensors").unlink()
    with tarfile.open(folder / "pytorch_model.bin", "w") as archive:
        (tmp_path / "tensors").write_text("x")
        archive.add(tmp_path / "tensors", "../../escaped")
    refused(lambda: read(pipeline, "coarse_model"), "is a tar archive")


def test_a_pipeline_of_one_variant(saved, tmp_path):
    """Saved as `variant="fp16"`: read where no plain weights stand beside, by all readers."""
    MusicLMPipeline.from_pretrained(saved).save_pretrained(tmp_path / "fp16", variant="fp16")
    assert (tmp_path / "fp16" / "coarse_model" / "model.fp16.safetensors").is_file()
    for reader in readers(tmp_path / "fp16").values():
        reader()
