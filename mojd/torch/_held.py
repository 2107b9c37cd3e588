"""The gradients of several losses between the backward passes and the step: adding up, and letting go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mojd.torch._averages import Gradients
from mojd.torch._shards import local_part, own_part
from mojd.torch._weighted_sums import WeightedSum


class HeldGradients:
    """Hold this rank's part of one gradient per loss, parameter by parameter.

    Attributes
    ----------
    rows : list of lists of Tensor or None
        One per loss, with an entry per parameter: None where the loss misses it.
    is_averaged : bool
        Whether they are the same on all ranks that have replicas of the parameters.
    """

    def __init__(self) -> None:
        self.rows: list[Gradients] = []
        self.is_averaged = False
        # Tensors that were made here, so that nobody else can hold them.
        self._owned: set[tuple[int, int]] = set()

    @torch.no_grad()
    def merge(self, fresh: list[Gradients]) -> None:
        """Add new gradients to those held. The first sum is a new tensor: autograd's may be shared."""
        self.is_averaged = False
        if not self.rows:
            self.rows = fresh
            return
        for k, (held, row) in enumerate(zip(self.rows, fresh, strict=True)):
            for i, gradient in enumerate(row):
                before = held[i]
                if gradient is None:
                    continue
                if before is None:
                    held[i] = gradient
                elif (k, i) in self._owned:
                    before += gradient
                else:
                    held[i] = before + gradient
                    self._owned.add((k, i))

    def replace(self, averages: list[Gradients]) -> None:
        """Hold averages over ranks instead."""
        self.rows = averages
        self.is_averaged = True

    def sums(self, params: Sequence[Tensor]) -> Iterator[tuple[Tensor, WeightedSum]]:
        """Yield what each parameter gets, and forget its gradients; not those that no loss reaches."""
        for index, param in enumerate(params):
            losses = [k for k, row in enumerate(self.rows) if row[index] is not None]
            if not losses:
                continue
            parts = [part for row in self.rows if (part := row[index]) is not None]
            for row in self.rows:
                row[index] = None
            target = None if param.grad is None else local_part(param.grad, param)
            if target is not None and any(part.data_ptr() == target.data_ptr() for part in parts):
                target = (
                    target.clone()
                )  # given as a gradient of a loss, it is not to change before it is read
            owns_first = (losses[0], index) in self._owned
            yield param, WeightedSum(own_part(param), parts, losses, target, owns_first)
