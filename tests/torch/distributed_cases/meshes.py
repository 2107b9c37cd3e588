"""Tensor parallel, and parameters that are DTensors on any mesh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from mojd.torch.distributed import Ranks
from tests.torch.distributed_cases.setting import (
    Block,
    Reference,
    Tasks,
    batches,
    case,
    check_step,
    close,
    full,
    parallelize,
    shard_parts,
    step,
    task_losses,
    world,
)


@case(2, 4)
def tensor_parallel() -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    single, model = Block(), Block()
    parallelize(model, mesh)
    (x,) = batches(1)
    reference = Reference([task_losses(single, x)], list(single.parameters()))
    params = list(model.parameters())
    check_step(reference, step(task_losses(model, x), params), params)


@case(4)
def tensor_parallel_replicas() -> None:
    """Each tensor-parallel pair has a part of the batch; the process group joins equal shards."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    single, model = Block(), Block()
    parallelize(model, mesh["tp"])
    parts = batches(2)
    reference = Reference([task_losses(single, x) for x in parts], list(single.parameters()))
    params = list(model.parameters())
    losses = task_losses(model, parts[mesh.get_local_rank("dp")])
    check_step(reference, step(losses, params, mesh.get_group("dp")), params)


@case(4)
def fsdp_of_tensor_parallel() -> None:
    """Strided shards on two dimensions, shards of one, and replicas of the other."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    for is_nested in (False, True):
        single, model = Block(), Block()
        parallelize(model, mesh["tp"])
        if is_nested:
            fully_shard(model.norm, mesh=mesh["dp"])
        fully_shard(model, mesh=mesh["dp"])
        parts = batches(2)
        reference = Reference([task_losses(single, x) for x in parts], list(single.parameters()))
        params = list(model.parameters())
        losses = task_losses(model, parts[mesh.get_local_rank("dp")])
        check_step(reference, step(losses, params), params)


def dtensor_losses(x: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
    first, second, third = weights
    hidden = torch.tanh(x @ first)
    out = torch.sin(hidden @ second) + third
    return [out.square().mean(), -out.mean() - out.square().mean(), (hidden - 0.5).square().mean()]


def dtensors_on(mesh: Any, placements: Sequence[Sequence[Any]], of_inputs: Sequence[Any]) -> None:
    """Uneven shards of parameters and inputs, against the same computation on whole tensors."""
    generator = torch.Generator().manual_seed(5)
    shapes = ((5, 7), (7, 3), (3,))
    whole = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    pairs = zip(whole, placements, strict=True)
    params = [nn.Parameter(distribute_tensor(tensor, mesh, own)) for tensor, own in pairs]
    for tensor in whole:
        tensor.requires_grad_()
    x = torch.randn(8, 5, generator=generator, dtype=torch.float64)
    already: list[Tensor] | None = None
    for _ in range(2):
        reference = Reference([dtensor_losses(x, whole)], whole)
        losses = dtensor_losses(distribute_tensor(x, mesh, of_inputs), params)
        check_step(reference, step(losses, params), params, already)
        already = reference.directions


@case(2, 4)
def dtensors_in_one_dimension() -> None:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for inputs in (Shard(0), Replicate()):
        dtensors_on(mesh, [[Shard(0)], [Shard(1)], [Shard(0)]], [inputs])
        dtensors_on(mesh, [[Replicate()], [Shard(0)], [Replicate()]], [inputs])
        dtensors_on(mesh, [[Replicate()], [Replicate()], [Replicate()]], [inputs])


@case(4)
def dtensors_in_two_dimensions() -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("a", "b"))
    dtensors_on(
        mesh,
        [[Shard(0), Shard(1)], [Replicate(), Shard(0)], [Replicate(), Replicate()]],
        [Shard(0), Replicate()],
    )
    dtensors_on(
        mesh,
        [[Shard(1), Replicate()], [Shard(0), Shard(0)], [Shard(0), Replicate()]],
        [Replicate(), Replicate()],
    )


@case(2)
def partial_grads_from_backward_are_added_to() -> None:
    """What loss.backward() leaves in the `.grad` of a replicated DTensor is an addend per rank."""
    mesh = init_device_mesh("cpu", (2,))
    whole = torch.arange(15.0, dtype=torch.float64).view(5, 3).div(10).requires_grad_()
    param = nn.Parameter(distribute_tensor(whole.detach(), mesh, [Replicate()]))
    x = torch.cat(batches(2))[:6]

    def losses(inputs: Tensor, weight: Tensor) -> list[Tensor]:
        out = torch.sin(inputs @ weight)
        return [out.square().mean(), -out.mean()]

    inputs = distribute_tensor(x, mesh, [Shard(0)])
    torch.autograd.backward(losses(inputs, param)[0])
    assert isinstance(param.grad, DTensor) and param.grad.placements[0].is_partial()
    (already,) = torch.autograd.grad(losses(x, whole)[0], whole)
    reference = Reference([losses(x, whole)], [whole])
    step(losses(inputs, param), [param])
    close(full(param.grad, whole), reference.directions[0] + already, "grad")


@case(2)
def an_optimizer_takes_what_was_written() -> None:
    """Adam's state is made from `.grad`; uneven shards, so that a wrong global shape would show."""
    mesh = init_device_mesh("cpu", (2,))
    whole = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3).requires_grad_()
    param = nn.Parameter(distribute_tensor(whole.detach(), mesh, [Shard(0)]))
    for tensor, across in ((whole, False), (param, True)):
        optimizer = torch.optim.Adam([tensor], lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            losses = [tensor.square().sum(), -tensor.sum()]
            if across:
                step(losses, [tensor])
            else:
                tensor.grad = Reference([losses], [tensor]).directions[0]
            optimizer.step()
    close(full(param.detach(), whole), whole.detach(), "parameter")


@case(2)
def seeds_scale_gradients() -> None:
    plain, sharded = Tasks(), Tasks()
    shard_parts(sharded)
    seed = torch.tensor(8.0, dtype=torch.float64)
    for model, group in ((plain, world()), (sharded, None)):
        ranks = Ranks(list(model.parameters()), group)
        loss = task_losses(model, batches(2)[dist.get_rank()])[0]
        once = ranks.gradients_of(loss, retain_graph=True)
        scaled = ranks.gradients_of(loss, retain_graph=False, seed=seed)
        assert once[0] is not None
        for first, second in zip(once, scaled, strict=True):
            assert (first is None) == (second is None)
            assert first is None or second is None or torch.equal(8 * first, second)
