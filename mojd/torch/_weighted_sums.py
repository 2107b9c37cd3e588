"""Weighted sums of the gradients of several losses, added to what is in ``.grad``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mojd.torch._products import common_order
from mojd.torch._shards import set_grad

# Entries that are worked on together: the result stays in the cache while gradients are added to it.
_PIECE = 2**16


@dataclass(slots=True)
class WeightedSum:
    """What one parameter gets: ``target += Σ weights[rows[k]]·parts[k]``.

    Parameters
    ----------
    like : Tensor
        This rank's part of the parameter, whose dtype and layout a new target gets.
    parts : list of tensors
        The gradients of the losses that reach the parameter.
    rows : list of int
        Which losses those are.
    target : Tensor or None
        What is added to. None stands for 0; then the result is a new tensor, or the first part.
    owns_first : bool
        Whether the first part may be overwritten.
    """

    like: Tensor
    parts: list[Tensor]
    rows: list[int]
    target: Tensor | None
    owns_first: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether the precision of all that takes part is the same, and good enough to add up in."""
        dtype = self.like.dtype if self.target is None else self.target.dtype
        return dtype in (torch.float32, torch.float64) and all(part.dtype == dtype for part in self.parts)


def write(sums: Iterable[tuple[Tensor, WeightedSum]], weights: Tensor) -> None:
    """Make each sum the ``.grad`` of its parameter; on the CPU one after the other, as they come."""
    on_host: list[float] = []
    on_devices: dict[torch.device, list[tuple[Tensor, WeightedSum]]] = {}
    for tensor, item in sums:
        if item.like.device.type != "cpu":
            on_devices.setdefault(item.like.device, []).append((tensor, item))
            continue
        on_host = on_host or weights.tolist()
        set_grad(add_on_cpu(item, on_host), tensor)
    for device, pairs in on_devices.items():
        results = add_on_device([item for _, item in pairs], weights.to(device))
        for (tensor, _), result in zip(pairs, results, strict=True):
            set_grad(result, tensor)


def add_on_cpu(item: WeightedSum, weights: Sequence[float]) -> Tensor:
    """Return the result for a parameter on the CPU; gradients with a weight of 0 are not read."""
    if not item.is_exact:
        return _rounded_once(item, weights)
    terms = [
        (part, weights[row]) for part, row in zip(item.parts, item.rows, strict=True) if weights[row] != 0
    ]
    fresh = item.target is None
    target = item.target
    if target is None:
        reused = item.owns_first and terms and terms[0][0] is item.parts[0]
        target = item.parts[0] if reused else torch.empty_like(item.like)
    order = common_order([target, *(part for part, _ in terms)])
    if order is None or target.numel() <= _PIECE:
        _add_terms(target, terms, fresh)
        return target
    pieces = [torch.split(part.permute(order).view(-1), _PIECE) for part, _ in terms]
    for index, piece in enumerate(torch.split(target.permute(order).view(-1), _PIECE)):
        _add_terms(piece, [(part[index], terms[k][1]) for k, part in enumerate(pieces)], fresh)
    return target


def _add_terms(target: Tensor, terms: Sequence[tuple[Tensor, float]], fresh: bool) -> None:
    if fresh and not terms:
        target.zero_()
    for index, (part, weight) in enumerate(terms):
        if fresh and index == 0:
            torch.mul(part, weight, out=target)
        else:
            target.add_(part, alpha=weight)


def _rounded_once(item: WeightedSum, weights: Any) -> Tensor:
    """Add up in float32 or float64 and round at the end, which is what half precision needs."""
    result = torch.empty_like(item.like) if item.target is None else item.target
    dtypes = [result.dtype, *(part.dtype for part in item.parts)]
    precision = torch.float64 if torch.float64 in dtypes else torch.float32
    terms = [part.to(precision) * weights[row] for part, row in zip(item.parts, item.rows, strict=True)]
    if item.target is not None:
        terms.append(item.target.to(precision))
    total = terms[0]
    for term in terms[1:]:
        total += term
    return result.copy_(total)


def add_on_device(items: Sequence[WeightedSum], weights: Tensor) -> list[Tensor]:
    """Return the results for parameters on a device: few kernels, and no look at the weights there."""
    for dtype in (torch.float32, torch.float64):
        exact = [item for item in items if item.is_exact and item.parts[0].dtype == dtype]
        factors = weights.to(dtype)
        for row in range(len(weights)):
            pairs = [
                (item, part)
                for item in exact
                for part, r in zip(item.parts, item.rows, strict=True)
                if r == row
            ]
            if not pairs:
                continue
            terms = torch._foreach_mul([part for _, part in pairs], factors[row])
            targets, added = [], []
            for (item, _), term in zip(pairs, terms, strict=True):
                if item.target is None:
                    item.target = term
                else:
                    targets.append(item.target)
                    added.append(term)
            if added:
                torch._foreach_add_(targets, added)
    return [_target_of(item) if item.is_exact else _rounded_once(item, weights) for item in items]


def _target_of(item: WeightedSum) -> Tensor:
    assert item.target is not None, "a parameter that no loss reaches has no sum"
    return item.target
