"""JAX on a GPU: programs that XLA compiles for it, and arrays outside of programs, agree with NumPy's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mojd
import mojd.jax
from tests.contracts.test_array_libraries import jax_has_cuda
from tests.cuda.answers import distance, methods, random_gramians
from tests.jax.problems import batch, exact_direction, flat, flat_jacobian, one_task, parameters, task_losses

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def on_gpu(x64: None) -> Iterator[Any]:
    """Make the GPU the default device."""
    if not jax_has_cuda(jax):
        pytest.skip("JAX sees no CUDA device")
    device = jax.devices("cuda")[0]
    with jax.default_device(device):
        yield device


@pytest.mark.parametrize("size", [2, 3, 5, 8, 33])
def test_traced_values(on_gpu: Any, size: int) -> None:
    """What XLA compiles, with its own solver."""
    gramians = random_gramians(4, size)
    there = jax.device_put(gramians, on_gpu)
    for name, weigh in methods(size).items():
        expected = weigh(gramians)
        for found in (jax.jit(weigh)(there), jax.vmap(weigh)(there)):
            assert next(iter(found.devices())) == on_gpu
            assert distance(gramians, np.asarray(found), expected) <= 1e-8, name


def test_solutions(on_gpu: Any) -> None:
    gramians = random_gramians(4, 6)
    there = jax.device_put(gramians, on_gpu)
    solution = jax.jit(lambda G: mojd.jax.solve(G, -G[..., 0]))(there)
    expected = mojd.solve(mojd.NNQP(gramians, -gramians[..., 0]))
    np.testing.assert_allclose(np.asarray(solution.x), expected.x, rtol=1e-9, atol=1e-12)
    assert float(solution.kkt_residual.max()) <= 1e-12


def test_derivatives(on_gpu: Any) -> None:
    jacobian = np.random.default_rng(0).standard_normal((5, 9))
    gradient = jax.jit(jax.grad(lambda J: (mojd.upgrad(J @ J.T) ** 2).sum()))
    found = gradient(jax.device_put(jacobian, on_gpu))
    with jax.default_device(jax.devices("cpu")[0]):
        expected = gradient(jnp.asarray(jacobian))
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-7, atol=1e-9)


def test_a_training_step() -> None:
    params, (x, targets) = parameters(), batch()
    losses = [one_task(task) for task in range(3)]
    step = jax.jit(mojd.jax.value_and_direction(losses, "upgrad"))
    _, direction = step(params, x, targets)
    expected = exact_direction(flat_jacobian(task_losses, params, x, targets))
    np.testing.assert_allclose(flat(direction), expected, rtol=1e-6, atol=1e-8)


def test_arrays_outside_of_programs(on_gpu: Any) -> None:
    """They go to mojd's kernels, if CuPy is there, and else to plain array operations."""
    for size in (2, 5, 40):
        gramians = random_gramians(3, size)
        weights = mojd.upgrad(jax.device_put(gramians, on_gpu))
        assert next(iter(weights.devices())) == on_gpu
        assert distance(gramians, np.asarray(weights), mojd.upgrad(gramians)) <= 1e-8
