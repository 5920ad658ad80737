"""A codec's decoder in pieces: layers over a sequence that comes bit by bit, with the outputs of one whole run.

What a convolution gives at a frame depends on a few frames before and (where it is not causal) after it. So a run over
a piece with that many frames around it, cut to the piece, is the whole run's piece; memory holds a piece and its
surroundings, however long the sequence is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction

import torch


@dataclass(frozen=True)
class Convolution:
    """Frames that an output depends on before and after its own."""

    before: int
    after: int


@dataclass(frozen=True)
class Upsampling:
    """A transposed convolution, `trimmed` outputs of whose beginning are cut off."""

    kernel: int
    stride: int
    trimmed: int


def reach(layers: Iterable[Convolution | Upsampling]) -> tuple[int, int]:
    """How many frames before and after it a frame's output of these layers, one behind the other, depends on."""
    before = after = Fraction(0)  # in frames of the layer's output
    for layer in reversed(list(layers)):
        if isinstance(layer, Convolution):
            before, after = before + layer.before, after + layer.after
        else:
            before = Fraction(math.ceil((before + layer.kernel - 1 - layer.trimmed) / layer.stride))
            after = Fraction(math.floor((after + layer.stride - 1 + layer.trimmed) / layer.stride))
    return math.ceil(before), math.ceil(after)


class LayersInPieces:
    """Layers whose outputs depend on frames near by, over inputs that come in pieces.

    Args:
        layers: inputs (batch, channels, frames) → outputs (batch, channels, frames · `ratio`).
        before, after: frames that an output depends on, around its own.
        ratio: outputs a frame.
    """

    def __init__(self, layers: Callable[[torch.Tensor], torch.Tensor], before: int, after: int, ratio: int = 1):
        self.layers, self.before, self.after, self.ratio = layers, before, after, ratio
        self.kept: torch.Tensor | None = None  # the last inputs: those around what is still to come
        self.num_waiting = 0  # of them, whose outputs are to come
        self.started = False

    def push(self, inputs: torch.Tensor | None, last: bool = False) -> torch.Tensor | None:
        """The next inputs → the outputs that nothing to come can change, `None` if there are none."""
        if inputs is None:
            inputs = None if self.kept is None else self.kept[..., :0]
        if inputs is None:
            return None
        joined = inputs if self.kept is None else torch.cat([self.kept, inputs], dim=-1)
        waiting = self.num_waiting + inputs.shape[-1]
        ready = waiting if last else waiting - self.after
        if not last and not self.started and joined.shape[-1] <= self.before + self.after:
            ready = 0  # the padding of the beginning mirrors what is not there yet
        if ready <= 0:
            self.kept, self.num_waiting = joined, waiting
            return None
        first = joined.shape[-1] - waiting
        outputs = self.layers(joined)[..., first * self.ratio : (first + ready) * self.ratio]
        self.num_waiting, self.started = waiting - ready, True
        self.kept = joined[..., max(joined.shape[-1] - self.before - self.num_waiting, 0) :]
        return outputs
