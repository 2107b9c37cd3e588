"""The normaliser that makes PCD scale-free: a moving average of squared gradient norms."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mojd._arrays import (
    Array,
    as_array,
    device_of,
    is_array,
    is_on_device,
    is_traced,
    namespace,
    precision_of,
    restore,
    to_float64,
    to_numpy,
)
from mojd._checks import check_gramian_shape, check_gramian_values, check_rows, number
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.solvers import fused
from mojd.weightings._shared import plain_gramian
from mojd.weightings._traced import as_before, traceable

_FLOAT64 = np.dtype(np.float64)


class NormaliserState(NamedTuple):
    """The moving average of squared gradient norms that :func:`normalise` carries along.

    Attributes
    ----------
    mean_square : array, shape (..., K)
        v, the biased exponential moving average of ‖g‖², float64 on the CPU.
    steps : int
        t, how many finite Gramians went into it; in programs of JAX, an integer array of shape ().
    """

    mean_square: Array
    steps: int | Array


def init_normaliser(size: int) -> NormaliserState:
    """Return the state before the first step, for `size` objectives.

    Examples
    --------
    >>> import mojd
    >>> mojd.init_normaliser(2)
    NormaliserState(mean_square=array([0., 0.]), steps=0)
    """
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
        raise InvalidInputError(
            f"size must be the number of objectives, an integer of at least 1; got {size!r}"
        )
    return NormaliserState(np.zeros(size), 0)


@traceable
def normalise(
    state: NormaliserState, gramian: Any, beta: float = 0.999, eps: float = 1e-8
) -> tuple[Array, NormaliserState]:
    r"""Update the moving average with one Gramian; return PCD's scales and the new state.

    .. math:: v \leftarrow \beta v + (1 - \beta)\, \operatorname{diag} G, \qquad
              s = 1 / \sqrt{v / (1 - \beta^t) + \epsilon}

    Parameters
    ----------
    state : NormaliserState
        From :func:`init_normaliser` or the previous call. It is not modified.
    gramian : array, shape (..., K, K)
        This step's Gramian.
    beta : float in [0, 1)
        Decay of the average.
    eps : float ≥ 0
        Added to the average, in units of a squared gradient norm.

    Returns
    -------
    scales : array, shape (..., K)
        s, float64, in the namespace of `gramian`: one over the typical norm of each gradient. 0
        for an objective whose gradient has always been 0, if `eps` is 0.
    state : NormaliserState
        To be passed to the next call. A Gramian that holds NaN or infinity leaves it as it was. In programs
        of JAX its dtypes stay, so that it can be carried through ``lax.scan``.

    Raises
    ------
    InvalidInputError
        If a shape does not fit or `beta` or `eps` is out of range.
    InvalidTypeError
        If `state` is no state, or `beta` or `eps` no number.

    References
    ----------
    PCD, arXiv 2606.29521, Algorithm 1.

    Examples
    --------
    >>> import mojd
    >>> state = mojd.init_normaliser(2)
    >>> scales, state = mojd.normalise(state, [[4.0, 0.0], [0.0, 0.25]], eps=0.0)
    >>> scales
    array([0.5, 2. ])
    """
    if not isinstance(state, NormaliserState):
        raise InvalidTypeError(
            "state must come from mojd.init_normaliser or from mojd.normalise, got "
            f"{type(state).__name__}; the call is scales, state = mojd.normalise(state, gramian)"
        )
    if type(beta) is float and type(eps) is float and 0.0 <= beta < 1.0 and 0.0 <= eps < math.inf:
        updated = _plain(state, gramian, beta, eps)
        if updated is not None:
            return updated
    beta, eps = checked_decay(beta, eps)
    matrix = as_array(gramian, "gramian")
    check_gramian_shape(matrix)
    average = state.mean_square
    if not is_array(average):
        raise InvalidInputError("state must come from mojd.init_normaliser or from mojd.normalise")
    check_rows(average, int(matrix.shape[-1]), "state.mean_square", "one entry per objective of the gramian")
    if is_traced(matrix):
        return _traced(state, matrix, beta, eps)
    on_device = is_on_device(matrix)
    xp = namespace(matrix) if on_device else np
    if on_device:
        squares = xp.astype(xp.linalg.diagonal(matrix), xp.float64)
        average = average if is_on_device(average) else xp.asarray(average, device=device_of(matrix))
        finite: Any = bool(xp.all(xp.isfinite(matrix)))
    else:
        values = to_numpy(matrix)
        squares = np.diagonal(values, axis1=-2, axis2=-1).astype(np.float64)
        finite = bool(np.isfinite(values).all())
        if (squares < 0).any():
            check_gramian_values(to_float64(values), "gramian", *precision_of(matrix))
    if not finite:
        return restore(_scales(xp, average, state.steps, beta, eps), _float64_like(matrix)), state
    steps = state.steps + 1
    average = beta * average + (1.0 - beta) * squares
    return restore(_scales(xp, average, steps, beta, eps), _float64_like(matrix)), NormaliserState(
        average, steps
    )


def _traced(state: NormaliserState, matrix: Array, beta: float, eps: float) -> tuple[Array, NormaliserState]:
    """Update the state with a Gramian whose numbers are not known yet."""
    xp = namespace(matrix)
    before = state.steps if is_array(state.steps) else xp.asarray(state.steps, dtype=xp.int32)
    finite = xp.all(xp.isfinite(matrix))
    squares = xp.where(finite, xp.astype(xp.linalg.diagonal(matrix), xp.float64), 0.0)
    known = xp.astype(state.mean_square, xp.float64)
    average = xp.where(finite, beta * known + (1.0 - beta) * squares, known)
    # Weakly typed if it was so before: else the second call would be compiled anew.
    count = before + xp.where(finite, xp.ones_like(before), xp.zeros_like(before))
    steps = xp.astype(count, xp.float64)
    # 1/0 and 0/0 have no place in a derivative, even where they are not taken.
    missing = xp.where(count > 0, 1.0 - beta**steps, xp.ones_like(steps))
    scales = _inverse_root(xp, average / missing, eps)
    return scales, NormaliserState(as_before(average, state.mean_square), count)


def checked_decay(beta: Any, eps: Any) -> tuple[float, float]:
    """Return β and ε as floats, or raise if they are out of range."""
    beta = number(beta, "beta", "the decay of the average")
    eps = number(eps, "eps", "it is added to the average")
    if not 0.0 <= beta < 1.0:
        raise InvalidInputError(f"beta must lie in [0, 1), got {beta!r}")
    if not 0.0 <= eps < math.inf:
        raise InvalidInputError(f"eps must be finite and not negative, got {eps!r}")
    return beta, eps


def _plain(
    state: NormaliserState, gramian: Any, beta: float, eps: float
) -> tuple[Array, NormaliserState] | None:
    """Update the state with one ordinary Gramian, or return None if anything is unusual."""
    plain, average = plain_gramian(gramian), state.mean_square
    if plain is None or type(average) is not np.ndarray or average.dtype is not _FLOAT64:
        return None
    if average.shape != (len(plain[0]),) or not average.flags.c_contiguous:
        return None
    steps = state.steps + 1
    updated = fused.update_scales(plain[0], average, beta, 1.0 - beta**steps, eps)
    if updated is None:
        return None
    scales, average = updated
    if type(gramian) is not np.ndarray:
        scales = restore(scales, _float64_like(gramian))
    return scales, NormaliserState(average, steps)


def _float64_like(array: Array) -> Array:
    """Return an array of the same namespace whose dtype never narrows a float64 result."""
    if is_on_device(array):
        return namespace(array).zeros((), dtype=namespace(array).float64, device=device_of(array))
    return restore(np.zeros((), dtype=np.int64), array)


def _scales(xp: Any, average: Array, steps: Any, beta: float, eps: float) -> Array:
    """Return 1/√(v̂ + ε), and 0 where that is 1/0."""
    return _inverse_root(xp, average / (1.0 - beta**steps) if steps else average, eps)


def _inverse_root(xp: Any, corrected: Array, eps: float) -> Array:
    square = corrected + eps
    positive = square > 0
    return xp.where(positive, 1.0 / xp.sqrt(xp.where(positive, square, xp.ones_like(square))), 0.0 * square)
