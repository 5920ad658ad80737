"""Tokens kept beside the audio that was made of them: a draft can be made longer or finished later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..given import shown
from ..tokenizers.fingerprints import check_fingerprints
from .arguments import given_beginnings

if TYPE_CHECKING:
    from .musiclm import MusicLMPipeline


def save_tokens(path: str | Path, tokens: Mapping[str, torch.Tensor], pipe: MusicLMPipeline) -> None:
    """Write the tokens that stages made, (batch, frames[, codebooks]) by stream, with the fingerprints of their codebooks."""
    from safetensors.torch import save_file

    made = {name: tokens[name].to("cpu", torch.int32).contiguous() for name in pipe.chain.makers if name in tokens}
    fingerprints = {name: pipe.chain.streams[name].codebook_fingerprint for name in made}
    path = Path(path)
    aside = path.with_name(f".{path.name}.part")
    save_file(made, aside, {"open_musiclm_tokens": json.dumps({"codebook_fingerprints": fingerprints})})
    aside.replace(path)


def load_tokens(path: str | Path, pipe: MusicLMPipeline) -> dict[str, torch.Tensor]:
    """Tokens that [`save_tokens`] wrote, for the pipeline's `beginnings`.

    Raises:
        ValueError: no such file, other content, or tokens of other codebooks than the pipeline's.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            record = json.loads((file.metadata() or {}).get("open_musiclm_tokens", "null"))
            tokens = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as tokens: {' '.join(str(error).split())[:300]}") from error
    fingerprints = record.get("codebook_fingerprints") if isinstance(record, dict) else None
    if not isinstance(fingerprints, dict):
        raise ValueError(f"{str(path)!r} holds no tokens that open-musiclm kept.")
    for name in tokens:
        if name not in pipe.chain.makers:
            raise ValueError(f"{str(path)!r} holds tokens of {shown(name)}, which no stage of this pipeline makes.")
        theirs = fingerprints.get(name)
        if not isinstance(theirs, str | None):
            raise ValueError(
                f"{str(path)!r} holds no tokens that open-musiclm kept: {shown(theirs)} is no fingerprint."
            )
        check_fingerprints(
            f"the tokens in {str(path)!r}", theirs, "this pipeline's", pipe.chain.streams[name].codebook_fingerprint
        )
    return given_beginnings(pipe.chain, tokens)
