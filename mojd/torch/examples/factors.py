"""Per-example gradients of one parameter, in the form that is cheapest to multiply.

A factor stands for N gradients of one tensor. Two of them can be multiplied, to the inner products of their
gradients (N, M), and one can be multiplied with weights, to Σ wₙ·gₙ, mostly without any gradient having
been written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from mojd.torch.examples.products import InnerProducts, inner_products
from mojd.torch.examples.workspace import Workspace

# How many numbers a block of a product between positions may have.
_BLOCK = 2**24


class Factor(Protocol):
    """N gradients of a tensor of the given shape."""

    shape: torch.Size

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it consists of; the first axis of each has length N."""

    def gramian(self, products: InnerProducts) -> Tensor:
        """Return the inner products of the gradients, (N, N)."""

    def weighted(self, weights: Tensor) -> Tensor:
        """Return Σ wₙ·gₙ, of the shape of the tensor, for weights (N,)."""

    def dense(self) -> Tensor:
        """Return the gradients, (N, *shape)."""


class Dense:
    """Gradients that are written out.

    Parameters
    ----------
    values : Tensor, shape (N, *shape)
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.shape = values.shape[1:]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The gradients."""
        return (self.values,)

    def gramian(self, products: InnerProducts) -> Tensor:
        """Return the inner products of the gradients, (N, N)."""
        return products(self.rows())

    def weighted(self, weights: Tensor) -> Tensor:
        """Return Σ wₙ·gₙ."""
        return (weights.to(self.values) @ self.rows()).view(self.shape)

    def dense(self) -> Tensor:
        """Return the gradients."""
        return self.values

    def rows(self) -> Tensor:
        """Return the gradients as vectors, (N, n)."""
        return self.values.reshape(len(self.values), -1)


class Outer:
    """Gradients that are sums of outer products over positions, as those of matrices and convolutions.

    Gradient n of group g is the matrix Σₜ left[n, g, t] ⊗ right[n, g, t].

    Parameters
    ----------
    left : Tensor, shape (N, groups, T, a)
    right : Tensor, shape (N, groups, T, b)
    shape : torch.Size
        Of the tensor, with groups·a·b entries.
    """

    def __init__(self, left: Tensor, right: Tensor, shape: torch.Size) -> None:
        self.left = left
        self.right = right
        self.shape = shape

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Both sides."""
        return self.left, self.right

    def gramian(self, products: InnerProducts) -> Tensor:
        """Return the inner products of the gradients, (N, N)."""
        if self.left.shape[1:3] == (1, 1):
            return products(self.left[:, 0, 0]) * products(self.right[:, 0, 0])
        return self.times(self)

    def times(self, other: Outer) -> Tensor:
        r"""Return the inner products with other gradients, by the products of their factors.

        .. math:: G_{nm} = \sum_{g,s,t} (l_{ngs} \cdot l_{mgt})\,(r_{ngs} \cdot r_{mgt})
        """
        size, groups, positions = self.left.shape[:3]
        others, _, other_positions = other.left.shape[:3]
        if positions == other_positions == 1:
            total = self.left.new_zeros((size, others))
            for group in range(groups):
                lefts = inner_products(self.left[:, group, 0], other.left[:, group, 0])
                total += lefts * inner_products(self.right[:, group, 0], other.right[:, group, 0])
            return total
        left, right = _by_group(self.left), _by_group(self.right)
        left_of_other, right_of_other = _by_group(other.left), _by_group(other.right)
        block = max(1, _BLOCK // (positions * other_positions * others))
        rows = []
        for start in range(0, size, block):
            cut = slice(start * positions, (start + block) * positions)
            products = (left[:, cut] @ left_of_other.mT) * (right[:, cut] @ right_of_other.mT)
            rows.append(products.sum(0).view(-1, positions, others, other_positions).sum((1, 3)))
        return torch.cat(rows)

    def weighted(self, weights: Tensor) -> Tensor:
        """Return Σ wₙ·gₙ by one product per group."""
        left, right = self.left, self.right
        scale = weights.to(left)[:, None, None, None]
        if left.shape[-1] <= right.shape[-1]:
            left = left * scale
        else:
            right = right * scale
        if left.shape[1] == 1:
            return (left.flatten(0, 2).T @ right.flatten(0, 2)).view(self.shape)
        return (_by_group(left).mT @ _by_group(right)).reshape(self.shape)

    def dense(self) -> Tensor:
        """Return the gradients."""
        return self.written_to(self.left.new_empty((len(self.left), *self.shape)))

    def written_to(self, values: Tensor) -> Tensor:
        """Write the gradients into a contiguous tensor (N, *shape), and return it."""
        left, right = self.left.flatten(0, 1), self.right.flatten(0, 1)
        torch.bmm(left.mT, right, out=values.view(len(left), left.shape[-1], right.shape[-1]))
        return values

    @staticmethod
    def is_cheap(size: int, groups: int, positions: int, a: int, b: int) -> bool:
        """Whether the Gramian takes less work by factors than by gradients that are written out."""
        by_factors = size * size * positions * positions * groups * (a + b)
        written_out = size * groups * a * b * (positions + size)
        return by_factors <= written_out

    def is_better_dense(self) -> bool:
        """Whether the Gramian takes less work when the gradients are written out first."""
        size, groups, positions, a = self.left.shape
        return not self.is_cheap(size, groups, positions, a, self.right.shape[-1])


def _by_group(side: Tensor) -> Tensor:
    """Return (N, groups, T, a) as (groups, N·T, a)."""
    return side.transpose(0, 1).flatten(1, 2)


class Rows:
    """Gradients of an embedding: few rows of the table each.

    Parameters
    ----------
    indices : Tensor of integers, shape (N, T)
        Which rows.
    values : Tensor, shape (N, T, d)
        What each of them gets. Rows that occur twice get the sum.
    shape : torch.Size
        Of the table.
    """

    def __init__(self, indices: Tensor, values: Tensor, shape: torch.Size) -> None:
        self.indices = indices
        self.values = values
        self.shape = shape

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Indices and values."""
        return self.indices, self.values

    def gramian(self, products: InnerProducts) -> Tensor:
        """Return the inner products of the gradients, (N, N)."""
        del products
        return self.times(self)

    def times(self, other: Rows) -> Tensor:
        """Return the inner products with other gradients, from the rows that they share."""
        used, places = torch.unique(
            torch.cat((self.indices.flatten(), other.indices.flatten())), return_inverse=True
        )
        own, others = places.split((self.indices.numel(), other.indices.numel()))
        positions, other_positions = self.indices.shape[1], other.indices.shape[1]
        width = self.values.shape[-1]
        if len(used) <= positions * other_positions or len(self.indices) * len(used) * width <= _BLOCK:
            first = _onto(own.view_as(self.indices), self.values, len(used))
            second = first if other is self else _onto(others.view_as(other.indices), other.values, len(used))
            return inner_products(first.flatten(1), second.flatten(1))
        flat, flat_of_other = self.values.flatten(0, 1), other.values.flatten(0, 1)
        block = max(1, _BLOCK // (positions * other_positions * len(other.indices)))
        rows = []
        for start in range(0, len(self.indices), block):
            cut = slice(start * positions, (start + block) * positions)
            products = (flat[cut] @ flat_of_other.T) * (own[cut, None] == others)
            rows.append(products.view(-1, positions, len(other.indices), other_positions).sum((1, 3)))
        return torch.cat(rows)

    def weighted(self, weights: Tensor) -> Tensor:
        """Return Σ wₙ·gₙ."""
        scaled = self.values * weights.to(self.values)[:, None, None]
        table = scaled.new_zeros(self.shape)
        return table.index_add_(0, self.indices.flatten(), scaled.flatten(0, 1))

    def dense(self) -> Tensor:
        """Return the gradients."""
        return _onto(self.indices, self.values, self.shape[0])


def _onto(places: Tensor, values: Tensor, rows: int) -> Tensor:
    """Add values (N, T, d) onto tables (N, rows, d) of zeros, at places (N, T)."""
    size, _, width = values.shape
    table = values.new_zeros((size * rows, width))
    owners = torch.arange(size, device=places.device)[:, None] * rows
    table.index_add_(0, (places + owners).flatten(), values.flatten(0, 1))
    return table.view(size, rows, width)


def in_single_precision(values: Tensor) -> Tensor:
    """Return float16 and bfloat16 as float32, in which products are added up, and the others as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def settled(factor: Factor, workspace: Workspace) -> Factor:
    """Return the factor in the form in which its Gramian takes less work."""
    if isinstance(factor, Outer) and factor.is_better_dense():
        shape = torch.Size((len(factor.left), *factor.shape))
        values = workspace.empty(shape, factor.left)
        dense = Dense(factor.written_to(values))
        workspace.lend(values, dense)
        return dense
    return factor


def compacted(factor: Factor) -> Factor:
    """Return a factor that keeps no larger tensors alive than its own, of which they may be views."""
    tensors = [
        tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
        for tensor in factor.tensors
    ]
    if isinstance(factor, Outer):
        return Outer(tensors[0], tensors[1], factor.shape)
    if isinstance(factor, Rows):
        return Rows(tensors[0], tensors[1], factor.shape)
    return factor


def added(factors: Sequence[Factor]) -> Factor:
    """Return the sums of the gradients of several uses of one tensor, with all products between uses."""
    first = factors[0]
    if len(factors) == 1:
        return first
    outers = [factor for factor in factors if isinstance(factor, Outer)]
    if len(outers) == len(factors) and len({outer.left.shape[1] for outer in outers}) == 1:
        left = torch.cat([outer.left for outer in outers], dim=2)
        right = torch.cat([outer.right for outer in outers], dim=2)
        return Outer(left, right, first.shape)
    total = first.dense()
    for factor in factors[1:]:
        total = total + factor.dense()
    return Dense(total)


def products(first: Factor, second: Factor) -> Tensor:
    """Return the inner products (N, M) of two lots of gradients of the same tensor."""
    if isinstance(first, Outer) and isinstance(second, Outer) and first.left.shape[1] == second.left.shape[1]:
        return first.times(second)
    if isinstance(first, Rows) and isinstance(second, Rows):
        return first.times(second)
    return inner_products(Dense(first.dense()).rows(), Dense(second.dense()).rows())
