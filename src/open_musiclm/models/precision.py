"""Modules that a cast of the model must not round."""

from __future__ import annotations

import torch
from torch import nn


class KeepsFloat32(nn.Module):
    """Mixin: `.to(dtype)`, `.half()` and the like move this module and leave its precision alone."""

    def _apply(self, fn, recurse=True):
        def move_only(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move_only, recurse)
