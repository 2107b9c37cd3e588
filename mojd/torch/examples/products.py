"""Inner products between rows, where most of the time of a Gramian goes."""

from __future__ import annotations

import torch
from torch import Tensor

# Between these numbers of rows, and beyond this length, oneDNN's inner product is faster than the BLAS's.
_SMALLEST, _LARGEST = 16, 128
_LONG = 2**14


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
