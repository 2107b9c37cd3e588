"""A training run in JAX and the same in PyTorch: the same weights after each of 20 steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mojd.jax

torch = pytest.importorskip("torch")
import mojd.torch  # noqa: E402

STEPS, RATE, MOMENTUM = 20, 0.05, 0.9
TASKS, EXAMPLES = 3, 16
SHAPES = [(6, 12), (12,), (12, 8), (8,), (8, TASKS), (TASKS,)]
Weights = list[np.ndarray[Any, Any]]


def start() -> Weights:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) / np.sqrt(shape[0]) for shape in SHAPES]


def data() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Inputs, and one target per task. The tasks share no more than the inputs, and so they conflict."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(EXAMPLES, 6)), rng.normal(size=(EXAMPLES, TASKS)) * [1.0, 3.0, 0.3]


def outputs(xp: Any, params: Any, x: Any) -> Any:
    features = xp.tanh(xp.tanh(x @ params[0] + params[1]) @ params[2] + params[3])
    return features @ params[4] + params[5]


def in_jax(losses: Any, weighting: Any, **options: Any) -> Iterator[Weights]:
    """Train by mojd.jax, and SGD by hand; yield the weights after every step."""
    step = jax.jit(mojd.jax.value_and_direction(losses, weighting, **options))
    params, batch = [jnp.asarray(leaf) for leaf in start()], [jnp.asarray(array) for array in data()]
    velocity = jax.tree.map(jnp.zeros_like, params)
    stateful = isinstance(weighting, mojd.jax.StatefulWeighting)
    state = {"state": weighting.init(TASKS)} if stateful else {}
    for _ in range(STEPS):
        _, direction, *rest = step(params, *batch, **state)
        state = {"state": rest[0]} if stateful else {}
        velocity = jax.tree.map(lambda v, d: MOMENTUM * v + d, velocity, direction)
        params = jax.tree.map(lambda p, v: p - RATE * v, params, velocity)
        yield [np.asarray(leaf) for leaf in params]


def in_torch(backward: Any) -> Iterator[Weights]:
    """Train by mojd.torch and torch.optim.SGD; yield the weights after every step."""
    params = [torch.nn.Parameter(torch.tensor(leaf)) for leaf in start()]
    x, y = (torch.tensor(array) for array in data())
    optimizer = torch.optim.SGD(params, lr=RATE, momentum=MOMENTUM)
    for _ in range(STEPS):
        optimizer.zero_grad()
        backward(params, x, y)
        optimizer.step()
        yield [param.detach().numpy().copy() for param in params]


def assert_same(one: Iterator[Weights], other: Iterator[Weights]) -> None:
    moved = 0
    for left, right in zip(one, other, strict=True):
        for leaf, twin in zip(left, right, strict=True):
            np.testing.assert_allclose(leaf, twin, rtol=1e-10, atol=1e-10)
        moved += not all(np.allclose(leaf, first) for leaf, first in zip(left, start(), strict=True))
    assert moved == STEPS


def jax_losses(params: Any, x: Any, y: Any) -> Any:
    return ((outputs(jnp, params, x) - y) ** 2).mean(0)


def torch_losses(params: Any, x: Any, y: Any) -> Any:
    return list(((outputs(torch, params, x) - y) ** 2).mean(0))


def example_loss(params: Any, x: Any, y: Any) -> Any:
    return ((outputs(jnp, params, x) - y) ** 2).sum()


@pytest.mark.usefixtures("x64")
class TestSameWeights:
    @pytest.mark.parametrize("options", [{}, {"micro_batches": 4}, {"sequential": True}])
    @pytest.mark.parametrize("method", ["upgrad", "mgda", "dualproj", "mean"])
    def test_tasks(self, method: str, options: dict[str, Any]) -> None:
        def backward(params: Any, x: Any, y: Any) -> None:
            mojd.torch.backward(torch_losses(params, x, y), params, method)

        assert_same(in_jax(jax_losses, method, **options), in_torch(backward))

    @pytest.mark.parametrize("tau", [0.02, 0.5])
    def test_pcd_and_its_average(self, tau: float) -> None:
        weighting = mojd.torch.PCDWeighting(tau=tau)

        def backward(params: Any, x: Any, y: Any) -> None:
            mojd.torch.backward(torch_losses(params, x, y), params, weighting)

        assert_same(in_jax(jax_losses, mojd.jax.pcd_weighting(tau=tau)), in_torch(backward))

    @pytest.mark.parametrize("options", [{}, {"micro_batches": 4}])
    def test_examples(self, options: dict[str, Any]) -> None:
        class Network(torch.nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self, params: Any) -> None:
                super().__init__()
                self.held = torch.nn.ParameterList(params)

            def forward(self, x: Any) -> Any:
                return outputs(torch, self.held, x)

        def backward(params: Any, x: Any, y: Any) -> None:
            network = Network(params)
            losses = ((network(x) - y) ** 2).sum(1)
            mojd.torch.Engine(network).backward(losses, mojd.upgrad)

        assert_same(in_jax(example_loss, "upgrad", per_example=True, **options), in_torch(backward))
