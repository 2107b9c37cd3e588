"""The process in which one solver runs, so that a call that does not return can be stopped.

The comparison starts it with :func:`main`; the two exchange pickled messages over the process's own
stdin and stdout. Threads are limited to one by the environment that the process is started with.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from mojd.compare.problems import FloatArray
from mojd.compare.timing import time_call
from mojd.qp import Solution
from mojd.solvers import Solver, get_solver
from mojd.status import Status
from mojd.weightings import QuadraticWeighting, registered_programmes
from mojd.weightings._shared import view


@dataclass(frozen=True, slots=True)
class Start:
    """Ask the worker to import a solver and to solve one small problem, untimed.

    Attributes
    ----------
    solver : str
        Its name.
    module : str
        The module that registers it.
    method : str
        The weighting whose problems will come.
    tolerance : float
        What a ray must meet to prove a problem infeasible.
    """

    solver: str
    module: str
    method: str
    tolerance: float


@dataclass(frozen=True, slots=True)
class Pass:
    """Ask for one timed solve of each Gramian.

    Attributes
    ----------
    gramians : list of floating-point arrays, shape (K, K)
        The Gramians.
    certify : bool
        Whether to send the solutions back, with their residuals.
    seconds : float
        No call is begun that would likely end later than this.
    """

    gramians: list[FloatArray]
    certify: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """Report what became of one Gramian.

    Attributes
    ----------
    index : int
        Its place in the pass.
    microseconds : float
        The median time of one call; NaN if it raised.
    weights : float64 array, shape (K,), or None
        What the method makes of the solution, if asked for.
    status : Status
        The worst status among the right-hand sides.
    kkt_residual : float
        The largest scale-free KKT residual among them; NaN if one has no solution.
    proves_infeasible : bool
        Whether a returned ray proves the problem infeasible.
    error : str
        The exception, if the call raised one.
    """

    index: int
    microseconds: float
    weights: FloatArray | None = None
    status: Status = Status.OPTIMAL
    kkt_residual: float = np.nan
    proves_infeasible: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """Report the end of a start or a pass.

    Attributes
    ----------
    error : str
        Why the solver can't be started, if it can't.
    """

    error: str = ""


def one_line(error: BaseException) -> str:
    """Describe an exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def ray_is_valid(gramian: FloatArray, linear: FloatArray, ray: FloatArray, tolerance: float) -> bool:
    """Tell whether a ray proves that the objective is unbounded below.

    Parameters
    ----------
    gramian : float64 array, shape (K, K)
        G.
    linear : float64 array, shape (K,)
        q.
    ray : float64 array, shape (K,)
        The direction r that is claimed to satisfy r ≥ 0, Gr = 0 and qᵀr < 0.
    tolerance : float
        How small max|Gr| must be against −qᵀr, both scale-free.

    Returns
    -------
    bool
        False if any entry isn't finite.
    """
    if not np.all(np.isfinite(ray)) or np.any(ray < 0):
        return False
    diagonal = np.diagonal(gramian)
    norms = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled_linear = linear / norms
    descent = -float(linear @ ray)
    largest = float(np.max(np.abs(scaled_linear), initial=0.0))
    length = float(np.sum(norms * ray))
    curvature = float(np.max(np.abs(gramian @ ray / norms), initial=0.0))
    return descent > tolerance * largest * length and curvature <= tolerance * length


def main() -> None:
    """Answer requests from stdin until it closes."""
    # Ctrl-C reaches every process of the terminal; the comparison decides what to stop.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What a solver prints must not mix with the messages.
    os.dup2(2, 1)
    with incoming, outgoing, contextlib.suppress(EOFError, BrokenPipeError):
        start: Start = pickle.load(incoming)
        method = next(known for known in registered_programmes() if known.name == start.method)
        _send(outgoing, _set_up(start, method))
        while True:
            for message in _run(pickle.load(incoming), start, method):
                _send(outgoing, message)


def _send(outgoing: BinaryIO, message: Answer | Done) -> None:
    pickle.dump(message, outgoing, protocol=pickle.HIGHEST_PROTOCOL)
    outgoing.flush()


def _set_up(start: Start, method: QuadraticWeighting) -> Done:
    """Import the solver and solve a first problem, so that compilation isn't timed."""
    try:
        importlib.import_module(start.module)
        solver = get_solver(start.solver)
        solver.prepare()
        answer = _solve_one(0, np.array([[2.0, 1.0], [1.0, 2.0]]), False, solver, method, 0.0)
    except Exception as error:
        return Done(one_line(error))
    return Done(answer.error)


def _run(request: Pass, start: Start, method: QuadraticWeighting) -> Iterator[Answer | Done]:
    """Solve the Gramians of a pass one after the other while time is left."""
    solver = get_solver(start.solver)
    began = time.perf_counter()
    slowest = 0.0
    for index, gramian in enumerate(request.gramians):
        call_began = time.perf_counter()
        if call_began - began + slowest > request.seconds:
            break
        yield _solve_one(index, gramian, request.certify, solver, method, start.tolerance)
        slowest = max(slowest, time.perf_counter() - call_began)
    yield Done()


def _solve_one(
    index: int,
    gramian: FloatArray,
    certify: bool,
    solver: Solver,
    method: QuadraticWeighting,
    tolerance: float,
) -> Answer:
    """Time a solver's own function on arrays that are checked and ready, and certify its solution."""
    problem = method.problem(gramian)
    flat, precision = problem.flatten(), problem.precision
    try:
        raw, microseconds = time_call(lambda: solver.solve(flat.gramian, flat.linear, 1, precision))
        if not certify:
            return Answer(index, microseconds)
        solution = Solution(problem, *raw)
        return Answer(
            index,
            microseconds,
            weights=method.lift(solution.x_float64, view(gramian)),
            status=Status(int(raw.status.max())),
            kkt_residual=float(np.max(solution.kkt_residual)),
            proves_infeasible=any(
                ray_is_valid(flat.gramian[0], linear, ray, tolerance)
                for linear, ray, status in zip(flat.linear[0], raw.x[0], raw.status[0], strict=True)
                if status == Status.INFEASIBLE
            ),
        )
    except Exception as error:
        # Whatever a library raises is that solver's failure on this problem, and a row of the table.
        return Answer(index, np.nan, error=one_line(error))
