"""Token streams: what a stage reads and predicts, and how their tokens lie in one flat sequence.

A stage is an ordered list of token streams, the last one predicted. The flat sequence is

    start₀, tokens₀ … EOS₀, start₁, tokens₁ … EOS₁, …, start_S, tokens_S

where the tokens of a stream of Q codebooks are written frame by frame: (t0 q0, t0 q1, …, t1 q0, …), so the token at
index i of a stream belongs to codebook ``i mod Q``. This module is index arithmetic; it knows no model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

#: id of a padded position in a token tensor: it has a zero embedding and is never attended to
PADDING_ID = -1


@dataclass(frozen=True)
class TokenStream:
    """One stream of discrete tokens.

    Args:
        name: `"clap"`, `"semantic"`, …: the stream is passed to a stage as `{name}_token_ids`.
        codebook_size: number of entries of each of its codebooks. The end-of-stream token has the id `codebook_size`.
        num_codebooks: tokens a frame.
        frame_rate: frames a second, in Hz, or `None` for a stream that describes the whole sequence in one frame.
        num_edge_frames: frames that the encoder loses at the end of a crop: a HuBERT gives `50 · seconds - 1`, so 1.
        codebook_fingerprint: fingerprint of the codebook that the stage was trained on; `None` if it is not known.
    """

    name: str
    codebook_size: int
    num_codebooks: int = 1
    frame_rate: float | None = None
    num_edge_frames: int = 0
    codebook_fingerprint: str | None = None

    def __post_init__(self):
        if not self.name.isidentifier():
            raise ValueError(f"A stream's name is used as an argument name, so {self.name!r} cannot be one.")
        for field in ("codebook_size", "num_codebooks"):
            if getattr(self, field) < 1:
                raise ValueError(f"Stream {self.name!r}: {field} must be at least 1, got {getattr(self, field)}.")
        if self.frame_rate is not None and not self.frame_rate > 0:
            raise ValueError(f"Stream {self.name!r}: frame_rate must be positive, got {self.frame_rate}.")

    @property
    def argument(self) -> str:
        """Name of the argument of `forward` and `generate` that carries this stream."""
        return f"{self.name}_token_ids"

    @property
    def eos_id(self) -> int:
        return self.codebook_size

    @property
    def num_embeddings(self) -> int:
        """Rows of the embedding table: an EOS row a codebook, although the offsets below leave most of them unused."""
        return (self.codebook_size + 1) * self.num_codebooks

    def to_dict(self) -> dict:
        return asdict(self)


def flatten_tokens(token_ids: torch.Tensor, stream: TokenStream) -> torch.Tensor:
    """Bring a stream's ids to the flat layout and check them.

    Args:
        token_ids: (batch, frames, num_codebooks), or already flat: (batch, tokens).
        stream: the stream they belong to.

    Returns:
        (batch, tokens) int64, each in [0, codebook_size) or `PADDING_ID`.

    Raises:
        ValueError: wrong shape, dtype, or an id outside the codebook.
    """
    if not isinstance(token_ids, torch.Tensor) or token_ids.is_floating_point() or token_ids.dtype == torch.bool:
        given = token_ids.dtype if isinstance(token_ids, torch.Tensor) else type(token_ids).__name__
        raise ValueError(f"`{stream.argument}` must be a tensor of integer ids, got {given}.")
    if stream.frame_rate is None and token_ids.ndim == 3 and token_ids.shape[-1] == 1:
        token_ids = token_ids.squeeze(
            -1
        )  # one frame whose codebooks stand in the frames' place, as the original has it
    if token_ids.ndim == 3:
        if token_ids.shape[-1] != stream.num_codebooks:
            raise ValueError(
                f"`{stream.argument}` has {token_ids.shape[-1]} codebooks in its last dimension; this stage was made "
                f"for {stream.num_codebooks}."
            )
        token_ids = token_ids.flatten(1)
    elif token_ids.ndim != 2:
        raise ValueError(
            f"`{stream.argument}` must have the shape (batch, frames, {stream.num_codebooks}) or (batch, tokens), got "
            f"{tuple(token_ids.shape)}."
        )
    return token_ids.long()


def check_token_range(token_ids: torch.Tensor, stream: TokenStream) -> None:
    """Raise a `ValueError` if an id is neither in [0, codebook_size) nor padding (one host synchronisation)."""
    if token_ids.numel() == 0:
        return
    lowest, highest = (int(value) for value in torch.aminmax(token_ids))
    if lowest < PADDING_ID or highest >= stream.codebook_size:
        wrong = lowest if lowest < PADDING_ID else highest
        raise ValueError(
            f"`{stream.argument}` holds the id {wrong}; ids of stream {stream.name!r} lie in "
            f"[0, {stream.codebook_size}) ({PADDING_ID} for padding). Were they made with another codebook?"
        )


def embedding_rows(token_ids: torch.Tensor, stream: TokenStream, first_index: int | torch.Tensor = 0) -> torch.Tensor:
    """Rows of the stream's embedding table: token + codebook_size · (index mod num_codebooks).

    The offset multiplies `codebook_size`, not `codebook_size + 1`, so EOS (always at codebook 0 after whole frames)
    shares a row with token 0 of codebook 1 when there are several codebooks. Published checkpoints were trained so.

    Args:
        token_ids: (batch, tokens), no padding.
        first_index: index in the stream of the first of them.

    Returns:
        (batch, tokens) int64.
    """
    if stream.num_codebooks == 1:
        return token_ids
    index = torch.arange(token_ids.shape[1], device=token_ids.device) + first_index
    return token_ids + stream.codebook_size * (index % stream.num_codebooks)


def unflatten_tokens(token_ids: torch.Tensor, stream: TokenStream) -> torch.Tensor:
    """(batch, tokens) → (batch, frames) for one codebook, else (batch, frames, num_codebooks)."""
    if stream.num_codebooks == 1:
        return token_ids
    return token_ids.unflatten(1, (-1, stream.num_codebooks))
