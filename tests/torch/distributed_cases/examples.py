"""One loss per example, with the examples on several ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import mojd
import mojd.torch
from mojd.errors import InvalidInputError, InvalidTypeError
from tests.torch.distributed_cases.setting import Block, case, close, parallelize, same_bits, upgrad, world

# Losses per rank: no two ranks have the same number, and one has a single example.
SIZES = [4, 1, 3, 2]


class Text(nn.Module):
    """A transformer of words, which gives a class to each sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.block = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, words: Tensor) -> Tensor:
        scores: Tensor = self.head(self.block(self.words(words)).mean(dim=1))
        return scores


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def cnn() -> nn.Module:
    layers = [nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Conv2d(4, 4, 2, groups=2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16, 3))


def made(model: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return model().double()


def inputs(kind: Callable[[], nn.Module], rank: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(rank)
    if kind is Text:
        # Ranks have sequences of different lengths.
        return torch.randint(11, (size, 4 + rank), generator=generator)
    shape = (size, 2, 5, 5) if kind is cnn else (size, 5)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def losses_of(model: nn.Module, x: Tensor) -> Tensor:
    targets = torch.arange(len(x)) % 3
    return F.cross_entropy(model(x), targets, reduction="none")


def check(
    engine: mojd.torch.Engine, info: mojd.torch.StepInfo, single: nn.Module, lots: Sequence[Tensor]
) -> None:
    """Compare with an explicit Jacobian of the losses in `lots`, one after another."""
    expected = list(single.parameters())
    rows = []
    for losses in lots:
        for loss in losses.flatten():
            found = torch.autograd.grad(
                loss, expected, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            rows.append(torch.cat([part.flatten() for part in found]))
    J = torch.stack(rows)
    close(info.gramian, J @ J.T, "Gramian")
    same_bits(info.gramian, "Gramian")
    same_bits(info.weights, "weights")
    assert torch.equal(info.gramian, info.gramian.T)
    direction = J.T @ upgrad(J @ J.T)
    parts = torch.split(direction, [p.numel() for p in expected])
    for param, part in zip(engine.module.parameters(), parts, strict=True):
        assert param.grad is not None or not part.any()
        if param.grad is not None:
            close(param.grad.flatten(), part, "grad")
            same_bits(param.grad, "grad")


@case(2, 4)
def uneven_batches() -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    for kind in (mlp, cnn, Text):
        model, single = made(kind), made(kind)
        engine = mojd.torch.Engine(model, process_group=world())
        data = [inputs(kind, r, SIZES[r]) for r in range(size)]
        info = engine.backward(losses_of(model, data[rank]), mojd.upgrad)
        assert len(info) == sum(SIZES[:size])
        check(engine, info, single, [losses_of(single, x) for x in data])


@case(2, 4)
def several_micro_batches() -> None:
    """Ranks have one micro-batch more or less, of different lengths; the last rank has none at all."""
    rank, size = dist.get_rank(), dist.get_world_size()
    for kind in (mlp, Text):
        model, single = made(kind), made(kind)
        engine = mojd.torch.Engine(model, process_group=world())
        data = [[inputs(kind, r + m, 2 + m) for m in range(size - 1 - r)] for r in range(size)]
        for _ in range(2):
            model.zero_grad()
            for x in data[rank]:
                engine.add(losses_of(model, x))
            info = engine.backward(torch.zeros(0) if rank % 2 else None, mojd.upgrad)
            check(engine, info, single, [losses_of(single, x) for lot in data for x in lot])


class Experts(nn.Module):
    """Every rank uses an expert of its own, one is used by nobody, and all use the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(5, 4)
        self.experts = nn.ModuleList([nn.Linear(4, 3) for _ in range(5)])
        self.words = nn.Embedding(6, 4)

    def forward(self, x: Tensor, expert: int) -> Tensor:
        hidden = torch.tanh(self.gate(x))
        if expert == 0:
            hidden = hidden + self.words(torch.arange(2 * len(x)).view(-1, 2) % 6).sum(dim=1)
        scores: Tensor = self.experts[expert](hidden)
        return scores


@case(2, 4)
def ranks_miss_parameters() -> None:
    model, single = Experts().double(), Experts().double()
    single.load_state_dict(model.state_dict())
    engine = mojd.torch.Engine(model, process_group=world())

    def losses(module: nn.Module, rank: int) -> Tensor:
        scores = module(inputs(mlp, rank, SIZES[rank]), rank)
        # Two losses per example.
        return torch.stack([scores.square().sum(dim=1), scores.sin().sum(dim=1)], dim=1)

    info = engine.backward(losses(model, dist.get_rank()), mojd.upgrad)
    check(engine, info, single, [losses(single, rank) for rank in range(dist.get_world_size())])
    assert all(param.grad is None for param in model.experts[4].parameters())


@case(2)
def gramians_change_nothing() -> None:
    model = made(mlp)
    engine = mojd.torch.Engine(DistributedDataParallel(model), process_group=world())
    losses = losses_of(model, inputs(mlp, dist.get_rank(), SIZES[dist.get_rank()]))
    gramian = engine.gramian(losses)
    assert all(param.grad is None for param in model.parameters())
    info = engine.backward(losses)
    assert torch.equal(info.gramian, gramian)
    single = made(mlp)
    check(engine, info, single, [losses_of(single, inputs(mlp, r, SIZES[r])) for r in range(2)])


@case(2)
def precision_differs_between_ranks() -> None:
    """On one rank the losses are computed in bfloat16; gradients meet in the wider of the two."""
    torch.manual_seed(0)
    model = mlp()
    engine = mojd.torch.Engine(model, process_group=world())
    with torch.autocast("cpu", torch.bfloat16, enabled=dist.get_rank() == 1):
        losses = losses_of(model, inputs(mlp, dist.get_rank(), 3).float())
    info = engine.backward(losses)
    single = model.double()
    J = []
    for rank in range(2):
        for loss in losses_of(single, inputs(mlp, rank, 3)):
            found = torch.autograd.grad(loss, list(single.parameters()), retain_graph=True)
            J.append(torch.cat([part.flatten() for part in found]))
    G = torch.stack(J) @ torch.stack(J).T
    close(info.gramian[:3, :3].double(), G[:3, :3], "exact part", 1e-5)
    close(info.gramian.double(), G, "all of it", 0.05)
    same_bits(info.gramian, "Gramian")


@case(2, 4)
def nan_on_one_rank() -> None:
    model = made(Text)
    engine = mojd.torch.Engine(model, process_group=world())
    losses = losses_of(model, inputs(Text, dist.get_rank(), 2))
    if dist.get_rank() == 1:
        losses = losses * float("nan")
    info = engine.backward(losses)
    assert info.gramian[2:4].isnan().all() and info.weights.isnan().all()
    assert all(param.grad is not None and param.grad.isnan().any() for param in model.parameters())


# What one rank does otherwise than the others


@case(2, 4)
def what_one_rank_refuses_is_an_error_on_all() -> None:
    model = made(mlp)
    engine = mojd.torch.Engine(model, process_group=world())
    x = inputs(mlp, dist.get_rank(), 3)
    bad: list[Callable[[], Any]] = [
        lambda: losses_of(model, x).mean(),
        lambda: losses_of(model, x).detach(),
        lambda: [1.0],
    ]
    for wrong in bad:
        engine.add(losses_of(model, x))
        for call in (engine.backward, engine.gramian):
            losses = wrong() if dist.get_rank() == 1 else losses_of(model, x)
            with pytest.raises((InvalidInputError, InvalidTypeError)) as caught:
                call(losses)
            assert ("rank 1 of process_group can't go on" in str(caught.value)) == (dist.get_rank() != 1)
    # Nothing of the steps that failed is left.
    assert len(engine.backward(losses_of(model, x))) == 3 * dist.get_world_size()


@case(2)
def no_rank_has_a_loss() -> None:
    engine = mojd.torch.Engine(made(mlp), process_group=world())
    with pytest.raises(InvalidInputError, match="no rank of process_group has a loss"):
        engine.backward(torch.zeros(0))


@case(2)
def modules_that_differ_are_refused() -> None:
    rank = dist.get_rank()
    wide, frozen, ordered, narrow = made(mlp), made(mlp), made(mlp), made(mlp)
    if rank == 1:
        wide[2] = nn.Linear(7, 4, dtype=torch.float64)  # type: ignore[operator]
        frozen[0].bias.requires_grad_(False)  # type: ignore[index]
        narrow.float()
    if rank == 1:
        weight = ordered[2].weight  # type: ignore[index]
        del ordered[2].weight  # type: ignore[index]
        ordered[2].register_parameter("weight", weight)  # type: ignore[index]
    texts = [
        r"'2\.weight' is torch\.float64 of shape \((3|4), 7\) on rank 0 and",
        r"'0\.bias' is .* and missing or frozen on rank 1",
        "in different orders",
        r"torch\.float32 of shape \(7, 5\) on rank 1",
    ]
    for model, text in zip((wide, frozen, ordered, narrow), texts, strict=True):
        x = inputs(mlp, rank, 3).to(next(model.parameters()))
        engine = mojd.torch.Engine(model, process_group=world())
        with pytest.raises(InvalidInputError, match=text):
            engine.backward(losses_of(model, x))


@case(2)
def sharded_modules_are_refused() -> None:
    """Also where parameters are whole for the moment, as those of the root are after a forward pass."""
    from torch.distributed.device_mesh import init_device_mesh

    root, parts = made(mlp), made(mlp)
    fully_shard(root)
    fully_shard(parts[0])  # type: ignore[index]
    parallel = Block()
    parallelize(parallel, init_device_mesh("cpu", (2,)))
    x = inputs(mlp, dist.get_rank(), 3)
    for model, name in ((root, r"'0\.weight'"), (parts, r"'0\.weight'"), (parallel, r"'up\.weight'")):
        engine = mojd.torch.Engine(model, process_group=world())
        out = model(x)
        losses = out[1] if isinstance(out, tuple) else out.sum(dim=1)
        with pytest.raises(InvalidInputError, match=rf"{name} is sharded over ranks.*mojd\.torch\.backward"):
            engine.backward(losses)


@case(2)
def what_is_no_group_of_this_process_is_refused() -> None:
    one = dist.new_group([0])
    with pytest.raises(InvalidTypeError, match=r"must be a torch\.distributed\.ProcessGroup"):
        mojd.torch.Engine(mlp(), process_group="world")
    if dist.get_rank() == 1:
        with pytest.raises(InvalidInputError, match="not a member of process_group"):
            mojd.torch.Engine(mlp(), process_group=one)
    else:
        model = made(mlp)
        engine = mojd.torch.Engine(model, process_group=one)
        assert len(engine.backward(losses_of(model, inputs(mlp, 0, 3)))) == 3
