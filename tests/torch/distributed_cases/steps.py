"""Whole steps through the public names: backward, front ends, micro-batches, loss scaling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import mojd
import mojd.torch
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.torch import distributed
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
    same_bits,
    shard_parts,
    task_losses,
    world,
)


class Setup:
    """A model across ranks, the same model in one process, and who has which part of the batch."""

    def __init__(self, kind: str) -> None:
        rank, size = dist.get_rank(), dist.get_world_size()
        self.kind = kind
        self.single: nn.Module = Block() if kind == "tensor parallel" else Tasks()
        self.group = world() if kind == "replicas" else None
        self.part, self.parts = rank, size
        if kind == "tensor parallel":
            model = Block()
            parallelize(model, init_device_mesh("cpu", (size,)))
            self.model: nn.Module = model
            self.part, self.parts = 0, 1
        else:
            tasks = Tasks()
            if kind == "fsdp":
                shard_parts(tasks)
            self.model = tasks
        self.params = list(self.model.parameters())
        self.expected = list(self.single.parameters())

    def losses(self, seed: int = 2) -> list[Tensor]:
        return task_losses(self.model, batches(self.parts, seed)[self.part])

    def losses_of_parts(self, seed: int = 2) -> list[list[Tensor]]:
        return [task_losses(self.single, x) for x in batches(self.parts, seed)]

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """One for DTensors and one for others: a GradScaler unscales no list that has both."""
        kinds = [[p for p in self.params if isinstance(p, DTensor) is kind] for kind in (True, False)]
        return [torch.optim.SGD(params, lr=0.1) for params in kinds if params]

    def reference(self, *seeds: int) -> Reference:
        """The reference for the sums of losses of micro-batches."""
        found = [self.losses_of_parts(seed) for seed in seeds]
        sums = [
            [torch.stack(same).sum() for same in zip(*micro, strict=True)]
            for micro in zip(*found, strict=True)
        ]
        return Reference(sums, self.expected)


def setups() -> Iterator[Setup]:
    for kind in ("replicas", "fsdp", "tensor parallel"):
        yield Setup(kind)


@case(2, 4)
def backward() -> None:
    for setup in setups():
        info = mojd.torch.backward(setup.losses(), setup.params, mojd.upgrad, process_group=setup.group)
        check_step(setup.reference(2), (info.gramian, info.weights), setup.params)
        if setup.kind != "tensor parallel":
            assert all(p.grad is None for p in setup.params[-2:]), "no rank's loss depends on it"
        before = [full(p.grad, e).clone() for p, e in zip(setup.params, setup.expected, strict=True)]
        objects = [p.grad for p in setup.params]
        info = mojd.torch.backward(setup.losses(3), setup.params, mojd.upgrad, process_group=setup.group)
        check_step(setup.reference(3), (info.gramian, info.weights), setup.params, before)
        assert all(p.grad is grad for p, grad in zip(setup.params, objects, strict=True))


@case(4)
def backward_on_two_dimensions() -> None:
    """Tensor-parallel pairs, each with a part of the batch."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    single, model = Block(), Block()
    parallelize(model, mesh["tp"])
    parts = batches(2)
    reference = Reference([task_losses(single, x) for x in parts], list(single.parameters()))
    params = list(model.parameters())
    losses = task_losses(model, parts[mesh.get_local_rank("dp")])
    info = mojd.torch.backward(losses, params, "upgrad", process_group=mesh.get_group("dp"))
    check_step(reference, (info.gramian, info.weights), params)


@case(2, 4)
def steps_of_pcd() -> None:
    """Three steps of SGD with momentum; the average of norms goes along, with the same bits everywhere."""
    for setup in setups():
        across = mojd.torch.PCD(setup.params, tau=[0.3, 0.1], beta=0.9, process_group=setup.group)
        alone = mojd.torch.PCD(setup.expected, tau=[0.3, 0.1], beta=0.9)
        optimizers = [torch.optim.SGD(p, lr=0.1, momentum=0.9) for p in (setup.params, setup.expected)]
        for turn in range(3):
            for optimizer in optimizers:
                optimizer.zero_grad()
            info = across.backward(setup.losses(turn))
            means = [torch.stack(same).mean() for same in zip(*setup.losses_of_parts(turn), strict=True)]
            expected = alone.backward(means)
            close(info.gramian, expected.gramian, "Gramian")
            close(info.weights, expected.weights, "weights")
            assert info.active == expected.active and info.feasible == expected.feasible
            for optimizer in optimizers:
                optimizer.step()
            for param, other in zip(setup.params, setup.expected, strict=True):
                close(full(param.detach(), other), other.detach(), "parameter")
        state = across.state_dict()
        same_bits(state["mean_square"], "state")
        close(state["mean_square"], alone.state_dict()["mean_square"], "state")
        assert int(state["steps"]) == 3


@case(2, 4)
def micro_batches_are_averaged_once() -> None:
    for setup in setups():
        upgrad = mojd.torch.UPGrad(setup.params, process_group=setup.group)
        with mock.patch.object(
            distributed, "PendingGradients", wraps=distributed.PendingGradients
        ) as started:
            upgrad.accumulate(setup.losses(2))
            upgrad.accumulate(setup.losses(5))
            assert not started.called
            info = upgrad.backward(setup.losses(7))
        assert started.call_count == 3, "once per loss"
        check_step(setup.reference(2, 5, 7), (info.gramian, info.weights), setup.params)


@case(2)
def steps_without_further_losses() -> None:
    for setup in setups():
        upgrad = mojd.torch.UPGrad(setup.params, process_group=setup.group)
        upgrad.accumulate(setup.losses(2))
        info = upgrad.backward()
        check_step(setup.reference(2), (info.gramian, info.weights), setup.params)


@case(2)
def losses_on_one_rank_only_in_the_last_call() -> None:
    """An error on both, and no rank that waits for the other."""
    setup = Setup("replicas")
    upgrad = mojd.torch.UPGrad(setup.params, process_group=setup.group)
    upgrad.accumulate(setup.losses(2))
    with pytest.raises(InvalidInputError):
        upgrad.backward(setup.losses(5) if dist.get_rank() else None)
    assert all(param.grad is None for param in setup.params)


@case(2)
def gramians_between_micro_batches() -> None:
    """What was averaged is averaged again with what comes later, and stays what it was."""
    setup = Setup("replicas")
    held = mojd.torch.LossGradients(setup.params, world())
    held.add(setup.losses(2))
    close(held.gramian(), setup.reference(2).G, "Gramian")
    same_bits(held.gramian(), "Gramian")
    held.add(setup.losses(5))
    reference = setup.reference(2, 5)
    held.write(reference.weights)
    for param, direction in zip(setup.params, reference.directions, strict=True):
        close(full(param.grad, direction), direction, "grad")


@case(2, 4)
def the_loss_scale_is_taken_out() -> None:
    for setup in setups():
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        reference = setup.reference(2, 5)
        upgrad = mojd.torch.UPGrad(setup.params, process_group=setup.group)
        upgrad.accumulate(setup.losses(2), scaler=scaler)
        info = upgrad.backward(setup.losses(5), scaler=scaler)
        reference.directions = [1024 * d for d in reference.directions]
        check_step(reference, (info.gramian, info.weights), setup.params)
        for optimizer in setup.optimizers():
            scaler.step(optimizer)
        scaler.update()
        for param, other, scaled in zip(setup.params, setup.expected, reference.directions, strict=True):
            close(full(param.detach(), other), other.detach() - 0.1 * scaled / 1024, "parameter")


@case(2, 4)
def every_scaler_skips_a_step_with_nan_on_one_rank() -> None:
    for setup in setups():
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        pcd = mojd.torch.PCD(setup.params, process_group=setup.group)
        losses = setup.losses()
        if dist.get_rank() == 1 or setup.kind == "tensor parallel":
            losses[1] = losses[1] * float("nan")
        info = pcd.backward(losses, scaler=scaler)
        assert info.weights.isnan().all()
        for optimizer in setup.optimizers():
            scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == 512.0
        assert pcd.state_dict()["steps"] == 0
        for param, other in zip(setup.params, setup.expected, strict=True):
            assert torch.equal(full(param.detach(), other), other.detach())


@case(2)
def scaled_losses_that_are_dtensors() -> None:
    mesh = init_device_mesh("cpu", (2,))
    whole = torch.linspace(-1, 1, 15, dtype=torch.float64).view(5, 3).requires_grad_()
    for placement in (Shard(0), Replicate()):
        param = nn.Parameter(distribute_tensor(whole.detach(), mesh, [placement]))
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        reference = Reference([[whole.square().mean(), -whole.sum()]], [whole])
        reference.directions = [8 * d for d in reference.directions]
        info = mojd.torch.backward([param.square().mean(), -param.sum()], [param], scaler=scaler)
        check_step(reference, (info.gramian, info.weights), [param])


@case(2, 4)
def gradients_of_your_own() -> None:
    for setup in (Setup("replicas"), Setup("tensor parallel")):
        losses = setup.losses()
        rows = [
            torch.autograd.grad(loss, setup.params, retain_graph=True, allow_unused=True) for loss in losses
        ]
        method = mojd.torch.GradientMethod(setup.params, mojd.upgrad, process_group=setup.group)
        info = method.apply_gradients(rows)
        check_step(setup.reference(2), (info.gramian, info.weights), setup.params)


@case(2)
def random_weights_are_those_of_the_first_rank() -> None:
    setup = Setup("replicas")
    torch.manual_seed(dist.get_rank())

    def drawn(gramian: Tensor) -> Tensor:
        return torch.rand(len(gramian), dtype=gramian.dtype)

    info = mojd.torch.backward(setup.losses(), setup.params, drawn, process_group=world())
    same_bits(info.weights, "weights")
    assert setup.params[0].grad is not None
    same_bits(setup.params[0].grad, "grad")


# What one rank does otherwise than the others


def changed(losses: Sequence[Tensor], change: Callable[[Tensor], Tensor], on: int = 1) -> list[Tensor]:
    return [change(loss) for loss in losses] if dist.get_rank() == on else list(losses)


@case(2, 4)
def losses_that_are_constants_on_one_rank_count_as_zero() -> None:
    """Such a rank has no graph at all, or one of other parameters; alone, it would be refused."""
    setup = Setup("replicas")
    other = torch.zeros((), dtype=torch.float64, requires_grad=True)
    changes: list[Callable[[Tensor], Tensor]] = [Tensor.detach, lambda loss: loss.detach() + other]
    for change in changes:
        for param in setup.params:
            param.grad = None
        parts = setup.losses_of_parts()
        parts[1] = [loss.detach() for loss in parts[1]]
        reference = Reference(parts, setup.expected)
        losses = changed(setup.losses(), change)
        info = mojd.torch.backward(losses, setup.params, process_group=world())
        check_step(reference, (info.gramian, info.weights), setup.params)


@case(2)
def losses_of_no_rank_depend_on_the_parameters() -> None:
    setup = Setup("replicas")
    stranger = torch.zeros(2, requires_grad=True)
    for losses in ([stranger.sum()], [torch.tensor(1.0)]):
        for is_last in (True, False):
            held = mojd.torch.LossGradients(setup.params, world())
            if not is_last:
                held.add(losses)
            message = "no loss of any rank depends on any of the 10 params"
            with pytest.raises(InvalidInputError, match=message):
                held.add(losses, is_last=True) if is_last else held.gramian()


@case(2, 4)
def what_one_rank_refuses_is_an_error_on_all() -> None:
    for setup in setups():
        losses: list[object] = [*setup.losses()]
        if dist.get_rank() == 1:
            losses[1] = 3.0
        with pytest.raises((InvalidTypeError, InvalidInputError)) as caught:
            mojd.torch.backward(losses, setup.params, process_group=setup.group)  # type: ignore[arg-type]
        expected = r"losses[1] is a float" if dist.get_rank() == 1 else "another rank has refused"
        assert expected in str(caught.value)
        assert all(param.grad is None for param in setup.params)


@case(2)
def gradients_of_your_own_that_do_not_fit() -> None:
    setup = Setup("tensor parallel")
    loss = setup.losses()[0]
    row = list(torch.autograd.grad(loss, setup.params, allow_unused=True))
    index = next(i for i, part in enumerate(row) if isinstance(part, DTensor))
    method = mojd.torch.UPGrad(setup.params)
    missing: list[Tensor | None] = [*row]
    missing[index] = None if dist.get_rank() else row[index]
    with pytest.raises(InvalidInputError, match="None on one rank and a tensor on another"):
        method.apply_gradients([missing])
    whole: list[Tensor | None] = [*row]
    whole[index] = torch.zeros(setup.params[index].shape, dtype=torch.float64)
    with pytest.raises(InvalidTypeError, match=rf"gradients\[0\]\[{index}\] is a Tensor.*DTensor"):
        method.apply_gradients([whole])
