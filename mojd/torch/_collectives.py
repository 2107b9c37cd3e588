"""Sums and concatenations across the ranks of a process group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.torch._groups import Group, check_devices, exchange_device, group_of

# What DistributedDataParallel uses: long enough to fill the wire, short enough to start early.
BUCKET_BYTES = 25 * 2**20


class Reduction:
    """An all-reduce of several tensors that has been started.

    Parameters
    ----------
    tensors : sequence of Tensor
        Of the same shapes and dtypes on all ranks. They are copied, and free to go.
    group : Group
        Whose ranks to sum over.
    divisor : int, default 1
        By what to divide each rank's part, before the sum so that float16 does not overflow.
    """

    def __init__(self, tensors: Sequence[Tensor], group: Group, divisor: int = 1) -> None:
        self._tensors = [tensor.shape for tensor in tensors]
        self._buckets: list[tuple[list[int], Tensor, Any]] = []
        for members in _buckets(tensors):
            flat = torch.cat([tensors[index].detach().reshape(-1) for index in members])
            if divisor != 1:
                flat /= divisor
            work = dist.all_reduce(flat, group=group.handle, async_op=True)
            self._buckets.append((members, flat, work))

    def wait(self) -> list[Tensor]:
        """Return the sums: views of the buckets, in the order of the tensors."""
        sums: dict[int, Tensor] = {}
        for members, flat, work in self._buckets:
            work.wait()
            sizes = [self._tensors[index].numel() for index in members]
            for index, part in zip(members, torch.split(flat, sizes), strict=True):
                sums[index] = part.view(self._tensors[index])
        return [sums[index] for index in range(len(self._tensors))]


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[int]]:
    """Split the indices of tensors in lists of one dtype and device, and of some megabytes."""
    kinds: dict[tuple[torch.dtype, torch.device], list[int]] = defaultdict(list)
    for index, tensor in enumerate(tensors):
        kinds[tensor.dtype, tensor.device].append(index)
    for indices in kinds.values():
        bucket: list[int] = []
        size = 0
        for index in indices:
            bucket.append(index)
            size += tensors[index].numel() * tensors[index].element_size()
            if size >= BUCKET_BYTES:
                yield bucket
                bucket, size = [], 0
        if bucket:
            yield bucket


def sum_gradients(tensors: Sequence[Tensor], process_group: Any) -> list[Tensor]:
    """Sum tensors over the ranks of a group, in few messages.

    Parameters
    ----------
    tensors : sequence of Tensor
        Dense; of the same shapes and dtypes, in the same order, on all ranks. They are left as they are.
    process_group : torch.distributed.ProcessGroup
        Whose ranks to sum over.

    Returns
    -------
    list of Tensor
        The sums, each of the shape, dtype and device of its tensor. They may share memory with each other's
        neighbours, and with nothing else.

    Raises
    ------
    InvalidInputError
        If the group can't be used here, or has no backend for the device of a tensor.
    InvalidTypeError
        If a tensor is sparse, or `process_group` is none.

    Notes
    -----
    On the wire: the elements of all tensors, in buckets of 25 MiB per dtype.

    Examples
    --------
    A group of one rank:

    >>> import tempfile, torch, torch.distributed as dist
    >>> from mojd.torch.distributed import sum_gradients
    >>> store = f"file://{tempfile.mkdtemp()}/store"
    >>> dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    >>> sum_gradients([torch.ones(2), torch.eye(1)], dist.group.WORLD)
    [tensor([1., 1.]), tensor([[1.]])]
    >>> dist.destroy_process_group()
    """
    group = group_of(process_group)
    check_dense(tensors, "tensor")
    check_devices(group, enumerate(tensors), "tensor")
    return Reduction(tensors, group).wait()


def check_dense(tensors: Sequence[Tensor | None], name: str) -> None:
    """Raise if a tensor is sparse."""
    for index, tensor in enumerate(tensors):
        if tensor is not None and tensor.layout != torch.strided:
            raise InvalidTypeError(
                f"{name} {index} of shape {tuple(tensor.shape)} has the layout {tensor.layout}, which can't "
                "be summed over ranks; build the embedding with sparse=False"
            )


def gather_rows(tensor: Tensor, process_group: Any, counts: Sequence[int] | None = None) -> Tensor:
    """Concatenate the tensors of all ranks along their first axes, which may differ in length.

    Parameters
    ----------
    tensor : Tensor, shape (rows, ...)
        Of the same dtype and the same other axes on all ranks. A rank may have no rows.
    process_group : torch.distributed.ProcessGroup
        Whose ranks to gather from.
    counts : sequence of int, optional
        How many rows each rank has, in the group's order, if that is known: from :func:`row_counts`, say,
        for the many layers of one batch. It saves an exchange, and with it a check. Default: ask.

    Returns
    -------
    Tensor, shape (sum of rows, ...)
        In the group's order of ranks, the same on all of them. It carries no gradient.

    Raises
    ------
    InvalidInputError
        If the ranks' tensors do not fit each other (on all ranks), `counts` does not fit the group or the
        tensor, or the group can't be used here.
    InvalidTypeError
        If `process_group` is none.

    Notes
    -----
    On the wire: from every rank, as many rows as the longest has. That is right for batches, which differ by
    a few examples.

    Examples
    --------
    A group of one rank:

    >>> import tempfile, torch, torch.distributed as dist
    >>> from mojd.torch.distributed import gather_rows
    >>> store = f"file://{tempfile.mkdtemp()}/store"
    >>> dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    >>> gather_rows(torch.eye(2), dist.group.WORLD)
    tensor([[1., 0.],
            [0., 1.]])
    >>> dist.destroy_process_group()
    """
    group = group_of(process_group)
    check_devices(group, [(0, tensor)], "tensor")
    if tensor.ndim < 1:
        raise InvalidInputError("tensor must have a first axis to gather along, got shape ()")
    if counts is None:
        counts = _row_counts(tensor, group)
    elif len(counts) != len(group.ranks) or counts[dist.get_rank(group.handle)] != len(tensor):
        raise InvalidInputError(
            f"counts {list(counts)} does not fit: there are {len(group.ranks)} ranks, and rank "
            f"{dist.get_rank(group.handle)} of the group has {len(tensor)} rows"
        )
    longest = max(counts)
    padded = tensor.detach().contiguous()
    if len(tensor) < longest:
        padded = torch.cat([padded, padded.new_zeros(longest - len(tensor), *tensor.shape[1:])])
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded, group=group.handle)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def row_counts(tensor: Tensor, process_group: Any) -> list[int]:
    """Return how many rows each rank's tensor has, in the group's order.

    Parameters
    ----------
    tensor : Tensor, shape (rows, ...)
        Of the same dtype and the same other axes on all ranks.
    process_group : torch.distributed.ProcessGroup
        Whose ranks to ask.

    Returns
    -------
    list of int
        For the argument `counts` of :func:`gather_rows`.

    Raises
    ------
    InvalidInputError
        If the ranks' tensors differ in more than their rows, on all ranks; or the group can't be used here.
    """
    group = group_of(process_group)
    check_devices(group, [(0, tensor)], "tensor")
    return _row_counts(tensor, group)


def _row_counts(tensor: Tensor, group: Group) -> list[int]:
    """Return how many rows each rank's tensor has, or raise if they differ in more than that."""
    # Fingerprints of equal length whatever the shapes, so that ranks that do not fit still meet.
    row_size = tensor[:0].numel() if tensor.ndim == 1 else int(torch.Size(tensor.shape[1:]).numel())
    own = torch.tensor([len(tensor), tensor.ndim, row_size, tensor.element_size()], dtype=torch.int64)
    own = own.to(exchange_device(group, tensor.device))
    found = [torch.empty_like(own) for _ in group.ranks]
    dist.all_gather(found, own, group=group.handle)
    table: list[list[int]] = torch.stack(found).tolist()
    if any(entry[1:] != table[0][1:] for entry in table):
        described = "; ".join(
            f"rank {rank}: {entry[1]} axes, {entry[2]} numbers a row, {entry[3]} bytes each"
            for rank, entry in zip(group.ranks, table, strict=True)
        )
        raise InvalidInputError(
            f"the ranks' tensors differ in more than their first axis ({described}); here it is "
            f"{tensor.dtype} of shape {tuple(tensor.shape)}"
        )
    return [entry[0] for entry in table]
