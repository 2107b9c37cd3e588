"""What every method does around its own mathematics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from mojd import _checks
from mojd._arrays import (
    Array,
    FloatArray,
    Precision,
    as_array,
    device_float64,
    device_of,
    is_array,
    is_on_device,
    is_traced,
    namespace,
    plain_values,
    precision_of,
    restore,
    to_float64,
)
from mojd.errors import SolverError
from mojd.kernels.status import FIRST_REFUSAL
from mojd.qp import NNQP, Solution
from mojd.solvers import solve
from mojd.solvers._masked_scaling import equilibrate
from mojd.status import Status

_FLOAT64 = np.dtype(np.float64)


def plain_gramian(gramian: Any) -> tuple[FloatArray, Precision] | None:
    """Return one (K, K) Gramian as kernels take it, with its precision; None if it is anything else."""
    plain = plain_values(gramian)
    if plain is None:
        return None
    shape = plain[0].shape
    return plain if len(shape) == 2 and shape[0] == shape[1] and shape[0] else None


def is_ordinary_call(solver: str, threads: int, nonfinite: str) -> bool:
    """Whether a method's options leave the short path open."""
    return solver == "auto" and threads == 1 and nonfinite in ("raise", "propagate")


def like_plain(weights: FloatArray, gramian: Any) -> Array:
    """Return weights such as a Gramian that :func:`plain_gramian` accepted."""
    if type(gramian) is np.ndarray and gramian.dtype is _FLOAT64:
        return weights
    return restore(weights, gramian)


class View(NamedTuple):
    """A Gramian as the caller gave it and in float64, with the namespace of the latter."""

    original: Array
    values: Array
    xp: Any

    @property
    def size(self) -> int:
        """K."""
        return int(self.original.shape[-1])

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading axes."""
        return tuple(self.original.shape[:-2])

    def full(self, shape: tuple[int, ...], value: float) -> Array:
        """Return a float64 array beside the Gramian."""
        if self.xp is np:
            return np.full(shape, value)
        return self.xp.full(shape, value, dtype=self.xp.float64, device=device_of(self.original))


def look(original: Array) -> tuple[Array, Any]:
    """Return an array in float64 without moving it, and the namespace of the result."""
    if is_on_device(original):
        return device_float64(original), namespace(original)
    return to_float64(original), np


def view(gramian: Any) -> View:
    """Check a Gramian's type and shape, and look at it in float64 without moving it."""
    original = as_array(gramian, "gramian")
    _checks.check_gramian_shape(original)
    if is_traced(original):
        # Here, because JAX is not to be imported by anybody who does not use it.
        from mojd.solvers._xla.derivative import as_symmetric

        original = as_symmetric(original)
    return View(original, *look(original))


def unseen(gramian: Array) -> View:
    """View a Gramian on a device whose numbers nobody but a kernel is to see, not even to convert them."""
    return View(gramian, gramian, namespace(gramian))


def vector(value: Any, name: str, size: int, gramian: View, meaning: str) -> Array:
    """Check a non-negative vector argument (..., size) and return it in float64 beside the Gramian."""
    array = as_array(value, name)
    _checks.check_rows(array, size, name, meaning)
    _checks.broadcast_batch(gramian.batch_shape, tuple(array.shape[:-1]), f"gramian and {name}")
    if not is_on_device(array):
        _checks.check_nonnegative(array, name, "it must be >= 0")
    return beside(array, gramian)


def preference_of(pref_vector: Any, gramian: View) -> Array:
    """Return preferences (..., K) in float64 beside the Gramian, 1/K each by default."""
    if pref_vector is None:
        return gramian.full((gramian.size,), 1.0 / gramian.size)
    return vector(pref_vector, "pref_vector", gramian.size, gramian, "one preference per objective")


def without_underflow(linear: Array, squares: Array, xp: Any) -> Array:
    """Return linear terms of a problem that has a minimiser, with 0 beside the squares that are 0.

    A gradient that is too short for its square to be anything else may still have products with others that
    are not 0. Along its row the problem would fall without bound.
    """
    return xp.where(squares == 0.0, xp.zeros_like(linear), linear)


class Seen(Protocol):
    """What :func:`look` made of the caller's array, whatever that holds."""

    @property
    def original(self) -> Array:
        """The array as it was given."""

    @property
    def values(self) -> Array:
        """The array in float64."""

    @property
    def xp(self) -> Any:
        """The namespace of the values."""


def beside(value: Any, gramian: Seen) -> Array:
    """Return an array or number in float64, on the device of the Gramian, or of what else is seen."""
    if gramian.xp is np:
        return to_float64(value)
    if is_array(value) and is_on_device(value):
        return device_float64(value)
    host = to_float64(value) if is_array(value) else np.asarray(value, dtype=np.float64)
    return gramian.xp.asarray(host, dtype=gramian.xp.float64, device=device_of(gramian.original))


def solved(problem: NNQP, solver: str, threads: int, nonfinite: str) -> Solution:
    """Solve, and raise if any problem was given up on."""
    solution = solve(problem, solver, threads=threads, nonfinite=nonfinite)
    if not is_on_device(problem.gramian):
        require_answers(np.asarray(solution.status), solver)
    return solution


# The methods whose linear term is G·u, along which no ray falls: see :func:`minimisers`.
ALWAYS_SOLVABLE = ("upgrad", "dualproj")


def minimisers(solution: Solution, gramian: View) -> Array:
    """Return x in float64 for problems with q = G·u, which always have a minimiser.

    A solver sees a ray only where G·u vanishes to rounding, so that q is noise: then u is its own
    projection, and x = 0.
    """
    xp, x = gramian.xp, solution.x_float64
    return xp.where((solution.codes == int(Status.INFEASIBLE))[..., None], xp.zeros_like(x), x)


def require_answers(status: Any, solver: str) -> None:
    """Raise if a status says that there is no answer."""
    if (status == Status.MAX_ITER).any():
        count = int((status == Status.MAX_ITER).sum())
        raise SolverError(
            f"solver {solver!r} gave up on {count} of {status.size} problems: {Status.MAX_ITER.message}"
        )


def check_statuses(status: Any, gramian: View, nonfinite: str) -> None:
    """Raise if a fused kernel gave up, refused a Gramian or met NaN that is to be reported."""
    if (status == Status.OPTIMAL).all():
        return
    check_values(gramian, nonfinite)
    if (status >= FIRST_REFUSAL).any():
        _checks.refuse_indefinite(gramian.values, "gramian")
    require_answers(status, "auto")


def check_values(gramian: View, nonfinite: str) -> None:
    """Raise if a CPU Gramian holds NaN, unless it is to propagate, or can't be a Gramian."""
    _checks.check_nonfinite(nonfinite)
    if gramian.xp is np:
        if nonfinite == "raise":
            _checks.check_finite(gramian.values, "gramian")
        _checks.check_gramian_values(gramian.values, "gramian", *precision_of(gramian.original))


def are_sound(gramian: View) -> Array:
    """Whether finite Gramians can be such, shape (...): for arrays whose values nobody has checked."""
    flat = gramian.xp.reshape(gramian.values, (-1, gramian.size, gramian.size))
    _, _, sound = equilibrate(gramian.xp, flat, precision_of(gramian.original))
    return gramian.xp.reshape(sound, gramian.batch_shape)


def by_formula(gramian: Any, nonfinite: str, formula: Callable[[View], Array]) -> Array:
    """Compute weights by a formula on finite float64 Gramians: what methods without a QP share.

    `formula` sees zeros where a Gramian holds NaN or infinity, whose weights are NaN afterwards.
    """
    matrix = view(gramian)
    check_values(matrix, nonfinite)
    return where_finite(matrix, 2, 0.0, lambda clean: formula(View(matrix.original, clean, matrix.xp)))


def where_finite(seen: Seen, axes: int, instead: float, formula: Callable[[Array], Array]) -> Array:
    """Compute rows (..., M) from the values of problems, each of which has that many axes.

    `formula` sees `instead` where a problem holds NaN or infinity, and its row is NaN afterwards. The result
    has the namespace, dtype and device of the caller's array.
    """
    xp, values = seen.xp, seen.values
    finite = xp.all(xp.isfinite(values), axis=tuple(range(-axes, 0)))
    clean = xp.where(finite[(..., *(None,) * axes)], values, xp.full_like(values, instead))
    rows = formula(clean)
    return restore(xp.where(finite[..., None], rows, xp.full_like(rows, math.nan)), seen.original)


def finish(weights: Array, gramian: View) -> Array:
    """Return float64 weights in the namespace, dtype and device of the caller's Gramian."""
    return restore(weights, gramian.original)
