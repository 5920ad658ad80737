"""`.pt` files: wrappers taken off, everything that is not a table of tensors refused in one line."""

import os

import numpy as np
import pytest
import torch
from goldens import FILES, GOLDENS

from open_musiclm.conversion.checkpoint_error import CheckpointError
from open_musiclm.conversion.checkpoint_files import read_state_dict, without_wrapper_prefixes

STAGE = GOLDENS / "conv_continuous" / FILES["fine"]


class CreatesAFile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize(
    "name",
    [
        "module.a.b",
        "_orig_mod.a.b",
        "module._orig_mod.a.b",
        "_orig_mod.module.a.b",
        "a._orig_mod.b",
        "module.module.a.b",
    ],
)
def test_wrapper_prefixes(name):
    assert without_wrapper_prefixes(name) == "a.b"


def test_names_that_only_look_like_wrappers_stay():
    assert without_wrapper_prefixes("submodule.weight") == "submodule.weight"
    assert without_wrapper_prefixes("layers.module.weight") == "layers.module.weight"


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize(
    "wrap",
    [lambda t: t, lambda t: {"state_dict": t, "epoch": np.int64(3), "loss": np.float64(0.5)}, lambda t: {"model": t}],
)
def test_wrapped_state_dicts(tmp_path, zip_format, wrap):
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.bfloat16)}
    torch.save(wrap(tensors), tmp_path / "x.pt", _use_new_zipfile_serialization=zip_format)
    read = read_state_dict(tmp_path / "x.pt")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_names_that_collide_without_their_prefix(tmp_path):
    torch.save({"a": torch.ones(1), "module.a": torch.ones(1)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="two entries are called 'a'"):
        read_state_dict(tmp_path / "x.pt")


@pytest.mark.parametrize("zip_format", [True, False])
def test_hostile_files_execute_nothing(tmp_path, zip_format):
    victim = tmp_path / "created"
    torch.save({"a": CreatesAFile(victim)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zip_format)
    with pytest.raises(CheckpointError, match=r"refused: it asks for posix\.system; nothing was executed"):
        read_state_dict(tmp_path / "x.pt")
    assert not victim.exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated_files(tmp_path, share):
    content = STAGE.read_bytes()
    (tmp_path / "x.pt").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"x\.pt.*(cut off|is empty)") as caught:
        read_state_dict(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)


def test_files_of_other_kinds(tmp_path):
    (tmp_path / "page.pt").write_text("<html>404</html>")
    (tmp_path / "archive.pt").write_bytes(b"PK\x05\x06" + bytes(18))
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    torch.save({"a": torch.ones(1), "step": 3}, tmp_path / "step.pt")
    torch.save({}, tmp_path / "nothing.pt")
    for name, message in {
        "page.pt": "is a web page",
        "archive.pt": "not a PyTorch checkpoint",
        "list.pt": "holds a list",
        "step.pt": "entry 'step' is a int",
        "nothing.pt": "holds a dict",
        "absent.pt": "no such file",
    }.items():
        with pytest.raises(CheckpointError, match=message) as caught:
            read_state_dict(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError):
        read_state_dict(GOLDENS / "conv_continuous" / "kmeans_10s_no_fusion.joblib")
