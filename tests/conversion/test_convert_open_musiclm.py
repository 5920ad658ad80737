"""The command: goldens in, golden numbers out; whatever is wrong is named, and leaves nothing behind."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from goldens import CASES, CLASSES, FILES, GOLDENS, STAGES, expected, rename, stage_inputs
from original_files import CONFIG, original_config, original_state_dict, write_checkpoint_folder

from open_musiclm import ClapQuantizer, SemanticQuantizer
from open_musiclm.conversion.checkpoint_error import CheckpointError
from open_musiclm.conversion.original_config import read_original_config
from open_musiclm.conversion.quantizer_files import read_rvq_codebooks

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
NUM_FRAMES = {"semantic": 40, "coarse": 20, "fine": 12}
NUM_PRIMED = {"semantic": 15, "coarse": 7, "fine": 5}


@pytest.fixture(scope="module")
def converted(tmp_path_factory, run_convert):
    """Each golden folder, converted once by the command."""
    folders = {}
    for case in CASES:
        folders[case] = tmp_path_factory.mktemp(case) / "out"
        run_convert("--checkpoint-dir", GOLDENS / case, "--output-dir", folders[case])
    return folders


def load(folder, stage, **kwargs):
    return CLASSES[stage][1].from_pretrained(folder / f"{stage}_model", **kwargs).eval()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("case", CASES)
class TestGoldens:
    def test_logits_and_losses(self, converted, case, stage):
        golden, inputs = expected(case), stage_inputs(case, stage)
        model = load(converted[case], stage)
        model.config.forgetful_mask_prob = 0.0
        outputs = model(**inputs, labels=golden[stage])
        torch.testing.assert_close(outputs.logits, golden[f"{stage}_train_logits"], **TOLERANCE)
        torch.testing.assert_close(outputs.loss[None], golden[f"{stage}_train_loss"], **TOLERANCE)
        model.config.loss_weights = [1.0] * len(inputs)
        loss = model(**inputs, labels=golden[stage]).loss
        torch.testing.assert_close(loss[None], golden[f"{stage}_train_loss_all_sequences"], **TOLERANCE)
        plain = model(**inputs, append_condition_eos=False).logits
        torch.testing.assert_close(plain, golden[f"{stage}_logits"], **TOLERANCE)

    def test_greedy_generation_as_saved(self, converted, case, stage):
        """A converted checkpoint generates as the original did, with no setting but greedy."""
        golden, model = expected(case), load(converted[case], stage)
        inputs = stage_inputs(case, stage)
        prime = inputs.pop(f"{stage}_token_ids")[:, : NUM_PRIMED[stage]]
        if stage == "fine":
            inputs["coarse_token_ids"] = inputs["coarse_token_ids"][:, :12]
        tokens = model.generate(**inputs, num_frames=NUM_FRAMES[stage], do_sample=False)
        assert torch.equal(tokens, golden[f"{stage}_greedy"].squeeze(-1))
        inputs[f"{stage}_token_ids"] = prime
        tokens = model.generate(**inputs, num_frames=NUM_FRAMES[stage], do_sample=False)
        assert torch.equal(tokens, golden[f"{stage}_greedy_primed"].squeeze(-1))

    def test_weights_bit_for_bit(self, converted, case, stage):
        """Against the renaming that the golden tests write out by hand."""
        model = load(converted[case], stage)
        original = torch.load(GOLDENS / case / FILES[stage], weights_only=True)
        renamed = rename(original, CLASSES[stage][2], model.config.use_conv_feed_forward)
        found = model.state_dict()
        assert found.keys() == renamed.keys()
        assert all(torch.equal(found[name], renamed[name]) for name in renamed)

    def test_config(self, converted, case, stage):
        model = load(converted[case], stage)
        lengths = {"semantic": (4, 2), "coarse": (2, 1), "fine": (1, 1)}
        assert (model.config.window_in_s, model.config.window_stride_in_s) == lengths[stage]
        assert [stream.name for stream in model.streams] == list(CLASSES[stage][2])
        assert model.generation_config.mask_condition_eos is False
        assert (
            model.streams[0].codebook_fingerprint
            == ClapQuantizer.from_pretrained(converted[case] / "clap_quantizer").fingerprint
        )


@pytest.mark.parametrize("case", CASES)
def test_golden_quantizer(converted, case):
    golden, quantizer = expected(case), ClapQuantizer.from_pretrained(converted[case] / "clap_quantizer")
    codes = quantizer.encode(golden["rvq_embeddings"])
    assert torch.equal(codes, golden["rvq_codes"])
    torch.testing.assert_close(quantizer.decode(codes), golden["rvq_quantized"], rtol=0, atol=1e-6)
    assert quantizer.config.window_in_s == 4


def test_kmeans_comes_out(converted):
    quantizer = SemanticQuantizer.from_pretrained(converted["conv_continuous"] / "semantic_quantizer")
    assert quantizer.config.layer == 7
    assert quantizer.config.normalize
    assert (quantizer.config.codebook_size, quantizer.config.feature_dim, quantizer.config.frame_rate) == (40, 96, 10)


@pytest.mark.parametrize(
    "sizes",
    [
        {"dim": 40, "depth": 3, "heads": 3},
        {"use_conv_ff": False, "non_causal_prefix_size": 4},
        {"relative_position_bias_type": "t5"},
        {
            "relative_position_bias_type": "none",
            "use_absolute_position_embeddings": True,
            "max_absolute_position_embeddings": 99,
        },
        {"use_absolute_position_embeddings": True, "use_conv_ff": False, "relative_position_bias_type": "t5"},
        {"non_causal_prefix_size": 30, "dim": 24, "depth": 1, "heads": 1},
    ],
)
def test_other_sizes_and_options(tmp_path, convert, sizes):
    """The command's own comparison with the original's arithmetic passes, for every option."""
    config = original_config(
        semantic_cfg=sizes, coarse_cfg=sizes, fine_cfg=sizes, clap_rvq_cfg={"rq_num_quantizers": 5},
        global_cfg={"num_coarse_quantizers": 4, "num_fine_quantizers": 1}, encodec_cfg={"codebook_size": 11},
    )  # fmt: skip
    write_checkpoint_folder(tmp_path / "in", config)
    printed = convert("--checkpoint-dir", tmp_path / "in", "--output-dir", tmp_path / "out")
    assert printed.count("largest difference") == 5
    model = load(tmp_path / "out", "coarse")
    assert [stream.num_codebooks for stream in model.streams] == [5, 1, 4]
    assert model.config.hidden_size == sizes.get("dim", 32)


def test_prefixes_steps_and_2d_codebooks(tmp_path, convert):
    write_checkpoint_folder(tmp_path / "plain")
    folder = write_checkpoint_folder(tmp_path / "in")
    older = torch.load(folder / "fine.transformer.3000.pt")
    torch.save({name: tensor * 0 for name, tensor in older.items()}, folder / "fine.transformer.999.pt")
    torch.save(
        {f"module._orig_mod.{name}": tensor for name, tensor in older.items()}, folder / "fine.transformer.3000.pt"
    )
    rvq = torch.load(folder / "clap.rvq.950_no_fusion.pt")
    torch.save({name: tensor.squeeze(0) for name, tensor in rvq.items()}, folder / "clap.rvq.950_no_fusion.pt")
    printed = convert("--checkpoint-dir", folder, "--output-dir", tmp_path / "out")
    assert (
        "fine_model: took fine.transformer.3000.pt, the highest step (also there: fine.transformer.999.pt)" in printed
    )
    convert("--checkpoint-dir", tmp_path / "plain", "--output-dir", tmp_path / "expected")
    for component in ("fine_model", "clap_quantizer"):
        found, wanted = (
            (tmp_path / out / component / "model.safetensors").read_bytes() for out in ("out", "expected")
        )
        assert found == wanted


def test_dtype_casts_the_stages_and_keeps_the_codebooks(tmp_path, convert):
    folder = write_checkpoint_folder(tmp_path / "in", stages=("coarse",))
    convert("--checkpoint-dir", folder, "--output-dir", tmp_path / "out", "--dtype", "bfloat16")
    model = load(tmp_path / "out", "coarse", dtype="auto")
    kept = {name for name, parameter in model.named_parameters() if parameter.dtype != torch.bfloat16}
    assert kept == {name for name in model.state_dict() if name.startswith("decoder.position_bias.")}
    original = torch.load(folder / "coarse.transformer.1000.pt")
    assert torch.equal(model.embeddings["coarse"].weight, original["embeddings.2.weight"].bfloat16())
    assert (
        ClapQuantizer.from_pretrained(tmp_path / "out" / "clap_quantizer", dtype="auto").codebooks.dtype
        == torch.float32
    )


def test_only_a_fine_stage(tmp_path, convert):
    folder = write_checkpoint_folder(tmp_path / "in", stages=("fine",))
    for file in ("clap.rvq.950_no_fusion.pt", "kmeans_10s_no_fusion.joblib"):
        (folder / file).unlink()
    config = json.loads((folder / "musiclm_tiny.json").read_text())
    for section in ("semantic_cfg", "coarse_cfg", "hubert_kmeans_cfg"):
        del config[section]
    (folder / "musiclm_tiny.json").write_text(json.dumps(config))
    printed = convert("--checkpoint-dir", folder, "--output-dir", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".open_musiclm_conversion.json",
        "README.md",
        "fine_model",
    ]
    assert "not there: semantic_model (semantic.transformer.N.pt)" in printed
    assert load(tmp_path / "out", "fine").streams[-1].codebook_fingerprint is None


def test_files_named_one_by_one(tmp_path, convert):
    folder = write_checkpoint_folder(tmp_path / "in")
    renamed = tmp_path / "elsewhere"
    renamed.mkdir()
    names = {"semantic": "a.pt", "clap-rvq": "b.pt", "kmeans": "c.joblib", "config": "d.json"}
    sources = (
        "semantic.transformer.1000.pt",
        "clap.rvq.950_no_fusion.pt",
        "kmeans_10s_no_fusion.joblib",
        "musiclm_tiny.json",
    )
    for name, source in zip(names.values(), sources, strict=True):
        shutil.copy(folder / source, renamed / name)
    given = [part for option, name in names.items() for part in (f"--{option}", renamed / name)]
    convert(*given, "--output-dir", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        ".open_musiclm_conversion.json",
        "README.md",
        "semantic_model",
        "clap_quantizer",
        "semantic_quantizer",
    }


def change_tensors(folder: Path, change) -> None:
    file = folder / "coarse.transformer.2000.pt"
    tensors = torch.load(file)
    change(tensors)
    torch.save(tensors, file)


def change_config(folder: Path, **changes) -> None:
    (folder / "musiclm_tiny.json").write_text(json.dumps(original_config(**changes)))


BROKEN = {
    "missing tensor": (
        lambda folder: change_tensors(folder, lambda t: t.pop("transformer.layers.1.0.to_kv.weight")),
        r"coarse\.transformer\.2000\.pt: 'transformer\.layers\.1\.0\.to_kv\.weight' is missing",
    ),
    "surplus tensor": (
        lambda folder: change_tensors(folder, lambda t: t.update({"transformer.layers.1.1.norm.gamma": torch.ones(32)})),
        r"'transformer\.layers\.1\.1\.norm\.gamma' of shape \(32,\) has no place",
    ),
    "mis-shaped tensor": (
        lambda folder: change_tensors(folder, lambda t: t.update({"logit_weights.2": torch.ones(3, 17, 32)})),
        r"'logit_weights\.2' has shape \(3, 17, 32\); this configuration needs \(2, 17, 32\)",
    ),
    "tampered buffer": (
        lambda folder: change_tensors(folder, lambda t: t["transformer.layers.0.0.norm.beta"].fill_(1.0)),
        "the conversion does not compute the same",
    ),
    "values that are not numbers": (
        lambda folder: change_tensors(folder, lambda t: t["logit_weights.2"].fill_(torch.nan)),
        "holds values that are not finite",
    ),
    "another depth": (lambda folder: change_config(folder, fine_cfg={"depth": 3}), r"'transformer\.layers\.2\.0\.norm\.gamma' is missing"),
    "another width": (lambda folder: change_config(folder, semantic_cfg={"dim": 48}), "this configuration needs"),
    "another codebook": (lambda folder: change_config(folder, clap_rvq_cfg={"codebook_size": 32}), "has 3 codebooks of 16; the config says 3 of 32"),
    "another k-means": (lambda folder: change_config(folder, hubert_kmeans_cfg={"codebook_size": 21}), "has 20 centroids; the config says 21"),
    "t5 within a prefix": (
        lambda folder: change_config(folder, coarse_cfg={"relative_position_bias_type": "t5", "non_causal_prefix_size": 2}),
        "relative_position_bias_type t5 and non_causal_prefix_size 2",
    ),
    "unknown setting": (lambda folder: change_config(folder, coarse_cfg={"dpeth": 2}), "coarse_cfg has the unknown setting 'dpeth'"),
    "setting of another kind": (lambda folder: change_config(folder, coarse_cfg={"depth": "six"}), r"coarse_cfg\.depth is 'six', not a number"),
    "section missing": (
        lambda folder: (folder / "musiclm_tiny.json").write_text(json.dumps({k: v for k, v in CONFIG.items() if k != "hubert_kmeans_cfg"})),
        "the model config lacks the section 'hubert_kmeans_cfg'",
    ),
    "no config": (lambda folder: (folder / "musiclm_tiny.json").unlink(), "no model config JSON in it"),
    "two configs": (lambda folder: shutil.copy(folder / "musiclm_tiny.json", folder / "other.json"), r"several model configs: musiclm_tiny\.json, other\.json"),
    "config cut off": (lambda folder: (folder / "musiclm_tiny.json").write_text('{"global_cfg": '), "no model config JSON"),
    "two quantizers": (lambda folder: shutil.copy(folder / "clap.rvq.950_no_fusion.pt", folder / "clap.rvq.950_fusion.pt"), r"name one with --clap-rvq"),
    "empty checkpoint": (lambda folder: (folder / "fine.transformer.3000.pt").write_bytes(b""), r"fine\.transformer\.3000\.pt is empty"),
    "empty folder": (lambda folder: [path.unlink() for path in folder.iterdir()], "nothing to convert; looked for"),
}  # fmt: skip


@pytest.mark.parametrize("breakage", BROKEN)
def test_what_is_wrong_is_named_and_nothing_is_left(tmp_path, convert, breakage):
    folder = write_checkpoint_folder(tmp_path / "in")
    damage, message = BROKEN[breakage]
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert("--checkpoint-dir", folder, "--output-dir", tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_training_configs_are_not_model_configs(tmp_path, convert):
    folder = write_checkpoint_folder(tmp_path / "in", stages=("fine",))
    (folder / "train_musiclm_fma.json").write_text('{"fine_trainer_cfg": {"lr": 3e-4}}')
    assert "musiclm_tiny.json" in convert("--checkpoint-dir", folder, "--output-dir", tmp_path / "out")


def test_an_output_folder_in_use_is_kept(tmp_path, convert):
    folder = write_checkpoint_folder(tmp_path / "in", stages=("fine",))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not empty"):
        convert("--checkpoint-dir", folder, "--output-dir", tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    with pytest.raises(CheckpointError, match="no conversion wrote it"):
        convert("--checkpoint-dir", folder, "--output-dir", tmp_path / "out", "--overwrite")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_rvq_files_with_other_tensors_are_refused(tmp_path):
    torch.save(
        {"layers.0._codebook.embed": torch.rand(1, 4, 2), "project_in.weight": torch.ones(2, 2)}, tmp_path / "x.pt"
    )
    with pytest.raises(CheckpointError, match=r"'project_in\.weight' of shape \(2, 2\) has no place"):
        read_rvq_codebooks(tmp_path / "x.pt")
    torch.save({"layers.1._codebook.embed": torch.rand(1, 4, 2)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"'layers\.0\._codebook\.embed' is missing"):
        read_rvq_codebooks(tmp_path / "x.pt")


def test_the_command_line(tmp_path):
    """As a user runs it: a truncated file ends it with one line and exit code 1, and there is no output folder."""
    script = Path(__file__).parents[2] / "conversion" / "convert_open_musiclm.py"
    folder = write_checkpoint_folder(tmp_path / "in", stages=("fine",))
    content = (folder / "fine.transformer.1000.pt").read_bytes()
    (folder / "fine.transformer.1000.pt").write_bytes(content[: len(content) // 2])
    command = [sys.executable, script, "--checkpoint-dir", folder, "--output-dir", tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1].startswith("open-musiclm convert: ")
    assert "fine.transformer.1000.pt is cut off or damaged" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_every_default_of_the_config_is_the_originals(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({**CONFIG, "fine_cfg": {}, "global_cfg": {}}))
    config = read_original_config(tmp_path / "c.json")
    assert config["fine_cfg"]["max_absolute_position_embeddings"] == 1212
    assert (config["fine_cfg"]["dim"], config["fine_cfg"]["depth"], config["fine_cfg"]["heads"]) == (1024, 6, 8)
    assert config["global_cfg"]["coarse_audio_length_seconds"] == 4.0
    assert original_state_dict(config, "fine")["embeddings.2.weight"].shape == (5 * 17, 1024)
