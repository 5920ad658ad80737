"""What is not installed is named with what to install."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from open_musiclm.extras import EXTRA_OF, missing_extra, require

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_extra_is_in_the_table_and_the_readme():
    extras = PROJECT["optional-dependencies"]
    distributions = packages_distributions()
    for package, extra in EXTRA_OF.items():
        named = {re.split("[><=]", requirement)[0] for requirement in extras[extra]}
        if package == "pandas":  # comes with datasets
            continue
        assert named & {name.replace("_", "-") for name in distributions[package]}, package
    assert {*EXTRA_OF.values()} == {*extras} - {"test", "judge"}  # the last is an example's, nothing here imports it
    readme = (ROOT / "README.md").read_text()
    assert all(f"| `{extra}` |" in readme for extra in extras)
    assert PROJECT["requires-python"] == ">=3.11"
    assert "Python 3.11 or newer" in readme


def test_a_missing_package_is_named_with_its_extra():
    assert missing_extra(ModuleNotFoundError("No module named 'numpyy'", name="numpyy")) is None
    said = missing_extra(ModuleNotFoundError("No module named 'sklearn.cluster'", name="sklearn.cluster"))
    assert said.startswith("This needs the package 'sklearn', which comes with the extra 'train': pip install ")
    require("json")


WITHOUT = """
import importlib.abc, sys
class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
from open_musiclm.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("without", "command", "extra"),
    [
        ("datasets,pyarrow", ["tokenize", "music", "-o", "tokens"], "train"),
        ("datasets", ["train", "--stage", "coarse", "--tokens", "tokens", "-o", "out"], "train"),
        ("peft", ["train", "--stage", "coarse", "--tokens", "tokens", "-o", "out", "--lora"], "train"),
    ],
)
def test_a_command_says_it_before_it_works(tmp_path, without, command, extra):
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "a.wav").write_bytes(b"RIFF")
    command = [sys.executable, "-c", WITHOUT, without, *command]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1
    line = result.stderr.splitlines()[-1]
    assert f"'{without.split(',')[0]}', which comes with the extra '{extra}'" in line
    assert f'pip install ".[{extra}]"' in line
    assert [path.name for path in tmp_path.iterdir()] == ["music"]


def test_tokenizing_on_one_machine_needs_no_datatrove(pipeline_folder, tmp_path):
    from music import write_music

    write_music(tmp_path / "music", {"a.wav": 2.0})
    command = ["tokenize", "music", "-o", "tokens", "--model", str(pipeline_folder), "--device", "cpu"]
    command = [sys.executable, "-c", WITHOUT, "datatrove", *command]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "tokens" / "report.json").is_file()
