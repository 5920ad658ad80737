"""Token streams: what a stage reads and predicts, and how their tokens lie in one flat sequence.

A stage is an ordered list of token streams, the last one predicted. The sequence is

    start₀, steps₀ … EOS₀, start₁, steps₁ … EOS₁, …, start_S, steps_S

where the tokens of a stream of Q codebooks are given frame by frame: (t0 q0, t0 q1, …, t1 q0, …), so the token at
index i of a stream belongs to codebook ``i mod Q``. As published each token is a step of its own, and the sequence is
flat; the stream's pattern may put several into one step (patterns.py). This module is index arithmetic; it knows no
model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

import torch

from ..given import as_count, as_number, shown

#: id of a padded position in a token tensor: it has a zero embedding and is never attended to
PADDING_ID = -1
#: ids, codebooks or frames that a stream may say it has
MOST = 1 << 30
#: how the codebooks of a frame may lie in the steps of a sequence: see patterns.py
PATTERNS = ("flat", "delay", "parallel")
#: which time a stream may describe: the stage's window, or what comes after it
CONTEXTS = ("same", "after")
#: streams whose configs were saved before a stream named its source; any other is its own source
SOURCES_OF_OLD = {"coarse": "codec", "fine": "codec"}


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
        source: what makes its tokens: `"clap"`, `"semantic"`, `"codec"`, `"melody"`, …. Streams of one source have
            codebooks of the same tokenizer. By default what the name says.
        first_codebook: place of its first codebook among its source's. `None` in a stage's list puts it behind those of
            the same source before it (see [`resolve_streams`]).
        pattern: how the codebooks of a frame lie in the sequence (see patterns.py): `"flat"`, one token a step, as
            published; `"delay"`, codebook q a step behind codebook q - 1; `"parallel"`, all in one step.
        optional: a conditioning stream that may be left out, or hidden for some samples of a batch by `PADDING_ID` in
            all of its positions. Training has to hide it at times (`condition_dropout`).
        context: `"same"` for the time that the stage's window covers, `"after"` for the time behind it.
        context_in_s: length in seconds of what an `"after"` stream describes.
        vocabulary: what the ids stand for, in their order, where they stand for names (a genre) or characters.
    """

    name: str
    codebook_size: int
    num_codebooks: int = 1
    frame_rate: float | None = None
    num_edge_frames: int = 0
    codebook_fingerprint: str | None = None
    source: str | None = None
    first_codebook: int | None = None
    pattern: str = "flat"
    optional: bool = False
    context: str = "same"
    context_in_s: float | None = None
    vocabulary: tuple[str, ...] | None = None

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise ValueError(f"A stream's name is used as an argument name, so {shown(self.name)} cannot be one.")
        if self.vocabulary is not None:
            names = self.vocabulary
            if not isinstance(names, list | tuple) or not all(isinstance(each, str) for each in names):
                raise ValueError(f"Stream {self.name!r}: vocabulary must be a list of names, got {shown(names)}.")
            object.__setattr__(self, "vocabulary", tuple(names))
        for field in ("source", "codebook_fingerprint"):
            if not isinstance(getattr(self, field), str | None):
                raise ValueError(f"Stream {self.name!r}: {field} must be a text, got {shown(getattr(self, field))}.")
        if self.source is None:
            object.__setattr__(self, "source", SOURCES_OF_OLD.get(self.name, self.name))
        for field, least in (
            ("codebook_size", 1),
            ("num_codebooks", 1),
            ("num_edge_frames", 0),
            ("first_codebook", 0),
        ):
            if field != "first_codebook" or self.first_codebook is not None:
                as_count(f"Stream {self.name!r}: {field}", getattr(self, field), least)
        if max(self.codebook_size, self.num_codebooks, self.num_edge_frames, self.first_codebook or 0) > MOST:
            raise ValueError(f"Stream {self.name!r}: no stream has more than {MOST:,} ids, codebooks or frames.")
        if len(self.vocabulary or ()) > self.codebook_size:
            raise ValueError(
                f"Stream {self.name!r}: {len(self.vocabulary or ())} names do not fit {self.codebook_size} ids."
            )
        for field in ("frame_rate", "context_in_s"):
            if getattr(self, field) is not None:
                needed = "a positive number (0.001 to 1,000,000)"
                as_number(f"Stream {self.name!r}: {field}", getattr(self, field), needed, lambda n: 1e-3 <= n <= 1e6)
        if not isinstance(self.optional, bool):
            raise ValueError(f"Stream {self.name!r}: optional must be true or false, got {shown(self.optional)}.")
        for field, allowed in (("pattern", PATTERNS), ("context", CONTEXTS)):
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"Stream {self.name!r}: {field} must be one of {allowed}, got {shown(getattr(self, field))}."
                )
        if (self.context == "after") != (self.context_in_s is not None):
            raise ValueError(
                f"Stream {self.name!r}: context_in_s belongs to the context 'after' and to no other, got context "
                f"{self.context!r} and context_in_s {self.context_in_s!r}."
            )
        if self.context == "after" and (self.frame_rate is None or self.num_frames_after < 1):
            raise ValueError(f"Stream {self.name!r}: {self.context_in_s!r} s at {self.frame_rate!r} Hz hold no frame.")

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

    @property
    def num_frames_after(self) -> int:
        """Frames of a stream that describes the time after the window."""
        return int(_fraction(self.context_in_s) * _fraction(self.frame_rate)) - self.num_edge_frames

    def to_dict(self) -> dict:
        return asdict(self)


def described_stream(fields: Any) -> TokenStream:
    """A stream as a config or record describes it.

    Raises:
        ValueError: no table, fields that no stream has, or values that none can have.
    """
    if not isinstance(fields, dict):
        raise ValueError(f"A stream is described by a table of its fields, got {shown(fields)}.")
    try:
        return TokenStream(**fields)
    except TypeError as error:
        raise ValueError(f"A stream cannot be described by {shown(fields)}: {error}.") from None


def resolve_streams(streams: Iterable[TokenStream | dict[str, Any]]) -> list[TokenStream]:
    """A stage's (or a token dataset's) streams, each with its place among its source's codebooks.

    One that does not say it follows those of its source before it in the list: so the fine stream of a config saved
    before streams said it begins behind the coarse one.
    """
    if not isinstance(streams, Iterable) or isinstance(streams, str | dict):
        raise ValueError(f"Streams are a list, each described by a table of its fields; got {shown(streams)}.")
    resolved: list[TokenStream] = []
    for given in streams:
        stream = given if isinstance(given, TokenStream) else described_stream(given)
        if stream.first_codebook is None:
            before = [s for s in resolved if s.source == stream.source and s.context == stream.context]
            first = max(((s.first_codebook or 0) + s.num_codebooks for s in before), default=0)
            stream = replace(stream, first_codebook=first)
        resolved.append(stream)
    return resolved


def frames_beside(stream: TokenStream, other: TokenStream, num_frames: int) -> int:
    """Frames that `stream` has for a window in which `other` has `num_frames`."""
    if stream.frame_rate is None:
        return 1
    if stream.context == "after":
        return stream.num_frames_after
    if other.frame_rate is None:
        return num_frames
    frames = (num_frames + other.num_edge_frames) / _fraction(other.frame_rate) * _fraction(stream.frame_rate)
    return max(int(frames) - stream.num_edge_frames, 1)


def _fraction(value: float | None) -> Fraction:
    return Fraction(value or 0).limit_denominator(1_000_000)


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


def embedding_rows(steps: torch.Tensor, stream: TokenStream, first_step: int | torch.Tensor = 0) -> torch.Tensor:
    """Rows of the stream's embedding table: token + codebook_size · codebook.

    The offset multiplies `codebook_size`, not `codebook_size + 1`, so EOS (always at codebook 0 after whole frames)
    shares a row with token 0 of codebook 1 when there are several codebooks. Published checkpoints were trained so.

    Args:
        steps: (batch, steps, columns), no padding.
        first_step: index in the stream of the first of them.

    Returns:
        (batch, steps, columns) int64.
    """
    if stream.num_codebooks == 1:
        return steps
    if stream.pattern != "flat":
        return steps + stream.codebook_size * torch.arange(stream.num_codebooks, device=steps.device)
    index = torch.arange(steps.shape[1], device=steps.device) + first_step
    return steps + stream.codebook_size * (index % stream.num_codebooks)[:, None]


def unflatten_tokens(token_ids: torch.Tensor, stream: TokenStream) -> torch.Tensor:
    """(batch, tokens) → (batch, frames) for one codebook, else (batch, frames, num_codebooks)."""
    if stream.num_codebooks == 1:
        return token_ids
    return token_ids.unflatten(1, (-1, stream.num_codebooks))
