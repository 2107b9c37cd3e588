"""Memory for per-example gradients, used again from step to step.

They are the largest arrays of a step. A CPU allocator gives memory of this size back to the system, which
then hands it out again page by page: that takes as long as the arithmetic.
"""

from __future__ import annotations

import threading
import weakref

import torch
from torch import Tensor

# Smaller blocks stay with the allocator.
_LARGE = 2**17


class Workspace:
    """Buffers of an engine, lent for as long as their owners live."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []
        self._lock = threading.Lock()

    def empty(self, shape: torch.Size, like: Tensor) -> Tensor:
        """Return a contiguous tensor of any content, with the dtype and on the device of another."""
        size = shape.numel()
        if like.device.type != "cpu" or size * like.element_size() < _LARGE:
            return like.new_empty(shape)
        with self._lock:
            for index, buffer in enumerate(self._free):
                if buffer.numel() == size and buffer.dtype == like.dtype:
                    return self._free.pop(index).view(shape)
        return like.new_empty(shape)

    def lend(self, tensor: Tensor, owner: object) -> None:
        """Take a tensor of :meth:`empty` back when there is no reference to `owner` any more."""
        if tensor.device.type == "cpu" and tensor.numel() * tensor.element_size() >= _LARGE:
            weakref.finalize(owner, self._free.append, tensor.view(-1))

    def forget(self) -> None:
        """Give back to the system what a step has not asked for."""
        with self._lock:
            self._free.clear()
