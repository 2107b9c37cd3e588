"""Run a solver that takes one problem at a time over a batch of them.

Other libraries solve one QP a call. An adapter states two things: how one Gramian is set up, and
how one right-hand side is then solved. What all of them need around that is here, once:

- rows of zeros are dropped, and found unbounded where the linear term is negative;
- the Gramian is scaled to a diagonal in [1/2, 2) and the linear term to a largest entry in
  [1/2, 1), both by powers of two, so that a library's absolute tolerances mean the same on every
  problem, and the scaled problem is the given one without a rounding error;
- the answer is scaled back and its rounding below zero is cut off;
- an answer that is no solution at all counts as a failure, whatever the library calls it.

The thread count of :class:`~mojd.solvers._registry.Solver` has no effect on these solvers: problems
are solved one after the other on the calling thread, so that their times compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mojd._arrays import FloatArray, Precision
from mojd.kernels.status import INFEASIBLE, MAX_ITER, OPTIMAL
from mojd.solvers._registry import RawSolution, SolveFunction

# Some libraries return noise as solved: on singular Gramians, and on exact ties. A KKT residual above
# this is no matter of digits. How good an answer below it is, the certificates of Solution say.
_GROSSLY_WRONG = 1e-3


class Answer(NamedTuple):
    """What a library says about one problem.

    Attributes
    ----------
    x : float64 array, shape (K,)
        The minimiser, the best known point if `status` is MAX_ITER, or the ray along which the
        objective falls without bound if it is INFEASIBLE. NaN where the library gives none.
    status : int
        OPTIMAL, INFEASIBLE or MAX_ITER.
    iterations : int
        Whatever the library counts, 0 if it doesn't.
    """

    x: FloatArray
    status: int
    iterations: int = 0


SolveOne = Callable[[FloatArray], Answer]
SetUp = Callable[[FloatArray], SolveOne]


def unknown(size: int) -> FloatArray:
    """Return the vector of NaN that stands for an answer which the library does not give."""
    return np.full(size, np.nan)


def give_up(linear: FloatArray) -> Answer:
    """Answer for a library that refuses the Gramian."""
    return Answer(unknown(linear.size), MAX_ITER)


def rowwise(set_up: SetUp) -> SolveFunction:
    """Turn a solver of one problem into one that the registry takes.

    Parameters
    ----------
    set_up : callable
        Maps a scaled Gramian, shape (K, K) with K ≥ 1, to a function that maps a scaled linear term,
        shape (K,) and not zero, to an :class:`Answer`. Called once per Gramian.

    Returns
    -------
    callable
        The `solve` of a :class:`~mojd.solvers._registry.Solver`.
    """

    def solve(gramian: FloatArray, linear: FloatArray, _threads: int, _precision: Precision) -> RawSolution:
        x = np.zeros(linear.shape)
        status = np.full(linear.shape[:2], OPTIMAL, np.int8)
        iterations = np.zeros(linear.shape[:2], np.int32)
        for batch, (one_gramian, right_hand_sides) in enumerate(zip(gramian, linear, strict=True)):
            is_zero = np.diagonal(one_gramian) == 0
            support = slice(None) if not is_zero.any() else np.flatnonzero(~is_zero)
            scaled, scale = equilibrate(np.ascontiguousarray(one_gramian[support][:, support]))
            solve_one = set_up(scaled) if scale.size else None
            for row, one_linear in enumerate(right_hand_sides):
                unbounded = is_zero & (one_linear < 0)
                if unbounded.any():
                    x[batch, row, unbounded.argmax()] = 1.0
                    status[batch, row] = INFEASIBLE
                elif solve_one is not None:
                    answer = _solve_scaled(solve_one, scaled, one_linear[support], scale)
                    x[batch, row, support] = answer.x
                    status[batch, row] = answer.status
                    iterations[batch, row] = answer.iterations
        return RawSolution(x, status, iterations)

    return solve


def equilibrate(gramian: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Scale a Gramian by powers of two to a diagonal in [1/2, 2).

    Parameters
    ----------
    gramian : float64 array, shape (K, K)
        With a positive diagonal.

    Returns
    -------
    scaled : float64 array, shape (K, K)
        ``scale[:, None] * gramian * scale``, exactly.
    scale : float64 array, shape (K,)
        Powers of two.

    Examples
    --------
    >>> scaled, scale = equilibrate(np.array([[16.0, 2.0], [2.0, 1.0]]))
    >>> scale.tolist(), np.diagonal(scaled).tolist()
    ([0.25, 1.0], [1.0, 1.0])
    """
    _, exponent = np.frexp(np.diagonal(gramian))
    scale = np.ldexp(1.0, -(exponent // 2))
    return gramian * scale[:, None] * scale, scale


def _solve_scaled(solve_one: SolveOne, gramian: FloatArray, linear: FloatArray, scale: FloatArray) -> Answer:
    """Solve for one right-hand side of a scaled Gramian and undo the scaling."""
    scaled = scale * linear
    largest = np.abs(scaled).max()
    if largest == 0:
        return Answer(np.zeros_like(scaled), OPTIMAL)
    _, exponent = math.frexp(largest)
    scaled = np.ldexp(scaled, -exponent)
    answer = solve_one(scaled)
    x = np.maximum(answer.x, 0.0)
    status = answer.status
    if status == OPTIMAL and not _is_near_a_solution(gramian, scaled, x):
        status = MAX_ITER
    elif status == INFEASIBLE and not np.isnan(x).any():
        # A ray has no length of its own: 1 at its largest entry, before the scaling is undone.
        ray = x / max(float(x.max()), float(np.finfo(np.float64).tiny))
        if _is_near_a_ray(gramian, scaled, ray):
            return Answer(ray * scale, INFEASIBLE, answer.iterations)
        x, status = unknown(x.size), MAX_ITER
    return Answer(np.ldexp(x * scale, exponent), status, answer.iterations)


def _is_near_a_solution(gramian: FloatArray, linear: FloatArray, x: FloatArray) -> bool:
    """Whether x meets the KKT conditions of a scaled problem roughly; no if it is not finite."""
    if not np.isfinite(x).all():
        return False
    return bool(np.abs(np.minimum(x, gramian @ x + linear)).max() <= _GROSSLY_WRONG)


def _is_near_a_ray(gramian: FloatArray, linear: FloatArray, ray: FloatArray) -> bool:
    """Whether the objective of a scaled problem falls along a ray, and keeps falling, roughly."""
    return bool(np.abs(gramian @ ray).max() <= _GROSSLY_WRONG and linear @ ray < 0)
