"""How the codebooks of a stream lie in the steps of a sequence (Copet et al. 2023, MusicGen, section 2.2).

A step is a row of the transformer: its input is the sum of its tokens' embeddings, its output predicts the next step's
tokens, each by its codebook's head. Of a stream of F frames of Q = 3 codebooks, the steps hold (frame, codebook)

    flat      00 01 02 10 11 12 20 …        F · Q steps of one token
    delay     00 10 20 …  F0 __ __          F + Q - 1 steps of Q tokens, or fewer at both ends:
              __ 01 11 21 …  F1 __            codebook q of frame t stands in step t + q
              __ __ 02 12 22 …  F2
    parallel  (00 01 02) (10 11 12) …       F steps of Q tokens

A place without a token holds `PADDING_ID`, whose embedding is zero. This is index arithmetic; it knows no model.
"""

from __future__ import annotations

import torch

from .streams import PADDING_ID, TokenStream


def num_columns(stream: TokenStream) -> int:
    """Tokens of a step at most."""
    return 1 if stream.pattern == "flat" else stream.num_codebooks


def num_steps(stream: TokenStream, num_frames: int) -> int:
    """Steps of `num_frames` frames."""
    if stream.pattern == "flat":
        return num_frames * stream.num_codebooks
    return num_frames + _delay(stream) if num_frames else 0


def num_whole_frames(stream: TokenStream, num_steps: int) -> int:
    """Frames of which every token stands in the first `num_steps` steps."""
    if stream.pattern == "flat":
        return num_steps // stream.num_codebooks
    return max(num_steps - _delay(stream), 0)


def num_known_steps(stream: TokenStream, num_frames: int) -> int:
    """Steps at the beginning that hold no token of a frame behind the first `num_frames`."""
    return num_frames * stream.num_codebooks if stream.pattern == "flat" else num_frames


def num_steps_to_make(stream: TokenStream, num_given: int, num_frames: int) -> int:
    """Steps that are left to make of `num_frames` frames, the first `num_given` of them given."""
    return num_steps(stream, num_frames) - num_known_steps(stream, num_given) if num_given < num_frames else 0


def lay(token_ids: torch.Tensor, stream: TokenStream) -> torch.Tensor:
    """Whole frames (batch, frames · codebooks) → (batch, steps, columns), `PADDING_ID` where there is no token."""
    if stream.pattern == "flat":
        return token_ids.unsqueeze(-1)
    frames = token_ids.unflatten(1, (-1, stream.num_codebooks))
    if not _delay(stream) or not frames.shape[1]:
        return frames
    batch_size, num_frames, num_codebooks = frames.shape
    steps = frames.new_full((batch_size, num_steps(stream, num_frames), num_codebooks), PADDING_ID)
    for codebook in range(num_codebooks):
        steps[:, codebook : codebook + num_frames, codebook] = frames[:, :, codebook]
    return steps


def take_up(steps: torch.Tensor, stream: TokenStream) -> torch.Tensor:
    """What stands at each token's place: (batch, steps, columns, …) → (batch, frames · codebooks, …), whole frames.

    The inverse of [`lay`]; it serves tokens and what belongs to them (logits) alike.
    """
    if stream.pattern == "flat":
        return steps[:, :, 0]
    num_frames = num_whole_frames(stream, steps.shape[1])
    shift = 1 if _delay(stream) else 0
    codebooks = range(stream.num_codebooks)
    return torch.stack([steps[:, q * shift : q * shift + num_frames, q] for q in codebooks], dim=2).flatten(1, 2)


def places_to_draw(
    stream: TokenStream, num_given: int, num_frames: int, device: torch.device | None = None
) -> torch.Tensor:
    """Which places hold a token of a frame behind the first `num_given`: (steps, columns) bool."""
    frames = torch.arange(num_frames, device=device).repeat_interleave(stream.num_codebooks)
    return (lay((frames >= num_given).long()[None], stream) == 1)[0]


def _delay(stream: TokenStream) -> int:
    """Steps that the last codebook of a frame stands behind the first."""
    return stream.num_codebooks - 1 if stream.pattern == "delay" else 0
