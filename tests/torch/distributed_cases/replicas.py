"""Data parallel: every rank has a replica of the parameters, with and without DistributedDataParallel."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mojd.torch import _collectives
from mojd.torch.distributed import crosses_ranks
from tests.torch.distributed_cases.setting import (
    Reference,
    Tasks,
    batches,
    case,
    check_step,
    close,
    full,
    replicas,
    same_bits,
    step,
    task_losses,
    world,
)


@case(2, 4)
def data_parallel() -> None:
    model, reference = replicas()
    params = list(model.parameters())
    x = batches(dist.get_world_size())[dist.get_rank()]
    result = step(task_losses(model, x), params, world())
    check_step(reference, result, params)
    for param in model.unused.parameters():
        assert param.grad is None, "no rank's loss depends on it"
    for param in params[:-2]:
        assert param.grad is not None
        same_bits(param.grad, "grad")


@case(2, 4)
def data_parallel_adds_to_grad() -> None:
    model, reference = replicas()
    params = list(model.parameters())
    already = [torch.full_like(p, float(i)) for i, p in enumerate(params)]
    for param, grad in zip(params, already, strict=True):
        param.grad = grad.clone()
    x = batches(dist.get_world_size())[dist.get_rank()]
    check_step(reference, step(task_losses(model, x), params, world()), params, already)


@case(2, 4)
def data_parallel_without_a_group_stays_at_home() -> None:
    model = Tasks()
    params = list(model.parameters())
    x = batches(dist.get_world_size())[dist.get_rank()]
    reference = Reference([task_losses(model, x)], params)
    assert not crosses_ranks(params, None)
    if dist.get_rank() == 0:
        # The others send nothing, so that a collective would not return.
        _, weights = step(task_losses(model, x), params)
        close(weights, reference.weights, "weights")
    dist.barrier()


@case(2, 4)
def some_ranks_miss_parameters() -> None:
    """A loss that one rank computes without a head, and one that is a constant on another."""

    def losses(model: Tasks, x: Tensor, rank: int) -> list[Tensor]:
        left, right = model(x)
        first = left.square().mean() if rank != 0 else model.trunk(x).square().mean()
        second = (right - 1).square().mean() if rank != 1 else torch.tensor(3.0, dtype=torch.float64)
        return [first, second, -(left.mean() * right.mean())]

    model = Tasks()
    params = list(model.parameters())
    parts = batches(dist.get_world_size())
    reference = Reference([losses(model, x, rank) for rank, x in enumerate(parts)], params)
    result = step(losses(model, parts[dist.get_rank()], dist.get_rank()), params, world())
    close(result[0], reference.G, "Gramian")
    for index, (param, direction) in enumerate(zip(params, reference.directions, strict=True)):
        close(full(param.grad, direction), direction, f"grad {index}")
    assert model.unused.weight.grad is None


@case(2, 4)
def small_buckets_and_mixed_dtypes() -> None:
    model, _ = replicas()
    model.left.float()
    params = list(model.parameters())

    def losses(x: Tensor) -> list[Tensor]:
        hidden = model.trunk(x)
        left, right = model.left(hidden.float()).double(), model.right(hidden)
        return [left.square().mean(), right.square().mean(), -(left.mean() * right.mean())]

    parts = batches(dist.get_world_size())
    reference = Reference([losses(x) for x in parts], params)
    _collectives.BUCKET_BYTES, before = 64, _collectives.BUCKET_BYTES
    try:
        G, _ = step(losses(parts[dist.get_rank()]), params, world())
    finally:
        _collectives.BUCKET_BYTES = before
    close(G, reference.G, "Gramian", 1e-5)
    assert model.left.weight.grad is not None and model.left.weight.grad.dtype == torch.float32
    for index, (param, direction) in enumerate(zip(params, reference.directions, strict=True)):
        close(full(param.grad, direction).double(), direction.double(), f"grad {index}", 1e-5)


@case(4)
def two_teams() -> None:
    """Two process groups of two ranks train two models side by side."""
    teams = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    team, member = divmod(dist.get_rank(), 2)
    model = Tasks()
    params = list(model.parameters())
    parts = batches(2, seed=10 + team)
    reference = Reference([task_losses(model, x) for x in parts], params)
    _, weights = step(task_losses(model, parts[member]), params, teams[team])
    close(weights, reference.weights, "weights")
    for index, (param, direction) in enumerate(zip(params, reference.directions, strict=True)):
        close(full(param.grad, direction), direction, f"grad {index}")


@case(2)
def the_ranks_need_not_agree_on_random_weights() -> None:
    model, _ = replicas()
    torch.manual_seed(dist.get_rank())
    x = batches(2)[dist.get_rank()]
    _, weights = step(task_losses(model, x), list(model.parameters()), world(), lambda G: torch.rand(len(G)))
    same_bits(weights, "weights")


def ddp_steps(**options: Any) -> None:
    """Three steps of SGD on a wrapped model, with and without no_sync."""
    for is_silent in (False, True):
        single = Tasks()
        del single.unused
        wrapped = Tasks()
        del wrapped.unused
        model = DistributedDataParallel(wrapped, **options)
        optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (single, model)]
        for turn in range(3):
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=turn % 2 == 0)
            parts = batches(dist.get_world_size(), seed=turn)
            expected = list(single.parameters())
            reference = Reference([task_losses(single, x) for x in parts], expected)
            for param, direction in zip(expected, reference.directions, strict=True):
                param.grad = direction
            with model.no_sync() if is_silent else nullcontext():
                losses = task_losses(model, parts[dist.get_rank()])
                params = list(model.parameters())
                check_step(reference, step(losses, params, world()), params)
            for optimizer in optimizers:
                optimizer.step()


@case(2, 4)
def ddp() -> None:
    ddp_steps()


@case(2)
def ddp_find_unused_parameters() -> None:
    ddp_steps(find_unused_parameters=True)


@case(2)
def ddp_gradient_as_bucket_view() -> None:
    ddp_steps(gradient_as_bucket_view=True)


@case(2)
def ddp_reduces_ordinary_backward_passes_afterwards() -> None:
    model = DistributedDataParallel(Tasks(), find_unused_parameters=True)
    params = list(model.parameters())
    x = batches(2)[dist.get_rank()]
    step(task_losses(model, x), params, world())
    model.zero_grad()
    torch.autograd.backward(torch.stack(task_losses(model, x)).sum())
    single = Tasks()
    total = torch.stack([torch.stack(task_losses(single, part)).sum() for part in batches(2)]).mean()
    torch.autograd.backward(total)
    for param, other in zip(params, single.parameters(), strict=True):
        close(full(param.grad, param), full(other.grad, other), "grad")
