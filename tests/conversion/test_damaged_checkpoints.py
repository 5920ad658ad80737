"""Damaged, incomplete and odd checkpoints: refused by name before anything is converted, or read and said how."""

import io
import json
import pickle
import tarfile
import zipfile

import joblib
import numpy as np
import pytest
import torch
from goldens import FILES, GOLDENS
from original_files import CONFIG, fitted_kmeans, original_config, original_rvq, write_checkpoint_folder

from open_musiclm.conversion.checkpoint_error import CheckpointError
from open_musiclm.conversion.checkpoint_files import read_state_dict
from open_musiclm.conversion.original_config import read_original_config
from open_musiclm.conversion.pickled_arrays import read_pickled_arrays
from open_musiclm.conversion.quantizer_files import read_kmeans_centroids, read_rvq_codebooks

STAGE = GOLDENS / "conv_continuous" / FILES["coarse"]
RVQ = GOLDENS / "conv_continuous" / "clap.rvq.950_no_fusion.pt"


def refused(read, path, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1100


def tensor_bytes(path) -> tuple[int, int]:
    """Where the largest tensor's bytes begin and end in a zip checkpoint."""
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda entry: entry.file_size)
        with archive.open(entry) as stream:
            start = stream._orig_compress_start
    return start, start + entry.file_size


@pytest.mark.parametrize("kind", ["bit", "hole"])
def test_damage_inside_the_tensors(tmp_path, kind):
    """Their checksums are compared: no bit that flips and no zeroed block is converted."""
    content, random = STAGE.read_bytes(), np.random.default_rng(0)
    start, end = tensor_bytes(STAGE)
    for _ in range(14):
        damaged, position = bytearray(content), int(random.integers(start, end - 4096))
        if kind == "bit":
            damaged[position] ^= 1 << int(random.integers(8))
        else:
            damaged[position : position + 4096] = bytes(4096)
        (tmp_path / "x.pt").write_bytes(damaged)
        refused(read_state_dict, tmp_path / "x.pt", r"x\.pt is damaged: the checksum of .* does not fit")


def rewritten(path, target, **options):
    """The same archive with something about it changed."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", **options) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return target


def test_compressed_archives_are_refused(tmp_path):
    refused(
        read_state_dict, rewritten(STAGE, tmp_path / "x.pt", compression=zipfile.ZIP_DEFLATED), "holds compressed data"
    )


def test_tar_archives_are_refused(tmp_path):
    (tmp_path / "payload").write_text("x")
    for name, options in (("a.pt", {"format": tarfile.USTAR_FORMAT}), ("b.pt", {"format": tarfile.PAX_FORMAT})):
        with tarfile.open(tmp_path / name, "w", **options) as archive:
            archive.add(tmp_path / "payload", "../escaped")
        refused(read_state_dict, tmp_path / name, "is a tar archive")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    content[257:265] = bytes(8)  # the format of before ustar, without its name
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    (tmp_path / "c.pt").write_bytes(content)
    refused(read_state_dict, tmp_path / "c.pt", "is a tar archive")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "b.pt", "c.pt", "payload"]


def odd_tensors():
    plain = torch.randn(4, 4)
    return {
        "complex64": (torch.zeros(4, 4, dtype=torch.complex64), "of complex64"),
        "float8_e4m3fn": (plain.to(torch.float8_e4m3fn), "of float8_e4m3fn"),
        "sparse": (plain.to_sparse(), "sparse"),
        "quantized": (torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8), "quantized"),
        "meta": (plain.to("meta"), "without values"),
        "expanded": (torch.zeros(1).expand(1_000_000, 1_000_000), "of shape .*, more than the file holds of it"),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["complex64", "float8_e4m3fn", "sparse", "quantized", "meta", "expanded"])
def test_tensors_that_are_no_plain_numbers(tmp_path, kind):
    tensor, message = odd_tensors()[kind]
    torch.save({"good": torch.ones(2), "odd.weight": tensor}, tmp_path / "x.pt")
    refused(read_state_dict, tmp_path / "x.pt", rf"'odd\.weight' is {message}|refused|not a PyTorch checkpoint")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["embeddings.2.weight"][3].fill_(torch.nan), "holds values that are not finite"),
        (lambda t: t["embeddings.2.weight"][3, 1].fill_(torch.inf), "holds values that are not finite"),
        (lambda t: t.update({"embeddings.2.weight": t["embeddings.2.weight"].long()}), "is of torch.int64"),
        (lambda t: t.update({"transformer.layers.00.0.norm.gamma": torch.ones(32)}), "has no place"),
        (lambda t: t.update({"transformer.layers.7.0.norm.gamma": torch.ones(32)}), "has no place"),
        (lambda t: t.update({"x\x1b[31m\n" * 100_000: torch.ones(32)}), "has no place"),
    ],
)
def test_stages_with_odd_weights(tmp_path, convert, change, message):
    folder = write_checkpoint_folder(tmp_path / "in", stages=("coarse",))
    tensors = torch.load(folder / "coarse.transformer.1000.pt")
    change(tensors)
    torch.save(tensors, folder / "coarse.transformer.1000.pt")
    refused(lambda out: convert("--checkpoint-dir", folder, "--output-dir", out), tmp_path / "out", message)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["layers.1._codebook.initted"].zero_(), r"'layers\.1\._codebook\.initted' is 0: .* never fitted"),
        (lambda t: t["layers.1._codebook.embed"].fill_(0.5), r"all entries of 'layers\.1\._codebook\.embed' are equal"),
        (lambda t: t["layers.1._codebook.embed"][0, 3].fill_(torch.nan), "not finite"),
        (lambda t: t.update({"layers.1._codebook.embed": t["layers.1._codebook.embed"].long()}), "is of torch.int64"),
        (lambda t: t.update({"rq.layers.1._codebook.embed": t["layers.1._codebook.embed"]}), "two codebooks are of layer 1"),
        (lambda t: t.update({"layers.01._codebook.embed": t["layers.1._codebook.embed"]}), "has no place"),
        (lambda t: t.update({"layers.9000._codebook.embed": t["layers.1._codebook.embed"]}), r"'layers\.3\._codebook\.embed' is missing"),
        (lambda t: t.update({"layers.300000000._codebook.embed": t["layers.1._codebook.embed"]}), "has no place"),
    ],
)  # fmt: skip
def test_residual_vqs_that_are_none(tmp_path, change, message):
    tensors = original_rvq(CONFIG)
    change(tensors)
    torch.save(tensors, tmp_path / "x.pt")
    refused(read_rvq_codebooks, tmp_path / "x.pt", message)


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda t: {"state_dict": t, "epoch": 3}, None),
        (lambda t: {"module": t, "ds_version": "0.9"}, "took the weights under 'module'"),
        (lambda t: {"ema": t}, "took the weights under 'ema'"),
        (lambda t: {"model": t, "ema": {k: v * 0 for k, v in t.items()}}, "under 'model' (also there: 'ema')"),
        (
            lambda t: {"state_dict": {f"model.{k}": v for k, v in t.items()}, "pytorch-lightning_version": "2.0"},
            "took the weights named model.…",
        ),
        (
            lambda t: (
                {f"ema_model.{k}": v for k, v in t.items()}
                | {f"online_model.{k}": v * 0 for k, v in t.items()}
                | {"initted": torch.tensor(True), "step": torch.tensor(9)}
            ),
            "took the weights named ema_model.…",
        ),
        (lambda t: {"state_dict": {f"model._orig_mod.{k}": v for k, v in t.items()}}, "named model.…"),
    ],
)
def test_containers_of_training_scripts(tmp_path, wrap, said):
    tensors, lines = torch.load(STAGE), []
    torch.save(wrap(tensors), tmp_path / "x.pt")
    read = read_state_dict(tmp_path / "x.pt", lines.append)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert (said is None and not lines) or said in lines[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coarse_cfg": {"depth": 10**9}}, "which no model has"),
        ({"coarse_cfg": {"depth": 5000}}, "no model has more than 1024"),
        ({"coarse_cfg": {"dim": 1e300}}, "which no model has"),
        ({"coarse_cfg": {"dim": float("nan")}}, "which no model has"),
        ({"coarse_cfg": {"heads": -1}}, "which no model has"),
        ({"coarse_cfg": {"use_conv_ff": "yes"}}, "is 'yes', neither true nor false"),
        ({"coarse_cfg": {"depth": True}}, "is a bool, not a number"),
        ({"coarse_cfg": {"relative_position_bias_type": [1]}}, "is a list, not a text"),
        ({"coarse_cfg": {"x\x1b[2J" * 9000: 1}}, "unknown setting"),
        ({"global_cfg": {"num_coarse_quantizers": 10**6}}, "no model has more than 1024"),
    ],
)
def test_configs_that_no_model_has(tmp_path, changes, message):
    (tmp_path / "c.json").write_text(json.dumps(original_config(**changes)))
    refused(read_original_config, tmp_path / "c.json", message)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "NaN", '"x"', "\x00"])
def test_configs_that_are_none(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    refused(read_original_config, tmp_path / "c.json", "not a model config")


def test_kmeans_of_old_scikit_learn(tmp_path):
    """`sklearn.externals.joblib` is a joblib, and `sklearn.cluster.k_means_` a module of k-means."""
    kmeans = fitted_kmeans()
    joblib.dump(kmeans, tmp_path / "new.joblib")
    content = (tmp_path / "new.joblib").read_bytes()

    def renamed(old: bytes, new: bytes) -> None:
        nonlocal content
        content = content.replace(b"\x8c" + bytes([len(old)]) + old, b"\x8c" + bytes([len(new)]) + new)

    renamed(b"joblib.numpy_pickle", b"sklearn.externals.joblib.numpy_pickle")
    renamed(b"sklearn.cluster._kmeans", b"sklearn.cluster.k_means_")
    assert content[2:3] == b"\x95"  # a frame says its length, which has changed; pickles of that time had none
    content = content[:2] + content[11:]
    (tmp_path / "old.joblib").write_bytes(content)
    np.testing.assert_array_equal(read_kmeans_centroids(tmp_path / "old.joblib"), kmeans.cluster_centers_)


@pytest.mark.parametrize("write", [joblib.dump, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_kmeans_fitted_on_a_table(tmp_path, write):
    """The names of a table's columns are an array of objects; they are walked and let go."""
    kmeans = fitted_kmeans()
    kmeans.feature_names_in_ = np.array([f"feature {index}" for index in range(16)], dtype=object)
    write(kmeans, tmp_path / "kmeans.joblib")
    np.testing.assert_array_equal(read_kmeans_centroids(tmp_path / "kmeans.joblib"), kmeans.cluster_centers_)


def nested(levels: int, with_itself: bool) -> bytes:
    """A tuple in a tuple in a tuple…, as the key of a table."""
    step = b"\x32\x86" if with_itself else b"\x85"  # DUP TUPLE2, or TUPLE1
    return b"\x80\x02})" + step * levels + b"K\x01s."


HOSTILE_PICKLES = {
    "a tuple of itself, hashed": nested(200, with_itself=True),
    "nested tuples, hashed": nested(200_000, with_itself=False),
    "many marks": b"\x80\x02" + b"(" * 300_000 + b".",
    "endless operations": b"\x80\x02" + b"N0" * 1_000_000 + b".",
    "memo": b"\x80\x02" + b"cnumpy.core.multiarray\n_reconstruct\n)R" + b"2\x94" * 150_000 + b"(K\x01K\x00\x85Nb.",
    "a shape of tuples": b"\x80\x02cnumpy.core.multiarray\n_frombuffer\n(C\x00cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R" + b")" + b"\x85" * 100_000 + b"X\x01\x00\x00\x00CtR.",
    "a long name": b"\x80\x02c" + b"x" * 2_000_000 + b"\n" + b"y" * 2_000_000 + b"\n.",
    "a name that clears the screen": b"\x80\x02cos\x1b[2J\nsystem\x07\n.",
    "an encoding of tuples": b"\x80\x02c_codecs\nencode\nX\x00\x00\x00\x00)" + b"\x85" * 100_000 + b"\x86R.",
    "a number of a million digits": b"I" + b"9" * 1_000_000 + b"\n.",
    "a declared length": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE_PICKLES)
@pytest.mark.timeout(60)
def test_small_pickles_that_cost_much(tmp_path, kind):
    (tmp_path / "kmeans.joblib").write_bytes(HOSTILE_PICKLES[kind])
    refused(read_kmeans_centroids, tmp_path / "kmeans.joblib", r"kmeans\.joblib: ")


def test_an_array_asked_for_again_and_again(tmp_path):
    """One string of bytes, a thousand arrays of it."""
    data = bytes(1 << 20)
    program = io.BytesIO()
    program.write(b"\x80\x04B" + len(data).to_bytes(4, "little") + data + b"\x940")
    for _ in range(1000):
        program.write(b"cnumpy.core.numeric\n_frombuffer\n(h\x00cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85RJ" + len(data).to_bytes(4, "little") + b"\x85X\x01\x00\x00\x00CtR")  # fmt: skip
    program.write(b".")
    (tmp_path / "kmeans.pkl").write_bytes(program.getvalue())
    refused(read_pickled_arrays, tmp_path / "kmeans.pkl", "makes more arrays than any k-means has")


@pytest.mark.parametrize("kind", ["a tuple of itself, hashed", "nested tuples, hashed", "endless operations"])
@pytest.mark.timeout(60)
def test_small_checkpoints_that_cost_much(tmp_path, kind):
    for name, compression in (("zip.pt", zipfile.ZIP_STORED), ("deflated.pt", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(tmp_path / name, "w", compression) as archive:
            archive.writestr("x/data.pkl", HOSTILE_PICKLES[kind])
            archive.writestr("x/version", "3\n")
        refused(read_state_dict, tmp_path / name, r"nests tuples|operations|compressed data")
    (tmp_path / "legacy.pt").write_bytes(HOSTILE_PICKLES[kind])
    refused(read_state_dict, tmp_path / "legacy.pt", r"nests tuples|operations|not a PyTorch checkpoint")
