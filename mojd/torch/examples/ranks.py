"""Examples on several ranks: the Gramian of all of them, from factors that are gathered one parameter at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mojd.errors import InvalidInputError
from mojd.torch.distributed import gather_rows, sum_gradients
from mojd.torch.examples.factors import Dense, Factor, Outer, Rows, products
from mojd.torch.examples.gradients import PerExampleGradients, add_to_grads


class GradientsOverRanks:
    """The gradients of the losses of all ranks, in the order of the ranks.

    Every rank holds those of its own losses, multiplies them with those of all ranks, and gets the rows of
    the Gramian that the others have computed. The weighted gradients of the ranks are added up.

    Parameters
    ----------
    own : PerExampleGradients
    group : ProcessGroup
        Each rank has a replica of the parameters.

    Raises
    ------
    InvalidInputError
        If the ranks differ in their parameters.
    """

    def __init__(self, own: PerExampleGradients, group: Any) -> None:
        self._own = own
        self._group = group
        summaries: list[Any] = [None] * dist.get_world_size(group)
        kinds = {name: _kind(factor) for name, factor in own.factors.items()}
        shapes = {name: tuple(parameter.shape) for name, parameter in own.parameters.items()}
        dist.all_gather_object(summaries, (own.size, shapes, kinds), group=group)
        if any(other != shapes for _, other, _ in summaries):
            raise InvalidInputError(
                "the ranks of process_group have different trainable parameters: each needs a replica of the module"
            )
        self._sizes = [size for size, _, _ in summaries]
        self._kinds = [kinds for _, _, kinds in summaries]

    def gramian(self) -> Tensor:
        """Compute the Gramian of the losses of all ranks; the same on each of them."""
        total = self._own.empty_gramian(sum(self._sizes))
        for name in self._own.parameters:
            kinds = [kinds[name] for kinds in self._kinds if name in kinds]
            if kinds:
                own = self._alike(name, kinds)
                total += products(own, self._gathered(own))
        rows = gather_rows(total, self._group)
        # Each rank computes its rows on its own; which of two roundings counts must not depend on the rank.
        return 0.5 * (rows + rows.T)

    def write(self, weights: Tensor) -> None:
        """Add the direction for the losses of all ranks to ``.grad``, the same on each of them."""
        piece = weights.split(self._sizes)[dist.get_rank(self._group)]
        own = self._own.weighted(piece)
        used = [name for name in self._own.parameters if any(name in kinds for kinds in self._kinds)]
        local = [own.get(name, torch.zeros_like(self._own.parameters[name])) for name in used]
        add_to_grads(self._own.parameters, dict(zip(used, sum_gradients(local, self._group), strict=True)))

    def _alike(self, name: str, kinds: Sequence[tuple[Any, ...]]) -> Factor:
        """Return the own gradients of a parameter in a form that all ranks have."""
        factor = self._own.factors.get(name)
        if factor is None:
            parameter = self._own.parameters[name]
            return Dense(parameter.new_zeros((self._own.size, *parameter.shape)))
        everywhere = len(kinds) == len(self._kinds) and len({kind[0] for kind in kinds}) == 1
        if not everywhere:
            return Dense(factor.dense())
        return _padded(factor, max(kind[1] for kind in kinds))

    def _gathered(self, own: Factor) -> Factor:
        tensors = [gather_rows(tensor.contiguous(), self._group) for tensor in own.tensors]
        if isinstance(own, Outer):
            return Outer(tensors[0], tensors[1], own.shape)
        if isinstance(own, Rows):
            return Rows(tensors[0], tensors[1], own.shape)
        return Dense(tensors[0])


def _kind(factor: Factor) -> tuple[Any, ...]:
    """Return the form of a factor and its number of positions."""
    if isinstance(factor, Outer):
        return ("outer", factor.left.shape[1]), factor.left.shape[2]
    if isinstance(factor, Rows):
        return ("rows",), factor.indices.shape[1]
    return ("dense",), 0


def _padded(factor: Factor, positions: int) -> Factor:
    """Return a factor with more positions, at which there is nothing."""
    if isinstance(factor, Outer):
        more = (0, 0, 0, positions - factor.left.shape[2])
        pad = torch.nn.functional.pad
        return Outer(pad(factor.left, more), pad(factor.right, more), factor.shape)
    if isinstance(factor, Rows):
        more = positions - factor.indices.shape[1]
        pad = torch.nn.functional.pad
        return Rows(pad(factor.indices, (0, more)), pad(factor.values, (0, 0, 0, more)), factor.shape)
    return factor
