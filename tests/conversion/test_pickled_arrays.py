"""The k-means pickle: its arrays come out, and nothing that it names is imported, called or tolerated."""

import contextlib
import os
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from goldens import GOLDENS
from original_files import fitted_kmeans

from open_musiclm import SemanticQuantizer, SemanticQuantizerConfig
from open_musiclm.conversion.checkpoint_error import CheckpointError
from open_musiclm.conversion.pickled_arrays import read_pickled_arrays
from open_musiclm.conversion.quantizer_files import read_kmeans_centroids

GOLDEN = GOLDENS / "conv_continuous" / "kmeans_10s_no_fusion.joblib"


class Calls:
    """Pickles as a call of `function(*args)`."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def test_golden_centroids_and_codes():
    expected = np.load(GOLDENS / "conv_continuous" / "kmeans_expected.npz")
    centroids = read_kmeans_centroids(GOLDEN)
    assert torch.equal(centroids, torch.from_numpy(expected["centers"]))
    quantizer = SemanticQuantizer(SemanticQuantizerConfig(codebook_size=40, feature_dim=96, normalize=False))
    quantizer.codebook.data.copy_(centroids)
    assert torch.equal(
        quantizer.encode(torch.from_numpy(expected["features"])), torch.from_numpy(expected["codes"]).long()
    )


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 1), ("bz2", 1), ("lzma", 1), ("xz", 1)])
def test_joblib_with_and_without_compression(tmp_path, compress):
    kmeans = fitted_kmeans()
    kmeans.random_state = np.random.RandomState(3)  # a sub-object with a reducer and arrays of its own
    joblib.dump(kmeans, tmp_path / "kmeans.joblib", compress=compress)
    np.testing.assert_array_equal(read_kmeans_centroids(tmp_path / "kmeans.joblib"), kmeans.cluster_centers_)
    read = read_pickled_arrays(tmp_path / "kmeans.joblib")
    np.testing.assert_array_equal(read.attribute("_counts"), kmeans._counts)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_plain_pickles(tmp_path, protocol, order, dtype):
    kmeans = fitted_kmeans()
    kmeans.cluster_centers_ = np.array(kmeans.cluster_centers_, dtype=dtype, order=order)
    (tmp_path / "kmeans.pkl").write_bytes(pickle.dumps(kmeans, protocol=protocol))
    np.testing.assert_array_equal(read_kmeans_centroids(tmp_path / "kmeans.pkl"), kmeans.cluster_centers_)


def test_scikit_learn_and_joblib_stay_unimported():
    code = (
        "import sys; from open_musiclm.conversion.quantizer_files import read_kmeans_centroids; "
        f"print(tuple(read_kmeans_centroids({str(GOLDEN)!r}).shape), [m for m in ('sklearn', 'joblib') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "(40, 96) []"


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (Calls(os.system, "touch {}"), "system"),
        (Calls(eval, "open({!r}, 'w')"), "eval"),
        (Calls(exec, "open({!r}, 'w')"), "exec"),
        (Calls(open, "{}", "w"), "open"),
        (Calls(np.save, "{}", 1), "numpy.*save"),
        (Calls(subprocess.Popen, ["touch", "{}"]), "subprocess.Popen"),
        (Calls(joblib.dump, 1, "{}"), "joblib.*dump"),
    ],
)
@pytest.mark.parametrize("place", ["top", "attribute", "array element"])
def test_hostile_pickles_are_refused_by_name(tmp_path, call, name, place):
    victim = tmp_path / "created"
    arguments = [
        [part.format(victim) for part in argument] if isinstance(argument, list)
        else argument.format(victim) if isinstance(argument, str) else argument
        for argument in call.args
    ]  # fmt: skip
    hostile = Calls(call.function, *arguments)
    if place == "attribute":
        kmeans = fitted_kmeans()
        kmeans.tol, hostile = hostile, kmeans
    elif place == "array element":
        array = np.empty(1, dtype=object)
        array[0] = hostile
        hostile = array
    for write, file in ((pickle.dump, "kmeans.pkl"), (joblib.dump, "kmeans.joblib")):
        with open(tmp_path / file, "wb") as stream:
            write(hostile, stream)
        with pytest.raises(CheckpointError, match=rf"refused: .*({name}|dtype 'O8')") as caught:
            read_kmeans_centroids(tmp_path / file)
        assert "\n" not in str(caught.value)
        assert not victim.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch {}'\ntR.",  # protocol 0
        b"(ios\nsystem\nS'touch {}'\n.",  # an old-style instance
        b"(cos\nsystem\nS'touch {}'\no.",
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cos\nsystem\nK\x00\x85tR.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x05touch\x85R.",
        b"Pos.system\n.",  # a persistent id
        b"\x80\x02\x82\x01.",  # an extension code
    ],
)
def test_hand_written_programs_are_refused(tmp_path, program):
    victim = tmp_path / "created"
    (tmp_path / "kmeans.pkl").write_bytes(program.replace(b"{}", str(victim).encode()))
    with pytest.raises(CheckpointError, match=r"refused|not a whole pickle"):
        read_pickled_arrays(tmp_path / "kmeans.pkl")
    assert not victim.exists()


def test_every_truncation_is_one_clear_line(tmp_path):
    content, file = GOLDEN.read_bytes(), tmp_path / "kmeans.joblib"
    for length in range(0, len(content) - 1, 211):
        file.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"kmeans\.joblib: ") as caught:
            read_kmeans_centroids(file)
        assert "\n" not in str(caught.value)


def test_random_damage_never_escapes(tmp_path):
    content, file = GOLDEN.read_bytes(), tmp_path / "kmeans.joblib"
    random = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        for position in random.integers(0, 900, size=3):
            damaged[position] = random.integers(256)
        file.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):  # and no other exception
            read_kmeans_centroids(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello world\n", "not a whole pickle"),
        (b"\x78\x9cjunk", "no end"),
        (b"PK\x03\x04", "not a whole pickle"),
    ],
)
def test_wrong_files(tmp_path, content, message):
    (tmp_path / "kmeans.joblib").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_kmeans_centroids(tmp_path / "kmeans.joblib")


def test_other_objects_are_not_a_kmeans(tmp_path):
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([np.zeros(3)]))
    with pytest.raises(CheckpointError, match="holds a list, not a fitted k-means"):
        read_kmeans_centroids(tmp_path / "list.pkl")
    unfitted = fitted_kmeans()
    del unfitted.cluster_centers_
    (tmp_path / "unfitted.pkl").write_bytes(pickle.dumps(unfitted))
    with pytest.raises(CheckpointError, match="no cluster_centers_"):
        read_kmeans_centroids(tmp_path / "unfitted.pkl")


def test_a_decompression_bomb_is_stopped(tmp_path, monkeypatch):
    import zlib

    monkeypatch.setattr("open_musiclm.conversion.bounds.MAX_PICKLE_BYTES", 1 << 20)
    (tmp_path / "kmeans.joblib").write_bytes(zlib.compress(bytes(1 << 24), 9))
    with pytest.raises(CheckpointError, match="unreasonably large"):
        read_kmeans_centroids(tmp_path / "kmeans.joblib")
