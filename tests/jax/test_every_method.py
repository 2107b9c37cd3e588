"""What every registered method must do inside of JAX programs. A new method file joins by existing.

What comes out of a compiled program is compared with what NumPy users get, which no traced value touches.
Programs take seconds to compile: there are three for each method, over problems of one shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mojd.weightings import get_method, registered_methods
from mojd.weightings._registry import Aggregator, LossWeighting, Method, Weighting
from tests.reference.families import Floats

METHODS = registered_methods()
SIZE = 4
TINY, HUGE = 1e-150, 1e150


def _jacobians() -> dict[str, Floats]:
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((6, SIZE, 7))
    duplicated, opposite, zero, dependent = (rows[3].copy() for _ in range(4))
    duplicated[2] = duplicated[0]
    opposite[1] = -opposite[0]
    zero[3] = 0.0
    dependent[3] = dependent[0] + 0.5 * dependent[1]
    lengths = np.array([1e-6, 1.0, 1e3, 1e-2])[:, None]
    return {
        "random": rows[0],
        "conflicting": rows[1] - 2 * rows[1].mean(axis=0),
        "aligned": abs(rows[2]),
        "duplicates": duplicated,
        "opposite": opposite,
        "zero row": zero,
        "dependent": dependent,
        "lengths": lengths * rows[4],
        "orthogonal": np.eye(SIZE, 7),
        "nothing": np.zeros((SIZE, 7)),
        "nan": np.where(rows[5] > 1.5, np.nan, rows[5]),
        "infinite": np.where(rows[5] > 1.5, np.inf, rows[5]),
        "last": rows[5],
    }


JACOBIANS = _jacobians()
SCALES = {"": 1.0, " tiny": TINY**0.5, " huge": HUGE**0.5}


def problems(method: Method) -> tuple[list[str], Floats]:
    """Return names and a stack of what a method takes: Gramians, Jacobians or losses."""
    names = [name + scale for scale in SCALES for name in JACOBIANS]
    with np.errstate(invalid="ignore"):
        jacobians = np.stack([factor * rows for factor in SCALES.values() for rows in JACOBIANS.values()])
        if isinstance(method, Aggregator):
            return names, jacobians
        if isinstance(method, LossWeighting):
            return names, abs(jacobians[..., 0])
        gramians = jacobians @ np.swapaxes(jacobians, -1, -2)
        # As J @ J.T is, and as the product of a batch need not be.
        return names, 0.5 * (gramians + np.swapaxes(gramians, -1, -2))


def options_of(method: Method) -> Mapping[str, Any]:
    options = dict(method.example_options)
    if method.is_stochastic:
        options["seed"] = jax.random.key(7)
    return options


def function_of(method: Method) -> Callable[..., Any]:
    """Return a function from one array to one, with options set, in which NaN propagates."""
    assert isinstance(method, Weighting | LossWeighting | Aggregator)
    function = method.direction if isinstance(method, Aggregator) else method.weights
    options = options_of(method)
    return lambda array: function(array, nonfinite="propagate", **options)


def expected(method: Method, arrays: Floats) -> Floats:
    """Return what NumPy users get, one problem after the other."""
    function = function_of(method)
    return np.stack([function(array) for array in arrays])


@pytest.fixture(params=METHODS, ids=lambda method: str(method.name))
def method(request: pytest.FixtureRequest) -> Method:
    """Each registered method."""
    found: Method = request.param
    return found


def test_mapped_programs_say_what_numpy_users_get(method: Method, x64: None) -> None:
    _, arrays = problems(method)
    function, traces = function_of(method), []

    def traced(array: Any) -> Any:
        traces.append(array.shape)
        return function(array)

    program = jax.jit(jax.vmap(traced))
    for values in (arrays, np.flip(arrays, axis=0).copy()):
        found = program(values)
        assert found.dtype == np.float64
        for own, wanted in zip(np.asarray(found), expected(method, values), strict=True):
            largest = np.max(abs(wanted), initial=0.0, where=np.isfinite(wanted))
            np.testing.assert_allclose(own, wanted, rtol=0.0, atol=1e-12 * largest)
    assert len(traces) == 1


def test_float32_programs_compute_in_float64(method: Method) -> None:
    """With ``jax_enable_x64`` off, in a batch of the method's own: rounding to float32 is what differs."""
    names, arrays = problems(method)
    arrays = arrays[: len(JACOBIANS)].astype(np.float32)
    found = jax.jit(function_of(method))(arrays)
    assert found.dtype == np.float32
    if method.is_stochastic:
        arrays, found = arrays[:1], function_of(method)(jnp.asarray(arrays))[:1]
    for name, own, wanted in zip(names, np.asarray(found), expected(method, arrays), strict=False):
        largest = np.max(abs(wanted), initial=0.0, where=np.isfinite(wanted))
        np.testing.assert_allclose(own, wanted, rtol=0.0, atol=1e-6 * largest, err_msg=name)


def from_rows(method: Method) -> Callable[[Any], Any]:
    """Return a number that depends on the Jacobian by the method alone."""
    function = function_of(method)
    factors = np.random.default_rng(3).standard_normal(7)

    def number(rows: Any) -> Any:
        if isinstance(method, Aggregator):
            found = function(rows)
        elif isinstance(method, LossWeighting):
            found = function(abs(rows[..., 0]))
        else:
            found = function(rows @ rows.mT)
        return (found * factors[: found.shape[-1]]).sum()

    return number


# Eigenvectors have no derivative where eigenvalues coincide.
SPECTRAL = ("aligned_mtl", "config", "imtl_g")


def test_derivatives(method: Method, x64: None) -> None:
    """In general position those of differences; anywhere else finite."""
    number, jacobians = from_rows(method), np.stack(list(JACOBIANS.values()))
    gradients = np.asarray(jax.jit(jax.vmap(jax.grad(number)))(jacobians))
    change = np.random.default_rng(4).standard_normal(jacobians.shape[1:])
    for name, rows, gradient in zip(JACOBIANS, jacobians, gradients, strict=True):
        if name in ("random", "conflicting", "aligned"):
            step = 1e-6 * change
            slope = (number(rows + step) - number(rows - step)) / 2e-6
            np.testing.assert_allclose(np.sum(gradient * change), slope, rtol=1e-6, atol=1e-8)
        elif np.isfinite(rows).all() and method.name not in SPECTRAL:
            assert np.isfinite(gradient).all(), name


@pytest.mark.parametrize("name", ["auxinash", "cagrad", "famo", "mgda"])
def test_forward_and_reverse_mode_while_jax_is_in_float32(name: str) -> None:
    number, rows = from_rows(get_method(name)), JACOBIANS["random"].astype(np.float32)
    change = np.random.default_rng(4).standard_normal(rows.shape).astype(np.float32)

    @jax.jit
    def both(rows: Any) -> Any:
        return jax.jvp(number, (rows,), (change,))[1], jax.grad(number)(rows)

    forward, gradient = both(rows)
    assert gradient.dtype == np.float32
    step = 1e-6 * change.astype(np.float64)
    slope = (number(rows + step) - number(rows - step)) / 2e-6
    np.testing.assert_allclose(forward, slope, rtol=1e-4)
    np.testing.assert_allclose(np.vdot(gradient, change), slope, rtol=1e-4)
