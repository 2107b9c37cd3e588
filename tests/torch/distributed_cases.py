"""What is run on every rank: a step across ranks against the same step in one process.

The reference shares no code with what it checks: it plays all ranks' parts in turn, on unsharded parameters,
and builds the Jacobian row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import mojd
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.torch import _collectives
from mojd.torch.distributed import Ranks, crosses_ranks, gather_rows, row_counts, sum_gradients

CASES: dict[str, tuple[int, ...]] = {}
TOLERANCE = 1e-10


def case(*world_sizes: int) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a case for these numbers of ranks."""

    def register(function: Callable[[], None]) -> Callable[[], None]:
        CASES[function.__name__] = world_sizes
        return function

    return register


def world() -> Any:
    return dist.group.WORLD


def upgrad(G: Tensor) -> Tensor:
    weights: Tensor = mojd.upgrad(G, nonfinite="propagate")
    return weights


class Tasks(nn.Module):
    """Two heads on a trunk, and a parameter that no loss uses. Few sizes divide by 2 or 4."""

    def __init__(self, is_checkpointed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.trunk = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3), nn.Tanh())
        self.left = nn.Linear(3, 2)
        self.right = nn.Linear(3, 1)
        self.unused = nn.Linear(2, 3)
        self.is_checkpointed = is_checkpointed
        self.double()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = checkpoint(self.trunk, x, use_reentrant=False) if self.is_checkpointed else self.trunk(x)
        return self.left(hidden), self.right(hidden)


def task_losses(model: Any, x: Tensor) -> list[Tensor]:
    """Three losses: of one head, of the other, and a regulariser of the trunk that pulls against both."""
    left, right = model(x)
    third = right.sin().mean() - left.mean() * right.mean()
    return [left.square().mean(), (right - 1).square().mean(), third]


def batches(parts: int, seed: int = 2) -> list[Tensor]:
    """The inputs of every rank: of different lengths, as the mean is over ranks."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3 + rank, 5, generator=generator, dtype=torch.float64) for rank in range(parts)]


class Reference:
    """A step in one process: mean losses over parts, explicit Jacobian, weights, direction."""

    def __init__(self, losses_of_parts: Iterable[Sequence[Tensor]], params: Sequence[Tensor]) -> None:
        parts = [list(losses) for losses in losses_of_parts]
        means = [torch.stack([part[k] for part in parts]).mean() for k in range(len(parts[0]))]
        self.J = torch.stack(
            [
                torch.cat(
                    [
                        g.flatten()
                        for g in torch.autograd.grad(
                            mean, params, retain_graph=True, allow_unused=True, materialize_grads=True
                        )
                    ]
                )
                for mean in means
            ]
        )
        self.G = self.J @ self.J.T
        self.weights = upgrad(self.G)
        direction = self.J.T @ self.weights
        sizes = [param.numel() for param in params]
        self.directions = [d.view_as(p) for d, p in zip(torch.split(direction, sizes), params, strict=True)]


def inner_products(rows: list[list[Tensor | None]]) -> Tensor:
    """The Gramian of what one rank has, in the plainest way."""
    total = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for column in zip(*rows, strict=True):
        for i, first in enumerate(column):
            for j, second in enumerate(column):
                if first is not None and second is not None:
                    total[i, j] += (first.double() * second.double()).sum()
    return total


def step(
    losses: Sequence[Tensor],
    params: Sequence[Tensor],
    process_group: Any = None,
    weighting: Callable[[Tensor], Tensor] = upgrad,
) -> tuple[Tensor, Tensor]:
    """Take a step across ranks up to `.grad`; return the Gramian and the weights."""
    ranks = Ranks(params, process_group)
    ranks.agree(losses)
    pending = [ranks.start_average(ranks.gradients_of(loss, retain_graph=True)) for loss in losses]
    rows = [gradients.wait() for gradients in pending]
    G = ranks.same(ranks.gramian(rows, inner_products))
    weights = ranks.same(weighting(G))
    directions: list[Tensor | None] = []
    for column in zip(*rows, strict=True):
        terms = [w * g for w, g in zip(weights.unbind(), column, strict=True) if g is not None]
        directions.append(torch.stack(terms).sum(dim=0) if terms else None)
    ranks.add_to_grads(directions)
    return G, weights


def full(tensor: Tensor | None, like: Tensor) -> Tensor:
    """A gradient as one process would have it."""
    if tensor is None:
        return torch.zeros_like(like)
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def close(found: Tensor, expected: Tensor, name: str, tolerance: float = TOLERANCE) -> None:
    error = (found - expected).abs().max().item() if expected.numel() else 0.0
    scale = expected.abs().max().item() if expected.numel() else 0.0
    assert found.shape == expected.shape, name
    assert error <= tolerance * max(scale, 1e-3), f"{name}: {error} of {scale}"


def same_bits(tensor: Tensor, name: str) -> None:
    """All ranks have the very same tensor."""
    found = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(found, tensor.contiguous())
    assert all(torch.equal(other, tensor) for other in found), name


def check_step(
    reference: Reference,
    result: tuple[Tensor, Tensor],
    params: Sequence[Tensor],
    already: Sequence[Tensor] | None = None,
) -> None:
    """Compare the Gramian, the weights and `.grad`, less what was in it already."""
    G, weights = result
    assert (reference.G < 0).any(), "the reference has no conflict"
    close(G, reference.G, "Gramian")
    close(weights, reference.weights, "weights")
    same_bits(G, "Gramian")
    same_bits(weights, "weights")
    for index, (param, direction) in enumerate(zip(params, reference.directions, strict=True)):
        assert param.grad is None or type(param.grad) is type(param.data)
        expected = direction if already is None else direction + already[index]
        close(full(param.grad, expected), expected, f"grad {index}")


# Data parallel


def replicas() -> tuple[Tasks, Reference]:
    model = Tasks()
    parts = batches(dist.get_world_size())
    return model, Reference([task_losses(model, x) for x in parts], list(model.parameters()))


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


# DistributedDataParallel


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


# FSDP2


def shard_whole(model: nn.Module, **options: Any) -> None:
    fully_shard(model, **options)


def shard_parts(model: Tasks, **options: Any) -> None:
    for part in (model.trunk[0], model.trunk[2], model.left, model.right):
        assert isinstance(part, nn.Module)
        fully_shard(part, **options)
    fully_shard(model, **options)


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


# Tensor parallel and DTensors


class Block(nn.Module):
    """A tensor-parallel block between plain layers, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.norm = nn.LayerNorm(5)
        self.up = nn.Linear(5, 8)
        self.down = nn.Linear(8, 3)
        self.head = nn.Linear(3, 2)
        self.double()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.head(self.down(torch.tanh(self.up(self.norm(x)))))
        return out.sin(), out.sum(dim=1)


def parallelize(model: Block, mesh: Any) -> None:
    parallelize_module(model, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})


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


# NaN


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


# Ranks that do not agree, and groups that can't be used


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


# Rows and sums


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
