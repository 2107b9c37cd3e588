"""Where the examples are in a tensor, and how to find out.

The losses are differentiated twice, once as they are and once scaled by powers of two, another one for
each example. In the gradient at any place that keeps the examples apart, the slice of an example is then
scaled exactly by its power of two. An axis for which that holds is the axis of the examples; where there
is none, examples have met or changed places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# The powers of two of the probe: signs times 2**0 to 2**8. Gradients do not underflow by being enlarged.
_EXPONENTS = 9


class Layout(NamedTuple):
    """The axis of a tensor, of length outer·K·inner, that the K examples share with other indices."""

    axis: int
    outer: int
    inner: int


def probe_factors(size: int, like: Tensor) -> list[Tensor]:
    """Return vectors of K powers of two with signs, of which no two entries are the same in all vectors."""
    values = 2 * _EXPONENTS
    number = torch.arange(size, device=like.device)
    vectors: list[Tensor] = []
    while True:
        digit = (number * 7 + 5 * len(vectors)) % values
        vectors.append(((1 - 2 * (digit % 2)) * 2.0 ** (digit // 2)).to(like.dtype))
        number = number // values
        if not bool(number.any()):
            return vectors


def candidates(shape: torch.Size, size: int) -> Iterator[Layout]:
    """Yield all layouts of K examples that a tensor of this shape can have."""
    for axis, length in enumerate(shape):
        if length == 0 or length % size:
            continue
        others = length // size
        divisors = [outer for outer in range(1, others + 1) if others % outer == 0]
        # Examples first, then examples last, then in between.
        for outer in sorted(divisors, key=lambda outer: (outer != 1, outer != others)):
            yield Layout(axis, outer, others // outer)


def explaining(layouts: Iterable[Layout], plain: Tensor, scaled: Tensor, factors: Tensor) -> list[Layout]:
    """Return those layouts that explain why `plain` became `scaled` when examples were scaled by `factors`.

    What is not finite is left out: it says nothing.
    """
    finite = torch.isfinite(plain) & torch.isfinite(scaled)
    before, after = plain.where(finite, 0), scaled.where(finite, 0)
    largest = after.abs().amax() if after.numel() else torch.zeros((), device=plain.device)
    tolerance = (_tolerance(plain.dtype) * largest).clamp(min=_smallest(plain.dtype))
    return [layout for layout in layouts if _explains(layout, before, after, factors, tolerance)]


def _explains(layout: Layout, before: Tensor, after: Tensor, factors: Tensor, tolerance: Tensor) -> bool:
    if not before.numel():
        return True
    shape = (-1, len(factors), layout.inner * before.shape[layout.axis + 1 :].numel())
    off = before.reshape(shape) * factors.to(before.dtype)[:, None] - after.reshape(shape)
    return bool((off.abs() <= tolerance).all())


def _tolerance(dtype: torch.dtype) -> float:
    """Return what rounding may change, relative to the largest entry.

    Powers of two do not change the rounding of normal numbers, but the order in which a device adds may
    differ from run to run, and half precision has few normal numbers.
    """
    return 2.0**-6 if dtype in (torch.float16, torch.bfloat16) else 64 * torch.finfo(dtype).eps


def _smallest(dtype: torch.dtype) -> float:
    """Return what the rounding of subnormal numbers may change, enlarged by the factors.

    In half precision that would be too much to see what is mixed.
    """
    limits = torch.finfo(dtype)
    return 0.0 if dtype in (torch.float16, torch.bfloat16) else 2.0**12 * limits.tiny * limits.eps


def examples_first(tensor: Tensor, layout: Layout, size: int) -> Tensor:
    """Move the axis of the examples to the front: (..., outer·K·inner, ...) to (K, ..., outer·inner, ...)."""
    axis, outer, inner = layout
    if outer == inner == 1:
        return tensor.movedim(axis, 0).unsqueeze(axis + 1)
    apart = unflattened(tensor, layout, size).movedim(axis + 1, 0)
    return apart.flatten(axis + 1, axis + 2)


def unflattened(tensor: Tensor, layout: Layout, size: int) -> Tensor:
    """Return a view with an axis of its own, number axis + 1, for the examples."""
    shape = tensor.shape
    return tensor.view(*shape[: layout.axis], layout.outer, size, layout.inner, *shape[layout.axis + 1 :])
