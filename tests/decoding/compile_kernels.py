"""Compile every kernel of a step for a GPU that is not there; prints a line of JSON for each, for test_triton_compiles.py.

python compile_kernels.py BATCH_SIZE DTYPE CAPABILITY       (90: with overlapping launches)
"""

import json
import re
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from open_musiclm import MusicLMCoarseConfig, MusicLMCoarseModel
from open_musiclm.decoding import triton_attention, triton_products
from open_musiclm.decoding.packed_weights import PackedStage
from open_musiclm.decoding.sampling import StandardSampling
from open_musiclm.decoding.static_step import StaticState
from open_musiclm.decoding.triton_step import TritonStep

KERNELS = ("project", "gate", "project_rows", "gate_rows", "attend", "join", "join_project", "sample_and_embed")


class AbsentGPU:
    """What Triton's compiler asks of a driver."""

    def __init__(self, capability):
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return 0

    def get_current_stream(self, device=None):
        return 0


class Compiled:
    """In a kernel's place: a launch compiles it and says what came of it."""

    def __init__(self, name, kernel):
        self.name, self.kernel = name, kernel

    def __getitem__(self, grid):
        def launch(*arguments, **settings):
            compiled = self.kernel.warmup(*arguments, grid=grid, **settings)
            ptx = compiled.asm["ptx"]
            before, wait, _ = ptx.partition("griddepcontrol.wait")
            print(
                json.dumps(
                    {
                        "kernel": self.name,
                        "chooses": bool(settings.get("CHOOSE")),
                        "waits": bool(wait),
                        "reads_before": len(re.findall(r"ld\.global|cp\.async", before)) if wait else 0,
                        "writes_before": len(re.findall(r"st\.global", before)) if wait else 0,
                        "tensor_cores": len(re.findall(r"mma\.sync|wgmma\.mma_async", ptx)),
                        "shared_bytes": compiled.metadata.shared,
                    }
                ),
                flush=True,
            )

        return launch


def main(batch_size: int, dtype: str, capability: int) -> None:
    driver.set_active(AbsentGPU(capability))
    for module in (triton_attention, triton_products):
        for name in KERNELS:
            kernel = getattr(module, name, None)
            if isinstance(kernel, triton.runtime.JITFunction):
                setattr(module, name, Compiled(name, kernel))
    config = MusicLMCoarseConfig.from_preset("large", num_hidden_layers=1)
    packed = PackedStage(MusicLMCoarseModel(config).eval().to(getattr(torch, dtype)), repack=False)
    state = StaticState(packed, batch_size, 1116, 900)
    sampling = StandardSampling(packed.codebook_size, 0.95, 102)
    TritonStep(packed, state, sampling, True, overlap=capability >= 90)()


if __name__ == "__main__":
    with torch.no_grad():
        main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
