"""mojd.solve: validate, choose a solver, run it, and hand back a Solution that certifies itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from mojd import _checks
from mojd._arrays import FLOAT64_PRECISION, Precision, is_on_device, to_float64
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.kernels.status import FIRST_REFUSAL, MAX_ITER, NONFINITE
from mojd.qp import NNQP, FlatProblem, Solution
from mojd.solvers._cuda.presence import is_cuda, takes
from mojd.solvers._kernels import scalar_solver
from mojd.solvers._registry import RawSolution, Solver, get_solver, registered_solvers

FLOAT64_TOLERANCE = FLOAT64_PRECISION.tolerance


def available_solvers() -> tuple[str, ...]:
    """Return the names of the solvers that can run here: whose packages and devices are there.

    Examples
    --------
    >>> import mojd
    >>> mojd.available_solvers()[:3]
    ('active_set', 'closed_form', 'array_api')
    """
    return tuple(solver.name for solver in registered_solvers() if solver.is_available())


def solve(problem: NNQP, solver: str = "auto", *, threads: int = 1, nonfinite: str = "raise") -> Solution:
    r"""Solve min over x ≥ 0 of ½ xᵀGx + qᵀx, and return minimisers that can be certified.

    .. math:: \operatorname*{arg\,min}_{x \in \mathbb{R}^K,\; x \ge 0} \tfrac12 x^\top G x + q^\top x

    Parameters
    ----------
    problem : NNQP
        One problem or a batch.
    solver : str, default 'auto'
        A name from :func:`available_solvers`. 'auto' takes closed forms for K ≤ 3 and the compiled
        active set beyond; on a CUDA device mojd's kernels for it, if CuPy is installed, and on any other
        device pivoting in the array's own namespace.
    threads : int, default 1
        How many threads share a batch. The result does not depend on it.
    nonfinite : {'raise', 'propagate'}
        What to do about NaN and infinity in a CPU array: raise an error, or return NaN with status
        NONFINITE. Arrays on a device always propagate, because looking would synchronise.

    Returns
    -------
    Solution
        `x` in the namespace, dtype and device of ``problem.gramian``, with status and certificates.

    Raises
    ------
    InvalidInputError
        If the Gramian is asymmetric, has a negative diagonal entry or entries too large for a PSD
        matrix, or the solver is unknown or does not take this K.
    NonFiniteError
        If there is NaN or infinity and `nonfinite` is 'raise'.
    MissingDependencyError
        If the solver's package is not installed.

    Notes
    -----
    Scale: replacing G by DGD and q by Dq, for D a diagonal of powers of two, changes x to D⁻¹x bit
    for bit. Cost: a few Cholesky factorisations of the passive block per right-hand side.

    Examples
    --------
    >>> import mojd
    >>> solution = mojd.solve(mojd.NNQP([[1.0, -1.0], [-1.0, 1.0]], [-1.0, -1.0]))
    >>> solution.status
    <Status.INFEASIBLE: 1>
    >>> solution.ray
    array([1., 1.])
    """
    if type(problem) is not NNQP:
        raise _not_a_problem(problem)
    if problem.is_plain and solver == "auto" and threads == 1 and nonfinite in ("raise", "propagate"):
        linear = problem.linear
        x = np.empty(problem.size)
        solve_one, floats, integers = scalar_solver(problem.size)
        code = solve_one(problem.gramian, linear, x, True, False, FLOAT64_TOLERANCE, 0.0, floats, integers)
        status = code & 255
        if status <= MAX_ITER and status != NONFINITE:
            return Solution(problem, x, status, code >> 8)
    _checks.check_nonfinite(nonfinite)
    _checks.check_threads(threads)
    on_device, traced = is_on_device(problem.gramian), problem.is_traced
    chosen = _choose(solver, problem, on_device, traced)
    if traced:
        # That file registers solvers when it is imported, after those of this one.
        from mojd.solvers.xla import require_double_precision

        require_double_precision(problem.gramian)
    precision = problem.precision
    flat = problem.flatten()
    if on_device:
        return Solution(problem, *chosen.solve(flat.gramian, flat.linear, threads, precision))
    if chosen.checks_values:
        raw = chosen.solve(flat.gramian, flat.linear, threads, precision)
        worst = int(raw.status.max(initial=0))
        if worst >= FIRST_REFUSAL or (nonfinite == "raise" and (raw.status == NONFINITE).any()):
            check_values(problem, nonfinite, precision)
        if worst >= FIRST_REFUSAL:
            _checks.refuse_indefinite(to_float64(problem.gramian), "gramian")
    else:
        check_values(problem, nonfinite, precision)
        raw = _solve_finite(chosen, flat, threads, precision)
    return Solution(problem, *raw)


def _not_a_problem(problem: Any) -> InvalidTypeError:
    return InvalidTypeError(
        f"problem must be an NNQP, got {type(problem).__name__}; build one with "
        "mojd.NNQP(gramian, linear) or, say, mojd.upgrad_problem(gramian)"
    )


def _automatic(problem: NNQP, on_device: bool, traced: bool) -> str:
    """Return the name of the solver that 'auto' stands for."""
    if traced:
        return "jax"
    if on_device:
        return "cuda" if takes(problem.gramian, problem.size) else "array_api"
    return "closed_form" if problem.size <= 3 else "active_set"


def _choose(name: str, problem: NNQP, on_device: bool, traced: bool) -> Solver:
    """Return the solver to use, or raise if it can't take this problem."""
    size = problem.size
    if name == "auto":
        name = _automatic(problem, on_device, traced)
    # An array that is on a GPU says enough about the presence of one.
    solver = get_solver(name, anywhere=name == "cuda" and on_device and is_cuda(problem.gramian))
    if solver.max_size is not None and size > solver.max_size:
        raise InvalidInputError(
            f"solver {name!r} takes K <= {solver.max_size}, but the gramian is {size} x {size}; "
            "use solver='auto'"
        )
    if traced and not solver.traceable:
        known = " or ".join(
            ["'auto'", *(repr(other.name) for other in registered_solvers() if other.traceable)]
        )
        raise InvalidInputError(
            f"solver {name!r} needs concrete arrays, but the gramian is a traced JAX value; use {known}"
        )
    if on_device and not traced and not solver.any_device:
        raise InvalidInputError(
            f"solver {name!r} runs on the CPU, but the gramian is on a device; use solver='auto', or "
            "move it first"
        )
    return solver


def check_values(problem: NNQP, nonfinite: str, precision: Precision) -> None:
    """Raise the error that says what is wrong with a problem on the CPU, if anything is."""
    gramian, linear = to_float64(problem.gramian), to_float64(problem.linear)
    if nonfinite == "raise":
        _checks.check_finite(gramian, "gramian")
        _checks.check_finite(linear, "linear")
    _checks.check_gramian_values(gramian, "gramian", *precision)


def _solve_finite(solver: Solver, flat: FlatProblem, threads: int, precision: Precision) -> RawSolution:
    """Run a solver that can't stand NaN on harmless stand-ins for the problems that hold any."""
    usable = np.isfinite(flat.gramian).all(axis=(1, 2))
    finite = usable[:, None] & np.isfinite(flat.linear).all(axis=2)
    if finite.all():
        return solver.solve(flat.gramian, flat.linear, threads, precision)
    gramian = np.where(usable[:, None, None], flat.gramian, np.eye(flat.gramian.shape[-1]))
    raw = solver.solve(gramian, np.where(finite[..., None], flat.linear, 0.0), threads, precision)
    return RawSolution(
        np.where(finite[..., None], raw.x, np.nan),
        np.where(finite, raw.status, NONFINITE).astype(np.int8),
        np.where(finite, raw.iterations, 0).astype(np.int32),
    )
