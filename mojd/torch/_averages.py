"""The average of one loss's gradients over replicas of the parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from mojd.torch._collectives import Reduction
from mojd.torch._groups import Group
from mojd.torch._shards import is_dtensor

# One entry per parameter; None where the loss misses it.
Gradients = list[Tensor | None]


class PendingGradients:
    """Gradients of one loss whose averages are on their way; from :meth:`Ranks.start_average`."""

    def __init__(
        self, gradients: Gradients, params: Sequence[Tensor], averaged: Sequence[int], group: Group | None
    ) -> None:
        self._gradients = list(gradients)
        self._averaged: Sequence[int] = ()
        if group is None or len(group.ranks) < 2 or not averaged:
            return
        self._averaged = averaged
        used = [gradients[index] is not None for index in averaged]
        # All ranks send all parameters, zeros for those that their loss misses: who misses what is not known
        # elsewhere, and ranks that send different sizes wait forever.
        parts = [_or_zeros(gradients[index], params[index]) for index in averaged]
        self._misses_some = not all(used)
        self._is_used = torch.tensor(used, dtype=torch.uint8).to(parts[0].device, non_blocking=True)
        self._work = dist.all_reduce(self._is_used, dist.ReduceOp.MAX, group=group.handle, async_op=True)
        self._reduction = Reduction(parts, group, divisor=len(group.ranks))
        for index in averaged:
            # The buckets have copies.
            self._gradients[index] = None

    def wait(self) -> Gradients:
        """Return the averages, with None where no rank's loss depends on the parameter.

        Only a rank whose own loss misses a parameter waits for the device, to learn of the others.
        """
        if not self._averaged:
            return self._gradients
        self._work.wait()
        means = self._reduction.wait()
        is_used = self._is_used.tolist() if self._misses_some else [True] * len(means)
        for index, mean, used in zip(self._averaged, means, is_used, strict=True):
            self._gradients[index] = mean if used else None
        return self._gradients


def _or_zeros(gradient: Tensor | None, param: Tensor) -> Tensor:
    """Return a gradient, or the zeros that stand for it."""
    if gradient is not None:
        return gradient
    return torch.zeros_like(param.to_local() if is_dtensor(param) else param)  # type: ignore[attr-defined]
