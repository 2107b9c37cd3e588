"""All validation of user input.

Shapes are checked before anything is computed. Values are checked by the kernels on the way, at
almost no cost; if one of them refuses, the functions here find out what is wrong and where.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from mojd._arrays import Array, FloatArray, is_traced, to_float64
from mojd.errors import InvalidInputError, InvalidTypeError, NonFiniteError

NONFINITE_CHOICES = ("raise", "propagate")


def check_nonfinite(nonfinite: str) -> None:
    """Raise unless `nonfinite` is one of the two policies."""
    if nonfinite not in NONFINITE_CHOICES:
        raise InvalidInputError(f"nonfinite={nonfinite!r} is not one of {NONFINITE_CHOICES}")


def check_threads(threads: int) -> None:
    """Raise unless `threads` is a positive integer."""
    if isinstance(threads, bool) or not isinstance(threads, int | np.integer) or threads < 1:
        raise InvalidInputError(f"threads must be an integer of at least 1, got {threads!r}")


def refuse_traced(value: Any, name: str) -> None:
    """Raise if an option of a method is traced by JAX: it is compiled into the program."""
    if is_traced(value):
        raise InvalidTypeError(
            f"{name} must be a Python number, and JAX traces it: name it in jax.jit's static_argnames, or "
            "let the function find it outside of its arguments"
        )


def check_count(value: int, name: str, least: int, meaning: str) -> None:
    """Raise unless `value` is an integer of at least `least`."""
    refuse_traced(value, name)
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InvalidInputError(f"{name} must be {meaning}, an integer of at least {least}; got {value!r}")


def number(value: Any, name: str, meaning: str) -> float:
    """Return a number (or an array of shape ()) as a float; raise if it is none."""
    refuse_traced(value, name)
    try:
        if not isinstance(value, str | bytes) and getattr(value, "ndim", 0) == 0:
            return float(value)
    except (TypeError, ValueError):
        pass
    raise InvalidTypeError(f"{name} must be a number, got {type(value).__name__}; {meaning}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known name that resembles one most, for the end of a sentence; or nothing."""
    # Only for errors, so not while mojd is imported.
    import difflib

    similar = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f"; did you mean {similar[0]!r}?" if similar else ""


def check_seed(seed: Any) -> None:
    """Raise unless `seed` is a non-negative integer or a generator of NumPy."""
    if isinstance(seed, np.random.Generator):
        return
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise InvalidTypeError(
            f"seed must be an integer or a numpy.random.Generator, got {seed!r}; a training loop passes the "
            "same numpy.random.default_rng(0) at every step"
        )
    if seed < 0:
        raise InvalidInputError(f"seed must be a non-negative integer, got {seed!r}")


def check_gramian_shape(gramian: Array, name: str = "gramian") -> None:
    """Raise unless the shape is (..., K, K) with K ≥ 1."""
    shape = tuple(gramian.shape)
    if len(shape) >= 2 and shape[-1] == shape[-2] >= 1:
        return
    hint = ""
    if len(shape) >= 2 and shape[-1] != shape[-2]:
        hint = "; if it is a Jacobian (one row per objective), use mojd.aggregate or mojd.gramian on it"
    raise InvalidInputError(f"{name} must have shape (..., K, K) with K >= 1, got shape {shape}{hint}")


def check_jacobian_shape(jacobian: Array) -> None:
    """Raise unless the shape is (..., K, n) with K ≥ 1."""
    shape = tuple(jacobian.shape)
    if len(shape) < 2 or shape[-2] < 1:
        raise InvalidInputError(
            "jacobian must have shape (..., K, n): one row per objective, one column per parameter; "
            f"got shape {shape}"
        )


def check_rows(array: Array, size: int, name: str, meaning: str) -> None:
    """Raise unless the last axis of `array` has `size` entries."""
    shape = tuple(array.shape)
    if len(shape) < 1 or shape[-1] != size:
        raise InvalidInputError(f"{name} must have shape (..., {size}), {meaning}; got shape {shape}")


def broadcast_batch(first: tuple[int, ...], second: tuple[int, ...], names: str) -> tuple[int, ...]:
    """Broadcast two batch shapes, or raise an error that shows both."""
    try:
        return np.broadcast_shapes(first, second)
    except ValueError:
        raise InvalidInputError(
            f"the leading (batch) axes of {names} do not broadcast: {first} against {second}; to share one "
            "Gramian between several vectors, give it a batch axis of length 1"
        ) from None


def _first(mask: Any) -> tuple[int, ...]:
    """Return the first index at which `mask` is true."""
    return tuple(int(i) for i in np.argwhere(mask)[0])


def check_finite(
    values: FloatArray, name: str, advice: str = "pass nonfinite='propagate' to get NaN instead of this error"
) -> None:
    """Raise if `values` holds NaN or infinity, and say where."""
    finite = np.isfinite(values)
    if not finite.all():
        index = _first(~finite)
        raise NonFiniteError(
            f"{name} of shape {values.shape} holds {values[index]} at index {index} "
            f"({int((~finite).sum())} such entries); {advice}"
        )


def check_gramian_values(gramian: FloatArray, name: str, tolerance: float, tiny: float) -> None:
    """Raise if a finite one of `gramian` (..., K, K) cannot be a matrix of inner products.

    `tolerance` and `tiny` are those of :func:`mojd.kernels.equilibrate.equilibrate`.
    """
    gramian = np.where(np.isfinite(gramian).all(axis=(-2, -1), keepdims=True), gramian, 0.0)
    diagonal = np.diagonal(gramian, axis1=-2, axis2=-1)
    if (diagonal < 0).any():
        index = _first(diagonal < 0)
        raise InvalidInputError(
            f"{name} of shape {gramian.shape} has the negative diagonal entry {diagonal[index]} at index "
            f"{(*index, index[-1])}; a squared norm can't be negative"
        )
    norms = np.sqrt(diagonal)
    bound = norms[..., :, None] * norms[..., None, :]
    transposed = np.swapaxes(gramian, -1, -2)
    asymmetric = np.abs(gramian - transposed) > tolerance * bound
    asymmetric &= bound > 0
    if asymmetric.any():
        index = _first(asymmetric)
        swapped = (*index[:-2], index[-1], index[-2])
        raise InvalidInputError(
            f"{name} of shape {gramian.shape} is not symmetric: {gramian[index]} at index {index} but "
            f"{gramian[swapped]} at {swapped}; symmetrise it, or check that it is J @ J.T"
        )
    slack = math.sqrt(tiny) * np.maximum(norms[..., :, None], norms[..., None, :])
    excessive = np.abs(gramian) > np.where(bound > 0, (1 + tolerance) * bound, slack)
    if excessive.any():
        index = _first(excessive)
        raise InvalidInputError(
            f"{name} of shape {gramian.shape} is not positive semi-definite: the entry {gramian[index]} at "
            f"index {index} exceeds the geometric mean {bound[index]} of its two diagonal entries"
        )


def refuse_indefinite(gramian: FloatArray, name: str) -> None:
    """Raise the error for a Gramian that a solver found to be indefinite, pairs of rows being fine."""
    gramian = np.where(np.isfinite(gramian).all(axis=(-2, -1), keepdims=True), gramian, 0.0)
    norms = np.sqrt(np.diagonal(gramian, axis1=-2, axis2=-1))
    norms = np.where(norms > 0, norms, 1.0)
    smallest = np.linalg.eigvalsh(gramian / norms[..., :, None] / norms[..., None, :])[..., 0]
    index = tuple(int(i) for i in np.unravel_index(int(np.argmin(smallest)), smallest.shape))
    where = f" at index {index}" if index else ""
    raise InvalidInputError(
        f"{name} of shape {gramian.shape} is not positive semi-definite: scaled to a diagonal of 1, the "
        f"matrix{where} has the eigenvalue {float(smallest[index]):.3g}; check that it is J @ J.T"
    )


def check_nonnegative(array: Array, name: str, meaning: str) -> None:
    """Raise if a CPU array of weights or scales has a negative or non-finite entry."""
    values = to_float64(array)
    check_finite(values, name, meaning)
    if (values < 0).any():
        index = _first(values < 0)
        raise InvalidInputError(
            f"{name} of shape {values.shape} has the negative entry {values[index]} at index {index}; "
            f"{meaning}"
        )


def check_tau(tau: Array) -> None:
    """Raise if an entry of `tau` is outside of [0, 1]."""
    values = to_float64(tau)
    outside = ~((values >= 0) & (values <= 1))
    if outside.any():
        index = _first(outside)
        where = f" at index {index}" if index else ""
        raise InvalidInputError(
            f"tau must lie in [0, 1], got {values[index]}{where} (shape {values.shape}); it is the fraction "
            "of normalised progress that every secondary objective is guaranteed"
        )
