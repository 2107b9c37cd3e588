"""Inner products between rows, where most of the time of a Gramian goes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Between these numbers of rows, and beyond this length, oneDNN's inner product is faster than the BLAS's.
_SMALLEST, _LARGEST = 16, 128
_LONG = 2**14


class InnerProducts:
    """Inner products between rows, each computed once.

    The same gradients are factors of several parameters: those at the outputs of a layer, of its weight and
    of its bias.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the inner products (N, N) between rows (N, n)."""
        key = (rows.data_ptr(), rows.shape, rows.stride(), rows.dtype)
        if key not in self._known:
            # Beside the products, the rows are held, so that no other tensor comes to lie in their place.
            self._known[key] = rows, inner_products(rows, rows)
        return self._known[key][1]


def inner_products(first: Tensor, second: Tensor) -> Tensor:
    """Return the inner products (N, M) between rows (N, n) and (M, n).

    PyTorch's own product of two wide, flat matrices runs at half the speed of one of square matrices. On the
    CPU it comes with oneDNN, whose inner product does better.
    """
    if _suits_onednn(first) and _suits_onednn(second):
        found: Tensor = torch.ops.mkldnn._linear_pointwise(first, second, None, "none", [], "")
        return found
    return first @ second.T


def _suits_onednn(rows: Tensor) -> bool:
    return (
        rows.device.type == "cpu"
        and rows.dtype == torch.float32
        and _SMALLEST <= rows.shape[0] <= _LARGEST
        and rows.shape[1] >= _LONG
        and rows.is_contiguous()
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )
