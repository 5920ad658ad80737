"""What a stage is given, checked and completed: its streams by argument name → flat ids by stream name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from .patterns import num_columns
from .streams import PADDING_ID, TokenStream, check_token_range, flatten_tokens, frames_beside


def collect_streams(
    given: Mapping[str, torch.Tensor | None], streams: Sequence[TokenStream], owner: str, in_steps: bool = False
) -> dict[str, torch.Tensor]:
    """The ids of the streams that are given: (batch, tokens) each by stream name.

    Args:
        given: by argument name.
        streams: the stage's, the predicted one last.
        owner: name of the stage's class, for errors.
        in_steps: the predicted stream comes as steps, (batch, steps, columns), and stays so.

    Raises:
        ValueError: unknown streams, missing ones that are not optional, shapes, batch sizes.
    """
    arguments = {stream.argument: stream for stream in streams}
    for name, value in given.items():
        if value is not None and name not in arguments:
            raise ValueError(f"{owner} has no {name!r}; it takes {', '.join(arguments)}.")
    flat = {}
    for argument, stream in arguments.items():
        token_ids = given.get(argument)
        if token_ids is not None and in_steps and stream is streams[-1]:
            flat[stream.name] = _check_steps(token_ids, stream)
        elif token_ids is not None:
            flat[stream.name] = flatten_tokens(token_ids, stream)
            if flat[stream.name].shape[1] % stream.num_codebooks and stream.pattern != "flat":
                raise ValueError(
                    f"`{argument}` has {flat[stream.name].shape[1]} tokens a sample: the pattern {stream.pattern!r} "
                    f"lays whole frames of {stream.num_codebooks}."
                )
        elif stream is not streams[-1] and not stream.optional:
            raise ValueError(
                f"{owner} needs `{argument}`; it takes {', '.join(arguments)}. (A Trainer drops them all unless its "
                "arguments say `remove_unused_columns=False`.)"
            )
    sizes = {name: len(token_ids) for name, token_ids in flat.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"The streams must have one batch size, got {sizes}.")
    return flat


def check_ranges(flat: Mapping[str, torch.Tensor], streams: Sequence[TokenStream]) -> None:
    """Refuse ids outside their codebooks (one host synchronisation a stream)."""
    for stream in streams:
        if stream.name in flat:
            check_token_range(flat[stream.name], stream)


def complete_streams(
    flat: Mapping[str, torch.Tensor],
    streams: Sequence[TokenStream],
    num_frames: int,
    batch_size: int,
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """All streams in order: the optional ones that were left out hidden, as long as they would be.

    Args:
        num_frames: of the predicted stream in this window.
        batch_size: samples.
        device: where the stage is; the ids are moved there.
    """
    predicted, complete = streams[-1], {}
    for stream in streams:
        if stream.name in flat:
            complete[stream.name] = flat[stream.name].to(device)
        elif stream is predicted:
            complete[stream.name] = torch.empty(batch_size, 0, dtype=torch.long, device=device)
        else:
            num_tokens = frames_beside(stream, predicted, num_frames) * stream.num_codebooks
            complete[stream.name] = torch.full((batch_size, num_tokens), PADDING_ID, device=device)
    return complete


def num_predicted_frames(flat: Mapping[str, torch.Tensor], streams: Sequence[TokenStream], window_in_s: float) -> int:
    """Frames of the predicted stream in the window that the given streams describe."""
    predicted = streams[-1]
    for stream in reversed(streams):
        token_ids = flat.get(stream.name)
        if token_ids is None or stream.frame_rate is None or stream.context == "after" or not token_ids.shape[1]:
            continue
        return frames_beside(predicted, stream, token_ids.flatten(1).shape[1] // stream.num_codebooks)
    return max(int(window_in_s * (predicted.frame_rate or 0)) - predicted.num_edge_frames, 1)


def _check_steps(steps: torch.Tensor, stream: TokenStream) -> torch.Tensor:
    if steps.ndim != 3 or steps.shape[-1] != num_columns(stream) or steps.is_floating_point():
        raise ValueError(
            f"`{stream.argument}` in steps must be integers (batch, steps, {num_columns(stream)}), got "
            f"{steps.dtype} {tuple(steps.shape)}."
        )
    return steps.long()
