"""FSDP2: parameters in shards that are gathered for each pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mojd.errors import InvalidInputError
from mojd.torch.distributed import Ranks
from tests.torch.distributed_cases.setting import (
    Reference,
    Tasks,
    batches,
    case,
    check_step,
    close,
    full,
    shard_parts,
    shard_whole,
    step,
    task_losses,
    world,
)


def fsdp_steps(
    shard: Callable[..., None],
    is_checkpointed: bool = False,
    asked_after_forward: bool = False,
    finish: Callable[[Tasks], None] = lambda _: None,
    **options: Any,
) -> None:
    """Three steps of SGD, on top of what is in `.grad` already."""
    single, model = Tasks(), Tasks(is_checkpointed)
    shard(model, **options)
    before = list(model.parameters())
    optimizers = [torch.optim.SGD(single.parameters(), lr=0.1), torch.optim.SGD(before, lr=0.1)]
    for turn in range(3):
        parts = batches(dist.get_world_size(), seed=turn)
        reference = Reference([task_losses(single, x) for x in parts], list(single.parameters()))
        already = [torch.full_like(p, 0.1 * turn) for p in single.parameters()]
        for param, grad in zip(before, already, strict=True):
            assert isinstance(param, DTensor)
            param.grad = distribute_tensor(grad, param.device_mesh, param.placements) if turn else None
        losses = task_losses(model, parts[dist.get_rank()])
        params = list(model.parameters()) if asked_after_forward else before
        result = step(losses, params)
        finish(model)
        check_step(reference, result, before, already)
        for other, direction, grad in zip(single.parameters(), reference.directions, already, strict=True):
            other.grad = direction + grad
        for optimizer in optimizers:
            optimizer.step()
        for param, other in zip(before, single.parameters(), strict=True):
            close(full(param.detach(), other), other.detach(), "parameter")


@case(2, 4)
def fsdp_gathered_again() -> None:
    fsdp_steps(shard_parts, reshard_after_forward=True)


@case(2, 4)
def fsdp_kept_after_forward() -> None:
    fsdp_steps(shard_parts, reshard_after_forward=False)


@case(2)
def fsdp_of_the_whole() -> None:
    fsdp_steps(shard_whole)


@case(2, 4)
def fsdp_parameters_asked_for_after_the_forward_pass() -> None:
    """By then, model.parameters() lists what FSDP2 has gathered, not what the optimiser has."""
    fsdp_steps(shard_parts, asked_after_forward=True, reshard_after_forward=False)
    fsdp_steps(shard_parts, asked_after_forward=True)


@case(4)
def fsdp_resharded_to_a_smaller_world() -> None:
    fsdp_steps(shard_whole, asked_after_forward=True, reshard_after_forward=2)


@case(2)
def fsdp_with_checkpoints() -> None:
    fsdp_steps(shard_parts, is_checkpointed=True)


@case(2)
def fsdp_offloaded() -> None:
    fsdp_steps(shard_parts, offload_policy=CPUOffloadPolicy(pin_memory=False))


@case(2)
def fsdp_with_unused_parameters_reduced() -> None:
    def shard(model: Tasks) -> None:
        shard_parts(model)
        model.set_reduce_scatter_unused_params(True)  # type: ignore[operator]

    fsdp_steps(shard)


@case(2)
def fsdp_that_keeps_gathered_parameters_between_losses() -> None:
    def shard(model: Tasks) -> None:
        shard_parts(model)
        model.set_reshard_after_backward(False)  # type: ignore[operator]

    def free(model: Tasks) -> None:
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    fsdp_steps(shard, finish=free)


@case(4)
def hsdp() -> None:
    """Replicas of a sharded model: every element is on two ranks and counted once."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    fsdp_steps(shard_parts, mesh=mesh)


@case(2)
def fsdp_in_lower_precision() -> None:
    """Computed in bfloat16, reduced and kept in float32: what is measured is what is written."""
    model = Tasks().float()
    shard_parts(model, mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32))
    params = list(model.parameters())
    losses = task_losses(model, batches(2)[dist.get_rank()].float())
    rows = []
    for loss in losses:
        torch.autograd.backward(loss, retain_graph=True)
        rows.append(torch.cat([full(p.grad, torch.empty(p.shape)).flatten() for p in params]))
        model.zero_grad()
    J = torch.stack(rows).double()
    G, weights = step(losses, params)
    close(G, J @ J.T, "Gramian", 1e-6)
    written = torch.cat([full(p.grad, torch.empty(p.shape)).flatten() for p in params])
    close(written.double(), J.T @ weights, "grad", 1e-6)


@case(2, 4)
def fsdp_of_some_parameters_leaves_the_others_alone() -> None:
    """Steps on the trunk; the heads, sharded too, and the inputs keep their `.grad`."""
    single, model = Tasks(), Tasks()
    shard_parts(model)
    params = list(model.trunk.parameters())
    parts = batches(dist.get_world_size())
    reference = Reference([task_losses(single, x) for x in parts], list(single.trunk.parameters()))
    for param in model.right.parameters():
        assert isinstance(param, DTensor)
        param.grad = distribute_tensor(torch.ones(param.shape).double(), param.device_mesh, param.placements)
    x = parts[dist.get_rank()].requires_grad_()
    check_step(reference, step(task_losses(model, x), params), params)
    assert all(param.grad is None for param in model.left.parameters())
    assert all(bool((full(p.grad, p) == 1).all()) for p in model.right.parameters())
    assert x.grad is None


@case(2, 4)
def fsdp_beside_replicas() -> None:
    """The trunk is sharded, the heads are replicated and averaged over the process group."""
    single, model = Tasks(), Tasks()
    fully_shard(model.trunk)
    params = list(model.parameters())
    parts = batches(dist.get_world_size())
    reference = Reference([task_losses(single, x) for x in parts], list(single.parameters()))
    check_step(reference, step(task_losses(model, parts[dist.get_rank()]), params, world()), params)


@case(2, 4)
def fsdp_ordinary_training_goes_on() -> None:
    """After a step of mojd, loss.backward() does what it always did."""
    single, model = Tasks(), Tasks()
    shard_parts(model)
    parts = batches(dist.get_world_size())
    step(task_losses(model, parts[dist.get_rank()]), list(model.parameters()))
    model.zero_grad()
    torch.autograd.backward(torch.stack(task_losses(model, parts[dist.get_rank()])).sum())
    torch.autograd.backward(torch.stack([torch.stack(task_losses(single, x)).sum() for x in parts]).mean())
    for param, other in zip(model.parameters(), single.parameters(), strict=True):
        close(full(param.grad, other), full(other.grad, other), "grad")


@case(2)
def fsdp_restores_grads_after_an_error() -> None:
    model = Tasks()
    shard_parts(model)
    params = list(model.parameters())
    for param in params:
        assert isinstance(param, DTensor)
        param.grad = distribute_tensor(torch.ones(param.shape).double(), param.device_mesh, param.placements)

    def fail(grad: Tensor) -> None:
        raise ArithmeticError("in the backward pass")

    left, right = model(batches(2)[dist.get_rank()])
    left.register_hook(fail)
    with pytest.raises(ArithmeticError):
        step([left.sum(), right.sum()], params)
    assert all(bool((full(p.grad, p) == 1).all()) for p in params)


@case(2)
def fsdp_that_does_not_reduce_is_refused() -> None:
    model = Tasks()
    shard_parts(model)
    losses = task_losses(model, batches(2)[dist.get_rank()])
    params = list(model.parameters())
    model.set_requires_gradient_sync(False)  # type: ignore[operator]
    with pytest.raises(InvalidInputError, match=r"params\[0\].*set_requires_gradient_sync"):
        Ranks(params)
    model.set_requires_gradient_sync(True)  # type: ignore[operator]
    model.set_is_last_backward(False)  # type: ignore[operator]
    with pytest.raises(InvalidInputError, match=r"params\[0\].*set_is_last_backward"):
        Ranks(params)
    model.set_is_last_backward(True)  # type: ignore[operator]
    handle = params[2].register_post_accumulate_grad_hook(lambda _: None)  # type: ignore[no-untyped-call]
    with pytest.raises(InvalidInputError, match=r"params\[2\] has a hook"):
        Ranks(params)
    handle.remove()
    step(losses, params)
