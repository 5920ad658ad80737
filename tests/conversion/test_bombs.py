"""Small files that would cost much: the converter refuses each in seconds, within the memory that it needs anyway."""

import bz2
import gzip
import io
import lzma
import resource
import shutil
import subprocess
import sys
import time
import zipfile
import zlib

import pytest
from goldens import GOLDENS

MAX_BYTES, MAX_SECONDS = 1_500_000_000, 20
SIZE = 2 << 30
FOLDER = GOLDENS / "conv_continuous"

COMMAND = """
import resource, sys, time
import open_musiclm.conversion.convert
from open_musiclm.cli import main
started = time.process_time()
code = main(sys.argv[1:])
seconds = time.process_time() - started
try:  # what getrusage says counts what the process was before it ran this, a copy of a large one say
    kilobytes = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
except (OSError, StopIteration):
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(code, seconds, kilobytes)
"""


def compressed(machine, head: bytes = b"", size: int = SIZE) -> bytes:
    """`size` zeros behind `head`, compressed piece by piece."""
    parts, block = [machine.compress(head)], bytes(1 << 24)
    for _ in range(size >> 24):
        parts.append(machine.compress(block))
    return b"".join([*parts, machine.flush()])


def deflated_checkpoint(size: int = SIZE) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/version", "3\n")
        for name in ("data.pkl", "data/0"):
            with archive.open(f"x/{name}", "w", force_zip64=True) as stream:
                block = bytes(1 << 24)
                for _ in range(size >> 25):
                    stream.write(block)
    return target.getvalue()


def stored_checkpoint(pickle: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("x/data.pkl", pickle)
        archive.writestr("x/version", "3\n")
    return target.getvalue()


def asking_for_a_dictionary(size: int) -> bytes:
    """One byte, compressed, whose header wants this much memory to be unpacked."""
    content = bytearray(lzma.compress(b"x", lzma.FORMAT_ALONE, preset=0))
    content[1:5] = size.to_bytes(4, "little")
    return bytes(content)


def gzipped() -> bytes:
    target = io.BytesIO()
    with gzip.GzipFile(fileobj=target, mode="w", compresslevel=1) as stream:
        for _ in range(SIZE >> 24):
            stream.write(bytes(1 << 24))
    return target.getvalue()


KMEANS, STAGE = "kmeans_10s_no_fusion.joblib", "coarse.transformer.18000.pt"
NESTED = b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s."
# Which file of a checkpoint folder it stands for, and its content.
BOMBS = {
    "zlib": (KMEANS, lambda: compressed(zlib.compressobj(1))),
    "gzip": (KMEANS, gzipped),
    "bz2": (KMEANS, lambda: compressed(bz2.BZ2Compressor(1), size=SIZE >> 2)),
    "xz": (KMEANS, lambda: compressed(lzma.LZMACompressor(preset=0), size=SIZE >> 2)),
    "lzma": (KMEANS, lambda: compressed(lzma.LZMACompressor(lzma.FORMAT_ALONE, preset=0), size=SIZE >> 2)),
    "a dictionary of 1.5 GB": (KMEANS, lambda: asking_for_a_dictionary(3 << 29)),
    "deflate in a checkpoint": (STAGE, deflated_checkpoint),
    "nested tuples": (KMEANS, lambda: NESTED),
    "nested tuples in a checkpoint": (STAGE, lambda: stored_checkpoint(NESTED)),
    "nested tuples in a plain pickle": (STAGE, lambda: NESTED),
    "many operations": (KMEANS, lambda: b"\x80\x02" + b"N0" * 20_000_000 + b"."),
    "many operations in a checkpoint": (STAGE, lambda: stored_checkpoint(b"\x80\x02" + b"N0" * 4_000_000 + b".")),
    "a table of tensors of 40 MB": (STAGE, lambda: stored_checkpoint(b"\x80\x02" + b"N0" * 20_000_000 + b".")),
    "many marks": (KMEANS, lambda: b"\x80\x02" + b"(l" * 150_000 + b"(" * 50_000 + b"t" * 50_000 + b"."),
    "a deep config": ("model_config.json", lambda: b'{"coarse_cfg":' * 2_000_000),
    "a config of many layers": (
        "model_config.json",
        lambda: (FOLDER / "model_config.json").read_bytes().replace(b'"depth": ', b'"depth": 1000000000'),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not hasattr(resource, "RUSAGE_SELF"), reason="cannot measure a process's memory here")
@pytest.mark.parametrize("kind", BOMBS)
def test_what_a_bomb_costs(tmp_path, kind):
    shutil.copytree(FOLDER, tmp_path / "in")
    file, content = BOMBS[kind]
    (tmp_path / "in" / file).write_bytes(content())
    started = time.perf_counter()
    command = [
        sys.executable,
        "-c",
        COMMAND,
        "convert",
        "--checkpoint-dir",
        tmp_path / "in",
        "--output-dir",
        tmp_path / "out",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    code, seconds, kilobytes = result.stdout.strip().splitlines()[-1].split()
    num_bytes = int(kilobytes) * (1 if sys.platform == "darwin" else 1024)
    print(
        f"{kind}: {float(seconds):.1f} s, {num_bytes / 1e9:.2f} GB ({time.perf_counter() - started:.0f} s with imports)"
    )
    assert code == "1", result.stdout
    assert len(result.stderr) < 1500
    assert result.stderr.count("\n") == 1
    assert float(seconds) < MAX_SECONDS
    assert num_bytes < MAX_BYTES
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
