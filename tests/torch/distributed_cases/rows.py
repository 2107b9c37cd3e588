"""Rows that are gathered, and sums."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from mojd.errors import InvalidInputError
from mojd.torch.distributed import gather_rows, row_counts, sum_gradients
from tests.torch.distributed_cases.setting import (
    case,
    world,
)


@case(2, 4)
def rows_of_different_lengths_are_gathered() -> None:
    size, rank = dist.get_world_size(), dist.get_rank()
    lengths = [3, 0, 5, 1][:size]
    for dtype in (torch.float64, torch.bfloat16, torch.int64):
        for shape in ((), (2,), (2, 3)):
            parts = [torch.full((n, *shape), float(r)).to(dtype) + n for r, n in enumerate(lengths)]
            expected = torch.cat(parts)
            assert torch.equal(gather_rows(parts[rank], world()), expected)
            counts = row_counts(parts[rank], world())
            assert counts == lengths
            assert torch.equal(gather_rows(parts[rank], world(), counts), expected)
    grown = torch.ones(2, 3, requires_grad=True).T * 2
    assert not gather_rows(grown, world()).requires_grad
    assert torch.equal(gather_rows(grown, world()), torch.full((3 * size, 2), 2.0))


@case(2)
def rows_that_do_not_fit_are_refused() -> None:
    odd = torch.ones(2, 3 + dist.get_rank())
    with pytest.raises(InvalidInputError, match=r"rank 0: .* 3 numbers a row.*rank 1: .* 4 numbers"):
        gather_rows(odd, world())
    with pytest.raises(InvalidInputError, match=r"counts \[1, 2\] does not fit"):
        gather_rows(torch.ones(3), world(), [1, 2])
    with pytest.raises(InvalidInputError, match="first axis"):
        gather_rows(torch.ones(()), world())


@case(2, 4)
def sums_are_the_sums() -> None:
    size, rank = dist.get_world_size(), dist.get_rank()
    tensors = [torch.full((3, 2), float(rank)), torch.ones(4).double(), torch.ones(()), torch.empty(0)]
    tensors.append(torch.arange(6.0).view(2, 3).T * rank)
    kept = [tensor.clone() for tensor in tensors]
    found = sum_gradients(tensors, world())
    ranks = sum(range(size))
    expected = [torch.full((3, 2), float(ranks)), torch.full((4,), size).double(), torch.tensor(float(size))]
    expected += [torch.empty(0), torch.arange(6.0).view(2, 3).T * ranks]
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(tensors, kept, strict=True)), "left as they are"
