"""The gradient transformation of optax, against the step that it is the first half of."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mojd.jax
from mojd.errors import InvalidInputError, InvalidTypeError, MissingDependencyError
from tests.jax.problems import TASKS, batch, exact_direction, flat, flat_jacobian, parameters, task_losses

optax = pytest.importorskip("optax")


def test_first_update_is_the_direction(x64: None) -> None:
    params, data = parameters(), batch()
    optimizer = optax.chain(mojd.jax.aggregate_gradients("upgrad"), optax.sgd(0.5))
    _, jacobian = mojd.jax.value_and_jacobian(task_losses)(params, *data)
    updates, _ = jax.jit(optimizer.update)(jacobian, optimizer.init(params), params)
    expected = -0.5 * exact_direction(flat_jacobian(task_losses, params, *data))
    np.testing.assert_allclose(flat(updates), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("weighting", ["upgrad", mojd.jax.pcd_weighting(tau=0.1)])
def test_adam_in_a_chain_is_adam_after_the_direction(x64: None, weighting: Any) -> None:
    data, has_state = batch(), not isinstance(weighting, str)
    chained = optax.chain(mojd.jax.aggregate_gradients(weighting, num_losses=TASKS), optax.adam(1e-2))
    alone = optax.adam(1e-2)
    traces = 0
    differentiate = mojd.jax.value_and_jacobian(task_losses)
    step = mojd.jax.value_and_direction(task_losses, weighting)

    @jax.jit
    def by_chain(params: Any, state: Any) -> Any:
        nonlocal traces
        traces += 1
        _, jacobian = differentiate(params, *data)
        updates, state = chained.update(jacobian, state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def by_direction(params: Any, state: Any, own: Any) -> Any:
        _, direction, *rest = step(params, *data, **({"state": own} if has_state else {}))
        updates, state = alone.update(direction, state, params)
        return optax.apply_updates(params, updates), state, rest[0] if has_state else None

    params = other = parameters()
    state, adam, own = chained.init(params), alone.init(params), None
    if has_state:
        own = weighting.init(TASKS)
    for _ in range(10):
        params, state = by_chain(params, state)
        other, adam, own = by_direction(other, adam, own)
        np.testing.assert_allclose(flat(params), flat(other), rtol=1e-12)
    assert traces == 1
    if has_state:
        assert int(state[0].steps) == 10


def test_nan_is_skipped_by_apply_if_finite() -> None:
    optimizer = optax.chain(
        mojd.jax.aggregate_gradients(mojd.jax.pcd_weighting(), num_losses=2),
        optax.apply_if_finite(optax.adam(0.1), 5),
    )
    params = jnp.ones(3)
    state = optimizer.init(params)
    updates, state = jax.jit(optimizer.update)(jnp.full((2, 3), jnp.nan), state, params)
    np.testing.assert_array_equal(updates, np.zeros(3))
    assert int(state[0].steps) == 0


def test_extra_arguments_pass_through() -> None:
    optimizer = optax.chain(mojd.jax.aggregate_gradients("mean"), optax.sgd(1.0))
    params = jnp.ones(2)
    updates, _ = optimizer.update(jnp.ones((3, 2)), optimizer.init(params), params, value=1.0)
    np.testing.assert_allclose(updates, [-1.0, -1.0], rtol=1e-6)


class TestErrors:
    def test_without_optax(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "optax", None)
        with pytest.raises(MissingDependencyError, match=r"mojd\[optax\]"):
            mojd.jax.aggregate_gradients("mean")

    def test_a_state_needs_the_number_of_losses(self) -> None:
        with pytest.raises(InvalidInputError, match="num_losses="):
            mojd.jax.aggregate_gradients(mojd.jax.pcd_weighting())

    @pytest.mark.parametrize("count", [0, 2.0, True])
    def test_number_of_losses(self, count: Any) -> None:
        with pytest.raises(InvalidInputError, match="num_losses must be"):
            mojd.jax.aggregate_gradients("mean", num_losses=count)

    @pytest.mark.parametrize(
        ("updates", "error", "message"),
        [
            ({"w": jnp.ones((3, 4))}, InvalidInputError, "hold 3 gradients, and num_losses is 2"),
            ({"w": jnp.ones((2, 5))}, InvalidInputError, r"updates\['w'\] has shape \(2, 5\)"),
            ({"v": jnp.ones((2, 4))}, InvalidTypeError, "structure"),
        ],
    )
    def test_updates_that_are_no_jacobian(self, updates: Any, error: type[Exception], message: str) -> None:
        params = {"w": jnp.ones(4)}
        transformation = mojd.jax.aggregate_gradients("mean", num_losses=2)
        with pytest.raises(error, match=message):
            transformation.update(updates, transformation.init(params), params)
