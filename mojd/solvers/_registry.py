"""The registry of solvers: what a solver file must say about itself.

A solver is one function on flat float64 arrays. Everything else (validation, broadcasting, other
array libraries, certificates) happens around it, once, for all of them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from mojd._arrays import Precision
from mojd.errors import InvalidInputError, MissingDependencyError


class RawSolution(NamedTuple):
    """What a solver returns for B Gramians with R right-hand sides each.

    Attributes
    ----------
    x : float64 array, shape (B, R, K)
        The minimisers. Where ``status`` is INFEASIBLE, the ray along which the objective falls
        without bound (NaN if the solver gives none); where it is NONFINITE, NaN.
    status : int8 array, shape (B, R)
        Values of :class:`mojd.Status`.
    iterations : int32 array, shape (B, R)
        Whatever the solver counts as an iteration.
    """

    x: Any
    status: Any
    iterations: Any


SolveFunction = Callable[[Any, Any, int, Precision], RawSolution]


def _nothing() -> None:
    """Prepare nothing."""


def _no_obstacle() -> str:
    """Report that nothing is in the way."""
    return ""


@dataclass(frozen=True, slots=True)
class Solver:
    """One QP backend.

    Parameters
    ----------
    name : str
        What users write in ``solve(problem, solver=name)``.
    solve : callable
        ``solve(gramian (B, K, K), linear (B, R, K), threads, precision) -> RawSolution``. Inputs
        are float64, C-contiguous and, unless `checks_values`, finite and symmetric with a
        non-negative diagonal; they may be read-only.
    summary : str
        One line for tables.
    kkt_tolerance : float
        The scale-free KKT residual that the solver reaches on well-posed problems. The contract
        tests hold it to this.
    requires : tuple of str
        The modules that it imports beyond mojd's own requirements.
    extra : str
        The pip extra that installs them.
    max_size : int or None
        The largest K that it takes.
    rank_deficient : bool
        Whether it solves problems whose Gramian is singular.
    any_device : bool
        Whether it takes arrays of any array-API namespace, on any device, instead of NumPy's.
    exact : bool
        Whether it solves the hard families of the contract tests to rounding.
    checks_values : bool
        Whether it looks for NaN and for what is no Gramian itself and reports a status for it.
    traceable : bool
        Whether it takes traced values of JAX.
    obstacle : callable
        Returns why the solver can't run in this process although its packages are installed, or ''.
    prepare : callable
        Loads or compiles what the solver needs at any K, so that the comparison need not time that.
    """

    name: str
    solve: SolveFunction
    summary: str
    kkt_tolerance: float
    requires: tuple[str, ...] = ()
    extra: str = ""
    max_size: int | None = None
    rank_deficient: bool = True
    any_device: bool = False
    exact: bool = False
    checks_values: bool = False
    traceable: bool = False
    obstacle: Callable[[], str] = _no_obstacle
    prepare: Callable[[], object] = _nothing

    def is_installed(self) -> bool:
        """Whether everything that the solver imports is installed."""
        return all(importlib.util.find_spec(module) is not None for module in self.requires)

    def is_available(self) -> bool:
        """Whether the solver can run here and now."""
        return not self.missing()

    def missing(self) -> str:
        """Return what the solver would need to run here, or ''."""
        return self.obstacle() if self.is_installed() else f"pip install 'mojd[{self.extra}]'"


_SOLVERS: dict[str, Solver] = {}


def register(solver: Solver) -> Solver:
    """Add `solver` to the registry under its name, once."""
    if solver.name in _SOLVERS:
        raise InvalidInputError(f"a solver named {solver.name!r} is already registered")
    _SOLVERS[solver.name] = solver
    return solver


def registered_solvers() -> tuple[Solver, ...]:
    """Return all registered solvers, installed or not, in the order of registration."""
    return tuple(_SOLVERS.values())


def get_solver(name: str, *, anywhere: bool = False) -> Solver:
    """Return the solver called `name`; raise an error that says what to do if it can't run.

    `anywhere` asks for its packages alone.
    """
    try:
        solver = _SOLVERS[name]
    except KeyError:
        known = ", ".join(_SOLVERS)
        raise InvalidInputError(f"solver={name!r} is not known; choose 'auto' or one of: {known}") from None
    if not solver.is_installed():
        raise MissingDependencyError(
            f"solver {name!r} needs the package(s) {', '.join(solver.requires)}: "
            f"pip install 'mojd[{solver.extra}]'"
        )
    if not anywhere and solver.obstacle():
        raise MissingDependencyError(f"solver {name!r} can't run here: {solver.obstacle()}")
    return solver
