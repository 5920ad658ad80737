"""The kernels become machine code for GPUs that are not there: what the interpreter cannot show."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
pytestmark = pytest.mark.slow

#: what a program may have of the shared memory: compute capability 9.0, and 8.6
SHARED_BYTES = {90: 227 * 1024, 86: 99 * 1024}
#: kernels that fetch weights before they wait
FETCH_WEIGHTS = {"project", "gate", "project_rows", "gate_rows", "join_project"}


def compiled(batch_size, dtype, capability):
    script = Path(__file__).with_name("compile_kernels.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ended = subprocess.run(
        [sys.executable, script, str(batch_size), dtype, str(capability)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.mark.parametrize(
    ("batch_size", "dtype", "capability"),
    [(1, "bfloat16", 90), (8, "bfloat16", 90), (64, "bfloat16", 90), (1, "float32", 86), (2, "float32", 86)],
)
def test_the_published_large_size_compiles(batch_size, dtype, capability):
    kernels = compiled(batch_size, dtype, capability)
    expected = {"attend", "sample_and_embed"}
    expected |= {"project", "gate", "join_project"} if batch_size == 1 else {"project_rows", "gate_rows", "join"}
    assert {each["kernel"] for each in kernels} == expected
    for each in kernels:
        assert each["shared_bytes"] <= SHARED_BYTES[capability], each
        assert each["waits"] == (capability == 90), each
        assert each["writes_before"] == 0, "nothing is written before the kernels before have ended"
        fetches = each["kernel"] in FETCH_WEIGHTS and not each["chooses"]
        assert (each["reads_before"] > 0) == (fetches and capability == 90), each
        if each["kernel"].endswith("_rows") and dtype == "bfloat16":
            assert each["tensor_cores"] > 0, each
