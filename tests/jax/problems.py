"""A small network with tasks, and what its gradients and directions are by the shortest code there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

import mojd

TASKS = 3
EXAMPLES = 12


def parameters(seed: int = 0, dtype: Any = None) -> dict[str, Any]:
    """A network 4-5-3 whose leaves have zero, one, two and three axes."""
    rng = np.random.default_rng(seed)
    dtype = jnp.zeros(()).dtype if dtype is None else dtype

    def normal(*shape: int) -> Array:
        return jnp.asarray(rng.normal(size=shape), dtype)

    return {
        "trunk": (normal(4, 5), normal(5)),
        "heads": normal(TASKS, 5, 2),
        "scale": normal(),
    }


def batch(seed: int = 1, size: int = EXAMPLES) -> tuple[Array, dict[str, Array]]:
    """Inputs (size, 4), and targets (size, 2) in a dict."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(size, 4))), {"y": jnp.asarray(rng.normal(size=(size, 2)))}


def errors(params: Any, x: Array, targets: Any) -> Array:
    """The squared errors of the tasks, shape (..., TASKS); each has its own idea of the target."""
    features = jnp.tanh(x @ params["trunk"][0] + params["trunk"][1])
    outputs = params["scale"] * jnp.einsum("...f,tfo->...to", features, params["heads"])
    wanted = jnp.stack([targets["y"], -targets["y"], 2.0 + targets["y"]], axis=-2)
    squares: Array = ((outputs - wanted) ** 2).sum(-1)
    return squares


def task_losses(params: Any, x: Array, targets: Any) -> Array:
    return errors(params, x, targets).mean(0)


def one_task(task: int) -> Callable[..., Array]:
    return lambda params, x, targets: task_losses(params, x, targets)[task]


def example_loss(params: Any, x: Array, targets: Any) -> Array:
    return errors(params, x, targets).sum()


def example_losses(params: Any, x: Array, targets: Any) -> Array:
    return jax.vmap(example_loss, (None, 0, 0))(params, x, targets)


def flat_jacobian(losses: Callable[..., Array], params: Any, *args: Any) -> np.ndarray[Any, Any]:
    """The Jacobian (K, n) in float64 NumPy, by jax.jacrev of the flat parameters."""
    flat, unravel = ravel_pytree(params)
    jacobian = jax.jacrev(lambda flat: losses(unravel(flat), *args))(flat)
    return np.asarray(jacobian, np.float64)


def flat(tree: Any) -> np.ndarray[Any, Any]:
    """The leaves of a pytree, one after the other."""
    return np.asarray(ravel_pytree(tree)[0])


def exact_direction(jacobian: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """UPGrad's direction by NumPy and mojd's CPU solver."""
    gramian = jacobian @ jacobian.T
    found: np.ndarray[Any, Any] = jacobian.T @ mojd.upgrad(gramian)
    return found


def softened(gramian: Array) -> Array:
    """Weights that depend on every entry of the Gramian, in order, by an expression that any array takes."""
    size = gramian.shape[-1]
    ranks = np.arange(1.0, size + 1.0)
    norms = jnp.sqrt(jnp.diagonal(gramian))
    cosines = gramian / norms[:, None] / norms
    return (cosines @ ranks) * ranks / size
