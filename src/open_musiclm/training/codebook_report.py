"""How good codebooks are: reconstruction error, perplexity, dead codes."""

from __future__ import annotations

from typing import Any

import torch

from ..tokenizers.quantizers import nearest_codes


def codebook_report(codebooks: torch.Tensor, vectors: torch.Tensor) -> list[dict[str, Any]]:
    """Figures of each codebook of a residual quantizer (or of the one codebook of a plain one).

    Args:
        codebooks: (num_quantizers, codebook_size, dim).
        vectors: (n, dim) that the codebooks were not fitted to.

    Returns:
        For each codebook: `reconstruction_error`, the squared distance that it and those before it leave, as a share of
        the vectors' variance; `perplexity`, exp of the entropy of its codes (at most its size); `dead_codes`, entries
        that no vector uses (with fewer vectors than entries some must be).
    """
    variance = (vectors - vectors.mean(dim=0)).square().sum().clamp(min=torch.finfo(torch.float32).tiny)
    residual, report = vectors, []
    for codebook in codebooks:
        codes = nearest_codes(residual, codebook)
        residual = residual - codebook[codes]
        counts = torch.bincount(codes, minlength=len(codebook)).double()
        shares = counts[counts > 0] / counts.sum()
        report.append(
            {
                "reconstruction_error": float(residual.square().sum() / variance),
                "perplexity": float((-(shares * shares.log()).sum()).exp()),
                "dead_codes": int((counts == 0).sum()),
                "codebook_size": len(codebook),
            }
        )
    return report
