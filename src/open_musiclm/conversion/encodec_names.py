"""The table from the original EnCodec state dict (24 kHz: causal, weight norm) to transformers' `EncodecModel`.

Sizes are read off the tensors. Source of the original: https://github.com/facebookresearch/encodec,
`encodec/modules/seanet.py` and `encodec/quantization/core_vq.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import torch

from .checkpoint_error import CheckpointError
from .name_table import Row, row

SAMPLING_RATE = 24_000
# Below `<half>.model.<index>` in the original, below `<half>.layers.<index>` here; the convolution's own tensors follow.
_CONVOLUTIONS = {
    "conv.conv": "conv",
    "convtr.convtr": "conv",
    "block.{part}.conv.conv": "block.{part}.conv",
    "shortcut.conv.conv": "shortcut.conv",
}
_CONVOLUTION_TENSORS = {
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
    "bias": "bias",
}
_CODEBOOK_TENSORS = ("inited", "cluster_size", "embed", "embed_avg")


def encodec_config(tensors: Mapping[str, torch.Tensor], source: str | Path) -> dict:
    """The sizes of an original 24 kHz checkpoint as keyword arguments of `EncodecConfig`.

    Raises:
        CheckpointError: The file is no such checkpoint.
    """

    def shape(name: str) -> torch.Size:
        if name not in tensors:
            raise CheckpointError(f"{source}: {name!r} is missing: not an original EnCodec 24 kHz checkpoint")
        return tensors[name].shape

    first = shape("encoder.model.0.conv.conv.weight_v")
    upsampling = [
        tensors[name].shape[-1] // 2 for name in _layers(tensors, r"decoder\.model\.(\d+)\.convtr\..*weight_v")
    ]
    num_codebooks = len(_layers(tensors, r"quantizer\.vq\.layers\.(\d+)\._codebook\.embed"))
    codebook_size, hidden_size = shape("quantizer.vq.layers.0._codebook.embed")
    blocks = _layers(tensors, r"encoder\.model\.(\d+)\.block\.1\.conv\.conv\.weight_v")
    last = _layers(tensors, r"encoder\.model\.(\d+)\.conv\.conv\.weight_v")[-1]
    if not upsampling or not blocks:
        raise CheckpointError(f"{source}: it has no decoder or no residual blocks: not an EnCodec checkpoint")
    bits_per_second = math.ceil(SAMPLING_RATE / math.prod(upsampling)) * math.ceil(math.log2(codebook_size))
    return {
        "sampling_rate": SAMPLING_RATE,
        "audio_channels": first[1],
        "num_filters": first[0],
        "kernel_size": first[2],
        "last_kernel_size": tensors[last].shape[2],
        "residual_kernel_size": tensors[blocks[0]].shape[2],
        "compress": tensors[blocks[0]].shape[1] // tensors[blocks[0]].shape[0],
        "num_residual_layers": len(blocks) // len(upsampling),
        "use_conv_shortcut": any(".shortcut." in name for name in tensors),
        "num_lstm_layers": sum(
            re.fullmatch(r"encoder\.model\.\d+\.lstm\.weight_ih_l\d+", name) is not None for name in tensors
        ),
        "upsampling_ratios": upsampling,
        "hidden_size": hidden_size,
        "codebook_size": codebook_size,
        "target_bandwidths": [count * bits_per_second / 1000 for count in _offered_counts(num_codebooks)],
    }


def encodec_rows(tensors: Mapping[str, torch.Tensor]) -> list[Row]:
    """The table for a checkpoint of these sizes."""
    rows: list[Row] = []
    for half in ("encoder", "decoder"):
        indices = {int(found.group(1)) for name in tensors if (found := re.match(rf"{half}\.model\.(\d+)\.", name))}
        for index in sorted(indices):
            old, new = f"{half}.model.{index}", f"{half}.layers.{index}"
            for (old_part, new_part), part in ((names, part) for names in _CONVOLUTIONS.items() for part in (1, 3)):
                old_name, new_name = f"{old}.{old_part.format(part=part)}", f"{new}.{new_part.format(part=part)}"
                if f"{old_name}.weight_v" in tensors:
                    rows += [row(f"{old_name}.{o}", f"{new_name}.{n}") for o, n in _CONVOLUTION_TENSORS.items()]
            lstm = [name for name in tensors if name.startswith(f"{old}.lstm.")]
            rows += [row(name, name.replace(old, new)) for name in lstm]
    for name in _layers(tensors, r"quantizer\.vq\.layers\.(\d+)\._codebook\.embed"):
        old = name.removesuffix(".embed")
        new = old.replace("quantizer.vq.", "quantizer.").replace("._codebook", ".codebook")
        rows += [row(f"{old}.{tensor}", f"{new}.{tensor}") for tensor in _CODEBOOK_TENSORS]
    return list(dict.fromkeys(rows))


def _offered_counts(num_codebooks: int) -> list[int]:
    """The numbers of codebooks offered as bandwidths: the published 24 kHz model's 2, 4, 8, 16, 32, or halves so."""
    counts = [num_codebooks]
    while counts[0] % 2 == 0 and counts[0] > 2:
        counts.insert(0, counts[0] // 2)
    return counts


def _layers(tensors: Mapping[str, torch.Tensor], pattern: str) -> list[str]:
    """The names that match, in the order of the number they carry."""
    found = [match for name in tensors if (match := re.fullmatch(pattern, name))]
    return [match.group(0) for match in sorted(found, key=lambda match: int(match.group(1)))]
