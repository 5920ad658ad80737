"""Fingerprints of codebooks: codes mean something only beside the codebook that made them.

A fingerprint is a hash of a codebook's values. Stages and token datasets record the fingerprints of the codebooks they
were made with, and whatever is chained must agree.
"""

from __future__ import annotations

import hashlib

import torch


def codebook_fingerprint(codebooks: torch.Tensor) -> str:
    """Fingerprint of (num_codebooks, codebook_size, dim) or (codebook_size, dim) values, as float32.

    Returns:
        `"sha256:"` and 16 hexadecimal digits.
    """
    values = codebooks.detach().to("cpu", torch.float32).contiguous()
    digest = hashlib.sha256(str(tuple(values.shape)).encode())
    digest.update(values.numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def check_fingerprints(what: str, recorded: str | None, other: str, found: str | None) -> None:
    """Refuse two parts whose codebooks differ; an unknown fingerprint (`None`) passes.

    Raises:
        ValueError: both are known and differ; the message names both.
    """
    if recorded is not None and found is not None and recorded != found:
        raise ValueError(
            f"Codebooks differ: {what} was made with the codebook {recorded}, but {other} has {found}. Their tokens do "
            "not mean the same; use parts that belong together, or make the tokens again with this codebook."
        )
