"""Models, a reference that shares no code with what it checks, and comparisons.

The reference plays all ranks' parts in turn, on unsharded parameters, and builds the Jacobian row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.checkpoint import checkpoint

import mojd
from mojd.torch.distributed import Ranks

# Numbers of ranks by the name of the case: that of its module here, a dot, and that of the function.
CASES: dict[str, tuple[int, ...]] = {}
TOLERANCE = 1e-10


def case(*world_sizes: int) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Register a case for these numbers of ranks."""

    def register(function: Callable[[], None]) -> Callable[[], None]:
        module = function.__module__.rpartition(".")[2]
        CASES[f"{module}.{function.__name__}"] = world_sizes
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


def replicas() -> tuple[Tasks, Reference]:
    model = Tasks()
    parts = batches(dist.get_world_size())
    return model, Reference([task_losses(model, x) for x in parts], list(model.parameters()))


def shard_whole(model: nn.Module, **options: Any) -> None:
    fully_shard(model, **options)


def shard_parts(model: Tasks, **options: Any) -> None:
    for part in (model.trunk[0], model.trunk[2], model.left, model.right):
        assert isinstance(part, nn.Module)
        fully_shard(part, **options)
    fully_shard(model, **options)


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
