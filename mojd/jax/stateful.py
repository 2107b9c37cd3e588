"""Weightings that carry a state from step to step, as pairs of pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.jax._arguments import check_tau
from mojd.jax.weightings import pcd
from mojd.weightings.normaliser import checked_decay


class StatefulWeighting(NamedTuple):
    """A weighting with a state, in two pure functions.

    Attributes
    ----------
    init : callable
        ``init(size) -> state``: the state before the first step, for `size` objectives, a pytree of arrays.
    update : callable
        ``update(gramian, state) -> (weights, state)``: this step's weights (K,) for the Gramian (K, K), and
        the state to pass to the next call.

    Examples
    --------
    Weights by the method of another, averaged over the steps:

    >>> import jax.numpy as jnp, mojd, mojd.jax
    >>> def update(gramian, state):
    ...     state = 0.9 * state + 0.1 * mojd.mgda(gramian)
    ...     return state, state
    >>> averaged = mojd.jax.StatefulWeighting(lambda size: jnp.full(size, 1 / size), update)
    >>> weights, state = averaged.update(jnp.eye(2), averaged.init(2))
    >>> weights
    Array([0.5, 0.5], dtype=float32)
    """

    init: Callable[[int], Any]
    update: Callable[[Array, Any], tuple[Any, Any]]


class PCDState(NamedTuple):
    """The moving average of squared gradient norms that PCD carries along.

    Attributes
    ----------
    mean_square : array, shape (K,)
        v, the average of ‖g‖² without bias correction; float64 if JAX has it enabled, else float32.
    steps : array, shape (), int32
        t, how many finite Gramians went into it.
    """

    mean_square: Array
    steps: Array


def pcd_weighting(
    tau: Any = 0.02, beta: float = 0.999, eps: float = 1e-8, rescale: bool = True
) -> StatefulWeighting:
    r"""Make PCD's weighting with its normaliser: gradients are divided by an average of their norms.

    .. math:: v \leftarrow \beta v + (1 - \beta)\, \operatorname{diag} G, \qquad
              s = 1 / \sqrt{v / (1 - \beta^t) + \epsilon}, \qquad w = \operatorname{pcd}(G; \tau, s)

    Parameters
    ----------
    tau : float or array of shape (K − 1,), default 0.02
        The progress that is asked for each secondary, relative to its own gradient.
    beta : float in [0, 1)
        Decay of the average.
    eps : float ≥ 0
        Added to the average, in units of a squared gradient norm.
    rescale : bool, default True
        Whether the direction gets the norm of the primary's gradient.

    Returns
    -------
    StatefulWeighting
        Its state is a :class:`PCDState`. A Gramian that holds NaN or infinity gives weights of NaN and leaves
        the state as it was.

    Raises
    ------
    InvalidInputError
        If `tau`, `beta` or `eps` is out of range.
    InvalidTypeError
        If `tau`, `beta` or `eps` is no number, or `rescale` no bool.

    References
    ----------
    PCD, arXiv 2606.29521, Algorithm 1.

    Examples
    --------
    >>> import jax.numpy as jnp, mojd.jax
    >>> pcd = mojd.jax.pcd_weighting(tau=0.1)
    >>> gramian = jnp.array([[4.0, -1.0], [-1.0, 1.0]])
    >>> weights, state = pcd.update(gramian, pcd.init(2))
    >>> weights.round(2)
    Array([1.15, 1.38], dtype=float32)
    >>> state.steps
    Array(1, dtype=int32)
    """
    check_tau(tau)
    beta, eps = checked_decay(beta, eps)
    if not isinstance(rescale, bool | np.bool_):
        raise InvalidTypeError(f"rescale must be True or False, got {rescale!r}")

    def init(size: int) -> PCDState:
        return PCDState(jnp.zeros(size), jnp.zeros((), jnp.int32))

    def update(gramian: Array, state: PCDState) -> tuple[Any, PCDState]:
        if jnp.shape(state.mean_square) != gramian.shape[:1]:
            raise InvalidInputError(
                f"the state of PCD is one of shape {jnp.shape(state.mean_square)}, the Gramian of shape "
                f"{gramian.shape}: start from pcd_weighting(...).init({gramian.shape[0]})"
            )
        state = _averaged(state, gramian, beta)
        scales = _scales(state, beta, eps)
        weights = pcd(gramian, tau, scales=scales, rescale=bool(rescale))
        return weights, state

    return StatefulWeighting(init, update)


def _averaged(state: PCDState, gramian: Array, beta: float) -> PCDState:
    """Move the average on, unless the Gramian is not finite."""
    finite = jnp.isfinite(gramian).all()
    squares = jnp.diagonal(gramian).astype(state.mean_square.dtype)
    updated = beta * state.mean_square + (1.0 - beta) * squares
    return PCDState(jnp.where(finite, updated, state.mean_square), state.steps + finite.astype(jnp.int32))


def _scales(state: PCDState, beta: float, eps: float) -> Array:
    """Return 1/√(v̂ + ε), and 0 where that is 1/0."""
    # 1 − βᵗ: of β = 0.999 in float32, the difference itself would keep four digits.
    decay = math.log(beta) if beta else -math.inf
    steps = jnp.maximum(state.steps, 1).astype(state.mean_square.dtype)
    square = state.mean_square / -jnp.expm1(decay * steps) + eps
    positive = square > 0
    return jnp.where(positive, 1.0 / jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0 * square)
