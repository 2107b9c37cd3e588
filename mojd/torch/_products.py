"""Inner products of the gradients of several losses, without a Jacobian.

Gradients are read in pieces that fit into the cache, so that each of their entries comes from memory once.
No result depends on the precision that the caller allows matrix products (TF32, bfloat16 in oneDNN) or on
an autocast region: what multiplies matrices does so in float64.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

Gradients = Sequence[Tensor | None]

# Up to this many losses, on the CPU, dot products of pieces beat copying them beside each other.
_FEW = 12
# Bytes of the pieces that are worked on together: half of a usual L2 cache, part of a device's.
_CPU_BYTES = 2**20
_DEVICE_BYTES = 2**26
_SHORTEST, _LONGEST = 2**12, 2**17
# So many dot products are kept as single numbers before they are added up.
_PENDING = 4096


def common_order(tensors: Sequence[Tensor]) -> tuple[int, ...] | None:
    """Return the order of axes in which all tensors lie in memory without gaps, or None if there is none."""
    if all(tensor.is_contiguous() for tensor in tensors):
        return tuple(range(tensors[0].ndim))
    strides = tensors[0].stride()
    order = tuple(sorted(range(len(strides)), key=lambda axis: -strides[axis]))
    return order if all(tensor.permute(order).is_contiguous() for tensor in tensors) else None


def flattened(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors of one shape as vectors in one order of entries: views, if their layouts agree."""
    order = common_order(tensors)
    if order is None:
        return [tensor.reshape(-1) for tensor in tensors]
    return [tensor.permute(order).view(-1) for tensor in tensors]


def gramians(gradients: Sequence[Gradients]) -> list[Tensor]:
    """Return the sums of inner products over the parameters of each device, as float64 (K, K) there.

    Parameters
    ----------
    gradients : sequence of sequences of tensors
        One per loss, with an entry per parameter: None where the loss misses it.
    """
    groups: dict[tuple[torch.device, torch.dtype, tuple[int, ...]], list[list[Tensor]]] = defaultdict(list)
    for parts in zip(*gradients, strict=True):
        rows = tuple(row for row, part in enumerate(parts) if part is not None)
        present = [part for part in parts if part is not None]
        if present and present[0].numel():
            groups[present[0].device, present[0].dtype, rows].append(flattened(present))
    totals: dict[torch.device, Tensor] = {}
    for (device, dtype, rows), columns in groups.items():
        products = _by_dots if device.type == "cpu" and len(rows) <= _FEW else _by_matmul
        found = products(columns, len(rows), dtype)
        if len(rows) != len(gradients):
            found = _spread(found, rows, len(gradients))
        totals[device] = totals[device] + found if device in totals else found
    return list(totals.values())


def _spread(products: Tensor, rows: tuple[int, ...], size: int) -> Tensor:
    """Return a matrix of zeros but for the products of some rows; copies nothing from the host."""
    full = products.new_zeros(size, size)
    for position, row in enumerate(rows):
        for other, column in enumerate(rows):
            full[row, column] = products[position, other]
    return full


def _pieces(columns: list[list[Tensor]], length: int) -> Iterator[Sequence[Tensor]]:
    """Yield all entries of all parameters in pieces of at most that length, one row per loss.

    Small parameters are joined: a network has many of them, and each piece costs as many calls as there are
    pairs of losses.
    """
    waiting: list[list[Tensor]] = []
    used = 0
    for column in columns:
        size = column[0].numel()
        if size > length:
            yield from zip(*(torch.split(row, length) for row in column), strict=True)
            continue
        if used + size > length:
            yield _joined(waiting)
            waiting, used = [], 0
        waiting.append(column)
        used += size
    if waiting:
        yield _joined(waiting)


def _joined(columns: list[list[Tensor]]) -> list[Tensor]:
    return columns[0] if len(columns) == 1 else [torch.cat(row) for row in zip(*columns, strict=True)]


def _length(rows: int, size: int, capacity: int, longest: int) -> int:
    """Return how many entries per row fit into `capacity` bytes."""
    return max(_SHORTEST, min(longest, capacity // (rows * size)))


def _by_dots(columns: list[list[Tensor]], rows: int, dtype: torch.dtype) -> Tensor:
    """Add up dot products of pieces, in the gradients' own precision or float32, their sums in float64."""
    precision = torch.float64 if dtype == torch.float64 else torch.float32
    length = _length(rows, precision.itemsize, _CPU_BYTES, _LONGEST)
    lower = [(i, j) for i in range(rows) for j in range(i + 1)]
    total = torch.zeros(len(lower), dtype=torch.float64)
    pending: list[Tensor] = []
    for piece in _pieces(columns, length):
        vectors = piece if dtype == precision else [part.to(precision) for part in piece]
        pending += [torch.dot(vectors[i], vectors[j]) for i, j in lower]
        if len(pending) >= _PENDING:
            total += _added(pending, len(lower))
            pending = []
    if pending:
        total += _added(pending, len(lower))
    matrix = torch.zeros(rows, rows, dtype=torch.float64)
    below, beside = torch.tril_indices(rows, rows)
    matrix[below, beside] = total
    matrix[beside, below] = total
    return matrix


def _added(products: Iterable[Tensor], pairs: int) -> Tensor:
    return torch.stack(list(products)).view(-1, pairs).sum(dim=0, dtype=torch.float64)


def _by_matmul(columns: list[list[Tensor]], rows: int, dtype: torch.dtype) -> Tensor:
    """Add up products of pieces with their transposes, in float64: nothing waits for a device."""
    del dtype
    device = columns[0][0].device
    on_cpu = device.type == "cpu"
    capacity, longest = (_CPU_BYTES, _LONGEST) if on_cpu else (_DEVICE_BYTES, _DEVICE_BYTES)
    matrix = torch.zeros(rows, rows, dtype=torch.float64, device=device)
    for piece in _pieces(columns, _length(rows, 8, capacity, longest)):
        block = torch.stack(list(piece)).double()
        matrix.addmm_(block, block.T)
    return matrix
