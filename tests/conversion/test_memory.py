"""The command's memory, measured from outside on a stage large enough to tell."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from original_files import original_config, original_state_dict

from open_musiclm.conversion.original_config import read_original_config

MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_bytes(*command: object) -> int:
    """Largest resident size of a process that runs this command."""
    arguments = [sys.executable, "-c", MEASURE, sys.executable, *map(str, command)]
    found = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    return int(found) * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RUSAGE_CHILDREN"), reason="cannot measure a child's memory here")
def test_peak_memory_is_about_twice_the_largest_file(tmp_path):
    large = {"dim": 1024, "depth": 8, "heads": 16}
    config = original_config(semantic_cfg=large, coarse_cfg=large)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "config.json").write_text(json.dumps(config))
    filled = read_original_config(tmp_path / "in" / "config.json")
    for stage in ("semantic", "coarse"):
        tensors = {name: tensor * 0.05 for name, tensor in original_state_dict(filled, stage).items()}
        torch.save(tensors, tmp_path / "in" / f"{stage}.transformer.100.pt")
    largest = max(path.stat().st_size for path in (tmp_path / "in").glob("*.pt"))
    script = Path(__file__).parents[2] / "conversion" / "convert_open_musiclm.py"
    base = peak_bytes("-c", "import open_musiclm.conversion.convert")
    peak = peak_bytes(script, "--checkpoint-dir", tmp_path / "in", "--output-dir", tmp_path / "out")
    assert largest > 3e8
    assert peak - base < 2.2 * largest
