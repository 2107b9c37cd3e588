"""Solvers inside of JAX programs: jit, vmap, grad. JAX is imported when they are first called."""

from __future__ import annotations

from typing import Any

from mojd._arrays import Array, Precision, is_traced
from mojd.errors import InvalidTypeError
from mojd.solvers._registry import RawSolution, Solver, register


def require_double_precision(gramian: Array) -> None:
    """Raise if JAX can't trace float64 here."""
    from mojd.solvers._xla.precision import has_double_precision

    if not has_double_precision():
        raise InvalidTypeError(
            f"the traced gramian of shape {tuple(gramian.shape)} can't be solved in float64 here, because "
            "jax_enable_x64 is off: call mojd.jax.solve, which needs no such setting"
        )


def _solve(method: str, gramian: Array, linear: Array, precision: Precision) -> RawSolution:
    """Solve by a function of :mod:`mojd.solvers._xla.solve`, in the caller's program if there is one."""
    from mojd.solvers._xla import solve as xla

    if not is_traced(gramian) and not is_traced(linear):
        # Numbers that are on the CPU stay there, where there are kernels for them.
        name = "by_kernels" if method == "by_platform" else method
        return xla.solve_now(getattr(xla, name), gramian, linear, precision)
    return xla.solve_traced(getattr(xla, method), gramian, linear, precision)


def solve_xla(gramian: Array, linear: Array, threads: int, precision: Precision) -> RawSolution:
    """Solve by operations of XLA alone, on whatever device; the device decides about `threads`."""
    return _solve("by_pivoting", gramian, linear, precision)


def solve_jax(gramian: Array, linear: Array, threads: int, precision: Precision) -> RawSolution:
    """Solve by the compiled kernels where the program runs on the CPU, and by XLA elsewhere."""
    return _solve("by_platform", gramian, linear, precision)


def _prepare() -> Any:
    from mojd.solvers._kernels import handler_address

    return handler_address()


register(
    Solver(
        name="jax",
        solve=solve_jax,
        summary="inside of JAX programs: the compiled active set on the CPU, `xla` elsewhere; exact, any K",
        kkt_tolerance=1e-12,
        requires=("jax",),
        extra="jax",
        exact=True,
        traceable=True,
        prepare=_prepare,
    )
)
register(
    Solver(
        name="xla",
        solve=solve_xla,
        summary="block pivoting and an active set that XLA compiles for any device; exact",
        kkt_tolerance=1e-12,
        requires=("jax",),
        extra="jax",
        exact=True,
        traceable=True,
    )
)
