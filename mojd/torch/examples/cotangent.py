"""The gradient of all losses at one place of the graph, example by example."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from mojd.torch.examples.layout import Layout, examples_first, unflattened


class Cotangent:
    """The gradients of the losses with respect to one tensor of the forward pass.

    Parameters
    ----------
    raw : list of M tensors
        One per task: the gradient of the sum of the task's losses over the examples.
    layout : Layout
        Where the examples are.
    size : int
        K, the number of examples.
    """

    def __init__(self, raw: list[Tensor], layout: Layout, size: int) -> None:
        self.raw = raw
        self.layout = layout
        self.size = size

    @property
    def tasks(self) -> int:
        """M, the number of losses per example."""
        return len(self.raw)

    @cached_property
    def first(self) -> Tensor:
        """The gradient of each loss, (K·M, ...), the others' entries along the axis of examples left."""
        return self.gathered(self.raw)

    def gathered(self, tensors: list[Tensor]) -> Tensor:
        """Return one row per loss of tensors, one per task, that are laid out like the cotangent."""
        moved = [examples_first(tensor, self.layout, self.size) for tensor in tensors]
        return moved[0] if len(moved) == 1 else torch.stack(moved, dim=1).flatten(0, 1)

    def saved(self, tensor: Tensor) -> Tensor:
        """Return one row per loss of a tensor of the forward pass that has the examples on the same axis."""
        rows = examples_first(tensor, self.layout, self.size)
        return rows if self.tasks == 1 else rows.repeat_interleave(self.tasks, dim=0)

    def one_at_a_time(self) -> Iterator[Tensor]:
        """Yield for each loss the cotangent as it was, but zero for all other examples."""
        examples = self.layout.axis + 1
        for number in range(self.size):
            for raw in self.raw:
                alone = torch.zeros_like(raw, memory_format=torch.contiguous_format)
                own = unflattened(raw, self.layout, self.size).select(examples, number)
                unflattened(alone, self.layout, self.size).select(examples, number).copy_(own)
                yield alone

    def transposed(self) -> Cotangent:
        """Return the cotangent of the transposed matrix."""
        axis, outer, inner = self.layout
        return Cotangent([tensor.t() for tensor in self.raw], Layout(1 - axis, outer, inner), self.size)
