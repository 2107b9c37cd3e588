"""NaN on one rank, ranks that do not agree, and groups that can not be used."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.torch.distributed import Ranks
from tests.torch.distributed_cases.setting import (
    Tasks,
    batches,
    case,
    shard_parts,
    step,
    task_losses,
    world,
)


@case(2, 4)
def nan_on_one_rank_is_nan_on_all() -> None:
    model = Tasks()
    x = batches(dist.get_world_size())[dist.get_rank()]
    losses = task_losses(model, x)
    if dist.get_rank() == 1:
        losses[1] = losses[1] * float("nan")
    params = list(model.parameters())[:-2]
    G, weights = step(losses, params, world())
    assert G[1].isnan().all() and weights.isnan().all()
    assert all(param.grad is not None and param.grad.isnan().all() for param in params)


@case(2, 4)
def nan_in_one_shard_is_nan_on_all() -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    whole = torch.ones(8, dtype=torch.float64)
    factor = torch.ones(8, dtype=torch.float64)
    factor[7] = float("nan")
    param = nn.Parameter(distribute_tensor(whole, mesh, [Shard(0)]))
    losses = [(param * distribute_tensor(factor, mesh, [Shard(0)])).sum(), -param.square().sum()]
    _, weights = step(losses, [param])
    assert weights.isnan().all()
    assert isinstance(param.grad, DTensor) and param.grad.to_local().isnan().all()


@case(2)
def nan_with_fsdp() -> None:
    model = Tasks()
    shard_parts(model)
    losses = task_losses(model, batches(2)[dist.get_rank()] * (float("nan") if dist.get_rank() == 1 else 1.0))
    _, weights = step(losses, list(model.parameters()))
    assert weights.isnan().all()


@case(2, 4)
def different_numbers_of_losses_are_refused() -> None:
    model = Tasks()
    shards = Tasks()
    shard_parts(shards)
    for candidate, group in ((model, world()), (shards, None)):
        losses = task_losses(candidate, batches(4)[dist.get_rank()])
        mine = losses if dist.get_rank() else losses[:2]
        with pytest.raises(
            InvalidInputError, match=f"number of losses is {len(mine)} here, 2 on some rank and 3"
        ):
            step(mine, list(candidate.parameters()), group)


@case(4)
def a_mismatch_in_one_corner_of_a_mesh_reaches_all() -> None:
    """Ranks that share no group with the odd one raise as well, instead of waiting for those that do."""
    mesh = init_device_mesh("cpu", (2, 2))
    param = nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, [Shard(0), Shard(1)]))
    losses = [param.sum(), param.square().sum()]
    with pytest.raises(InvalidInputError, match="number of losses"):
        step(losses[: 1 if dist.get_rank() == 3 else 2], [param])
    if dist.get_rank() == 3:
        losses[1] = losses[1].detach()
    with pytest.raises(InvalidInputError, match="a constant on another"):
        step(losses, [param])


@case(4)
def a_mismatch_in_one_replica_reaches_the_others() -> None:
    """A constant is a mismatch among the ranks of a mesh and none among replicas; all of them raise."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    param = nn.Parameter(distribute_tensor(torch.ones(4), mesh["tp"], [Shard(0)]))
    losses = [param.sum(), param.square().sum()]
    if dist.get_rank() == 3:
        losses[1] = losses[1].detach()
    with pytest.raises(InvalidInputError, match="a constant on another"):
        step(losses, [param], mesh.get_group("dp"))
    losses[1] = losses[1].detach() if mesh.get_local_rank("dp") else losses[1]
    G, _ = step(losses, [param], mesh.get_group("dp"))
    assert G[1, 1] > 0, "the other replica's gradient, halved"


@case(2)
def different_parameters_are_refused() -> None:
    model = Tasks()
    losses = task_losses(model, batches(2)[dist.get_rank()])
    params = list(model.parameters())
    with pytest.raises(InvalidInputError, match="number of parameters is"):
        step(losses, params[dist.get_rank() :], world())
    with pytest.raises(InvalidInputError, match="number of elements of all parameters together is"):
        step(losses, params[:3] if dist.get_rank() else params[1:4], world())


@case(2)
def a_constant_loss_on_one_rank_is_refused_with_fsdp() -> None:
    model = Tasks()
    shard_parts(model)
    losses = task_losses(model, batches(2)[dist.get_rank()])
    if dist.get_rank():
        losses[2] = losses[2].detach()
    with pytest.raises(InvalidInputError, match=r"0\.0 \* output\.sum\(\)"):
        step(losses, list(model.parameters()))


@case(2)
def a_constant_loss_on_all_ranks_is_a_zero_row() -> None:
    model = Tasks()
    shard_parts(model)
    losses = task_losses(model, batches(2)[dist.get_rank()])
    G, _ = step([losses[0], losses[1].detach()], list(model.parameters()))
    assert not G[1].any() and G[0, 0] > 0


@case(4)
def a_group_that_contradicts_a_mesh_is_refused() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    param = nn.Parameter(distribute_tensor(torch.ones(4), mesh["tp"], [Shard(0)]))
    with pytest.raises(InvalidInputError, match=r"params\[1\] is a DTensor on the ranks .*get_group\('dp'\)"):
        Ranks([nn.Parameter(torch.ones(2)), param], world())
    Ranks([param], mesh.get_group("dp"))
    Ranks([param], mesh.get_group("tp"))


@case(2)
def partial_parameters_are_refused() -> None:
    mesh = init_device_mesh("cpu", (2,))
    param = nn.Parameter(DTensor.from_local(torch.ones(2), mesh, [Partial()]))
    with pytest.raises(InvalidInputError, match=r"params\[0\] of shape \(2,\).*redistribute"):
        Ranks([param])


@case(2)
def what_is_no_group_of_this_process_is_refused() -> None:
    params = [nn.Parameter(torch.ones(2))]
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("dp",))
    with pytest.raises(InvalidTypeError, match=r"DeviceMesh with the dimensions \('dp',\).*get_group"):
        Ranks(params, mesh)
    one = dist.new_group([0])
    if dist.get_rank() == 1:
        with pytest.raises(InvalidInputError, match="not a member of process_group"):
            Ranks(params, one)
    else:
        step([params[0].sum()], params, one)


@case(2)
def a_device_that_the_group_cannot_reach_is_refused() -> None:
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3, device="meta"))]
    with pytest.raises(InvalidInputError, match=r"parameter 1 of shape \(3,\) is on meta.*backends for"):
        Ranks(params, world())


@case(2)
def sparse_gradients_are_refused() -> None:
    embedding = nn.Embedding(4, 2, sparse=True)
    losses = [embedding(torch.tensor([1])).sum(), embedding(torch.tensor([2])).sum()]
    with pytest.raises(InvalidTypeError, match=r"gradient of parameter 0 of shape \(4, 2\).*sparse=False"):
        step(losses, [embedding.weight], world())
