"""A conversion proves itself: the result, reloaded from disk, against the original's own arithmetic on a fixed input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..tokenizers.quantizers import ClapQuantizer, SemanticQuantizer
from .checkpoint_error import CheckpointError
from .original_config import STAGES
from .reference_forward import reference_logits

# Largest difference allowed, as a share of the largest value compared: float32 sums in another order.
_TOLERANCE = 1e-4
_NUM_FRAMES = 16
_NUM_VECTORS = 64


@torch.no_grad()
def prove_stage(
    stage: str, folder: Path, tensors: Mapping[str, torch.Tensor], sizes: dict[str, Any], dtype: torch.dtype | None
) -> str:
    """Compares logits of the saved stage with those of the original state dict; returns one line to print.

    The input has what the original's generation gives the network: EOS after each conditioning stream, none hidden.

    Raises:
        CheckpointError: They differ by more than the order of float32 sums explains.
    """
    kind = STAGES[stage]
    model = kind.model_class.from_pretrained(folder, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    flat, inputs = [], {}
    for stream in model.streams:
        num_frames = 1 if stream.frame_rate is None else _NUM_FRAMES
        num_frames = min(num_frames, (sizes["max_absolute_position_embeddings"] - 1) // stream.num_codebooks or 1)
        ids = torch.randint(stream.codebook_size, (1, num_frames * stream.num_codebooks), generator=generator)
        inputs[stream.argument] = ids
        is_condition = stream is not model.streams[-1]
        flat.append(torch.cat([ids, torch.tensor([[stream.eos_id]])], dim=1) if is_condition else ids)
    found = model(**inputs, append_condition_eos=True, mask_condition_eos=False, use_cache=False).logits
    del model
    rounded = tensors if dtype is None else _Rounded(tensors, dtype)
    expected = reference_logits(rounded, sizes, _codebook_sizes(tensors), flat)
    return _verdict(f"logits of {found.shape[1]} positions", found, expected)


@torch.no_grad()
def prove_clap_quantizer(folder: Path, codebooks: torch.Tensor) -> str:
    """Checks that each residual step of the saved quantizer picks the nearest entry of the original codebook."""
    quantizer = ClapQuantizer.from_pretrained(folder)
    vectors = torch.randn(_NUM_VECTORS, codebooks.shape[-1], generator=torch.Generator().manual_seed(0))
    residual = vectors = vectors / vectors.norm(dim=-1, keepdim=True)
    codes, excess = quantizer.encode(vectors), []
    for step, codebook in enumerate(codebooks.double()):
        excess.append(_excess_distance(residual, codebook, codes[:, step]))
        residual = residual - codebook[codes[:, step]]
    return _verdict(f"distance of {_NUM_VECTORS} vectors to their codes", torch.stack(excess), torch.zeros(1))


@torch.no_grad()
def prove_semantic_quantizer(folder: Path, centroids: torch.Tensor) -> str:
    """Checks that the saved quantizer picks the nearest of the original centroids."""
    quantizer = SemanticQuantizer.from_pretrained(folder)
    features = torch.randn(_NUM_VECTORS, centroids.shape[-1], generator=torch.Generator().manual_seed(0))
    vectors = features
    if quantizer.config.normalize:
        vectors = (features - features.mean(-1, keepdim=True)) / torch.sqrt(features.var(-1, keepdim=True) + 1e-7)
    excess = _excess_distance(vectors, centroids.double(), quantizer.encode(features))
    return _verdict(f"distance of {_NUM_VECTORS} features to their centroids", excess, torch.zeros(1))


def _excess_distance(vectors: torch.Tensor, codebook: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """How much further than the nearest entry the chosen one is, for each vector: 0 but for ties and rounding."""
    distances = torch.cdist(vectors.double(), codebook)
    return distances.gather(1, codes[:, None])[:, 0] - distances.min(dim=1).values


def _verdict(what: str, found: torch.Tensor, expected: torch.Tensor) -> str:
    if not torch.isfinite(found).all():
        raise CheckpointError(f"the conversion does not compute the same: {what}: not all of it is finite")
    difference, largest = (found - expected).abs().max().item(), expected.abs().max().item()
    if not difference <= _TOLERANCE * max(largest, 1.0):
        raise CheckpointError(f"the conversion does not compute the same: {what}: largest difference {difference:.2e}")
    return f"{what}: largest difference {difference:.1e}"


def _codebook_sizes(tensors: Mapping[str, torch.Tensor]) -> list[int]:
    """Of each stream, in order."""
    heads = sorted(
        (name for name in tensors if name.startswith("logit_weights.")), key=lambda name: int(name.split(".")[1])
    )
    return [tensors[name].shape[1] - 1 for name in heads]


class _Rounded(Mapping[str, torch.Tensor]):
    """The original tensors as a cast to `dtype` leaves them, each made when it is asked for."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype):
        self.tensors, self.dtype = tensors, dtype

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self.tensors[name]
        return tensor if name.startswith("transformer.rel_pos_bias.") else tensor.to(self.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)
