"""Memory for per-example gradients, used again from step to step.

They are the largest arrays of a step. A CPU allocator gives memory of this size back to the system, which
then hands it out again page by page: that takes as long as the arithmetic.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

# Smaller blocks stay with the allocator.
_LARGE = 2**17


class Workspace:
    """Buffers of an engine, lent to the gradients of a step for as long as these live."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []
        self._taken: list[Tensor] = []

    def empty(self, shape: torch.Size, like: Tensor) -> Tensor:
        """Return a contiguous tensor of any content, with the dtype and on the device of another."""
        size = shape.numel()
        if like.device.type != "cpu" or size * like.element_size() < _LARGE:
            return like.new_empty(shape)
        for index, buffer in enumerate(self._free):
            if buffer.numel() == size and buffer.dtype == like.dtype:
                self._taken.append(self._free.pop(index))
                return buffer.view(shape)
        buffer = like.new_empty(size)
        self._taken.append(buffer)
        return buffer.view(shape)

    def lend(self, owner: object) -> None:
        """Lend the buffers taken so far to `owner`, and forget those that nothing was taken from.

        They come back when there is no reference to `owner` any more.
        """
        taken, self._taken = self._taken, []
        self._free.clear()
        weakref.finalize(owner, self._free.extend, taken)
