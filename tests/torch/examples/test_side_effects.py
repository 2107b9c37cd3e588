"""The engine leaves the module, the graph, the inputs and the random numbers as they were."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mojd
import mojd.torch
from tests.torch.examples.zoo import CASES, Case, Problem, score

on_every_case = pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
)


def look_at(module: nn.Module) -> list[Any]:
    """Return all there is to see of a module but the values of `.grad`."""
    seen: list[Any] = []
    for name, part in module.named_modules():
        attributes = {key for key in vars(part) if key not in HOOKS}
        seen.append((name, type(part), part.training, attributes))
        seen.append([dict(vars(part).get(hooks, {})) for hooks in HOOKS])
    for name, parameter in module.named_parameters(remove_duplicate=False):
        hooks = (parameter._backward_hooks, parameter._post_accumulate_grad_hooks)
        seen.append((name, id(parameter), parameter.data_ptr(), parameter._version, parameter.requires_grad))
        seen.append([dict(found or {}) for found in hooks])
        seen.append((parameter.stride(), type(parameter), set(vars(parameter))))
    for name, buffer in module.named_buffers():
        seen.append((name, id(buffer), buffer.data_ptr(), buffer._version))
    return seen


USES: dict[str, Callable[[Any, Tensor], object]] = {
    "gramian": lambda engine, losses: engine.gramian(losses),
    "gradients": lambda engine, losses: engine.gradients(losses).weighted(
        torch.ones(losses.numel()).double()
    ),
    "backward": lambda engine, losses: engine.backward(losses, weighting=mojd.upgrad),
}
with_every_use = pytest.mark.parametrize("use", USES.values(), ids=USES)


@on_every_case
@with_every_use
def test_the_module_is_left_alone(case: Case, use: Callable[[Any, Tensor], object]) -> None:
    problem = case.problem(3)
    losses = problem.losses()
    before, values = look_at(problem.module), [p.clone() for p in problem.module.parameters()]
    inputs = [x.clone() for x in problem.inputs]
    random_state = torch.get_rng_state()
    use(mojd.torch.Engine(problem.module), losses)
    assert look_at(problem.module) == before
    assert all(map(torch.equal, problem.module.parameters(), values))
    assert all(map(torch.equal, problem.inputs, inputs))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.is_grad_enabled()
    assert torch.equal(problem.losses(), losses)


@on_every_case
def test_the_graph_still_serves(case: Case) -> None:
    """Looking at the Gramian frees nothing, and hooks nothing into the graph."""
    problem = case.problem(3)
    trainable = [p for p in problem.module.parameters() if p.requires_grad]
    total = problem.losses().sum()
    expected = torch.autograd.grad(total, trainable, allow_unused=True)
    losses = problem.losses()
    engine = mojd.torch.Engine(problem.module)
    engine.gramian(losses)
    engine.gradients(losses, retain_graph=True).gramian()
    found = torch.autograd.grad(losses.sum(), trainable, allow_unused=True)
    for before, after in zip(expected, found, strict=True):
        assert (before is None) == (after is None)
        assert before is None or after is None or torch.equal(before, after)


class TestOthersGradients:
    def test_only_trainable_parameters_are_written(self) -> None:
        problem = CASES["frozen_in_the_middle"].problem(3)
        frozen = [p for p in problem.module.parameters() if not p.requires_grad]
        marks = [torch.randn_like(p) for p in frozen]
        for parameter, mark in zip(frozen, marks, strict=True):
            parameter.grad = mark.clone()
        x = problem.inputs[0].requires_grad_()
        mojd.torch.Engine(problem.module).backward(problem.losses(), weighting=mojd.upgrad)
        assert x.grad is None
        for parameter, mark in zip(frozen, marks, strict=True):
            assert parameter.grad is not None
            assert torch.equal(parameter.grad, mark)

    def test_what_no_loss_reaches_keeps_its_gradient(self) -> None:
        problem = CASES["parameters_that_no_loss_reaches"].problem(3)
        weight, bias = (problem.module.get_parameter(f"unused.{name}") for name in ("weight", "bias"))
        weight.grad = mark = torch.randn_like(weight)
        value = mark.clone()
        mojd.torch.Engine(problem.module).backward(problem.losses(), weighting=mojd.upgrad)
        assert weight.grad is mark
        assert torch.equal(mark, value)
        assert bias.grad is None

    def test_gradients_are_not_shared(self) -> None:
        """Neither with each other, nor with parameters or inputs: optimisers change them in place."""
        problem = CASES["pre_norm_block"].problem(3)
        gradients = mojd.torch.Engine(problem.module).gradients(problem.losses())
        first = gradients.weighted(torch.ones(3).double())
        kept = {name: tensor.clone() for name, tensor in first.items()}
        gradients.write(torch.ones(3).double())
        for parameter in problem.module.parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(3.0)
        again = gradients.weighted(torch.ones(3).double())
        for name, tensor in kept.items():
            assert torch.equal(first[name], tensor), name
            assert torch.equal(again[name], tensor), name

    def test_a_gramian_is_the_callers(self) -> None:
        problem = CASES["small_cnn"].problem(3)
        gradients = mojd.torch.Engine(problem.module).gradients(problem.losses())
        kept = gradients.gramian().clone()
        gradients.gramian().zero_()
        assert torch.equal(gradients.gramian(), kept)


@pytest.mark.parametrize("name", ["small_cnn", "pre_norm_block", "gru_cells", "weight_norm", "checkpointed"])
@with_every_use
def test_nothing_is_kept_alive(name: str, use: Callable[[Any, Tensor], object]) -> None:
    """An engine that lives as long as the training must not hold on to a step's activations."""
    problem = CASES[name].problem(3)
    engine = mojd.torch.Engine(problem.module)
    inputs = tuple(x.clone() for x in problem.inputs)
    losses = Problem(problem.module, inputs, problem.losses_of).losses()
    watched = [weakref.ref(x) for x in (*inputs, losses)]
    use(engine, losses)
    del inputs, losses
    gc.collect()
    assert [reference() for reference in watched] == [None] * len(watched)


def test_hooks_of_the_user_stay() -> None:
    layer = nn.Linear(3, 2).double()
    calls: list[int] = []
    handle = layer.register_forward_hook(lambda *_: calls.append(1))
    losses = score(layer(torch.randn(4, 3, dtype=torch.float64)))
    mojd.torch.Engine(layer).backward(losses, weighting=mojd.upgrad)
    assert len(calls) == 1
    assert len(layer._forward_hooks) == 1
    handle.remove()


def test_buffers_keep_their_values() -> None:
    """Running statistics change with a forward pass, and only with that."""
    module = nn.Sequential(nn.Conv1d(2, 4, 2), nn.InstanceNorm1d(4, affine=True, track_running_stats=True))
    module.double()
    losses = score(module(torch.randn(4, 2, 6, dtype=torch.float64)))
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    assert before
    mojd.torch.Engine(module).backward(losses, weighting=mojd.upgrad)
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())
