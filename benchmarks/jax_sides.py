"""What the benchmarks of the JAX adapter compare: UPGrad by mojd and by JAX's own QP solvers, under jit.

Imported by processes of one core in which JAX has float64 from the start: it reads how many threads it may
use when it is loaded, and jaxnnls chooses its tolerance then.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import gramians
import jax
import jax.numpy as jnp
import jaxnnls
import numpy as np
import qpax
from gramians import FloatArray
from timing import interleaved

import mojd.jax
from mojd.weightings import QuadraticWeighting, get_method

Array = jax.Array
# From a Gramian with a diagonal of ones and its row norms to weights: see `_lifted`.
Peer = Callable[[Array, Array], Array]
Call = Callable[[], Array]
Prepare = Callable[[Any], Call]

# So many iterations take qpax to a residual of 1e-12 on nearly all Gramians. It holds slacks above √ε,
# so that its own test of convergence does not see it: it would go on to its limit of 30.
QPAX_ITERATIONS = {3: 14, 8: 16, 32: 20, 128: 20}
# Random Gramians of 128 objectives, of which qpax takes a second each.
LARGE, FEW = 128, 3
MOST = 8


def _lifted(projections: Array, norms: Array) -> Array:
    """Return UPGrad's weights, given the projections of all unit vectors in units of gradients of norm 1."""
    return ((norms / norms.shape[-1]) @ projections) / norms


def upgrad_by_qpax(unit: Array, norms: Array, **options: Any) -> Array:
    """Compute UPGrad's weights by K programmes min vᵀGv over v ≥ eᵢ, mapped over i."""
    size = unit.shape[-1]
    zero, none, nothing = jnp.zeros(size), jnp.zeros((0, size)), jnp.zeros(0)

    def project(u: Array) -> Array:
        v: Array = qpax.solve_qp(unit, zero, none, nothing, -jnp.eye(size), -u, **options)[0]
        return v

    return _lifted(jax.vmap(project)(jnp.eye(size)), norms)


def upgrad_by_jaxnnls(unit: Array, norms: Array) -> Array:
    """Compute UPGrad's weights by K programmes min ½xᵀGx + (G·eᵢ)ᵀx over x ≥ 0, mapped over i."""

    def project(u: Array) -> Array:
        x: Array = jaxnnls.solve_nnls(unit, -unit @ u)[0]
        return u + x

    return _lifted(jax.vmap(project)(jnp.eye(unit.shape[-1])), norms)


def peers(size: int) -> dict[str, Peer]:
    """Return the peers by their names: qpax to its best, and to the tolerance that it comes with."""
    return {
        "qpax": partial(upgrad_by_qpax, solver_tol=1e-12, max_iter=QPAX_ITERATIONS[size]),
        "qpax to 1e-5": upgrad_by_qpax,
        "jaxnnls": upgrad_by_jaxnnls,
    }


def in_unit_norms(gramian: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return Gramians with a diagonal of ones and the norms of the rows.

    Free of charge for the peers, whose tolerances are absolute.
    """
    norms = np.sqrt(np.diagonal(gramian, axis1=-2, axis2=-1))
    norms = np.where(norms > 0, norms, 1.0)
    return gramian / norms[..., :, None] / norms[..., None, :], norms


def compiled(size: int, is_batch: bool) -> dict[str, Prepare]:
    """Return per side what makes a call of compiled code from one Gramian, or from a batch to be mapped over.

    What JAX gets are its own arrays.
    """
    own: dict[str, Callable[..., Array]] = {
        "mojd": mojd.jax.upgrad,
        "mojd in XLA": partial(mojd.jax.upgrad, solver="xla"),
    }
    sides = {name: _prepare(function, _as_it_is, is_batch) for name, function in own.items()}
    others = {name: _prepare(function, in_unit_norms, is_batch) for name, function in peers(size).items()}
    return sides | others


def _prepare(
    function: Callable[..., Array], inputs: Callable[[FloatArray], tuple[FloatArray, ...]], is_batch: bool
) -> Prepare:
    program = jax.jit(jax.vmap(function) if is_batch else function)

    def prepare(gramian: Any) -> Call:
        arrays = tuple(map(jnp.asarray, inputs(gramian)))
        # Programs run on their own until somebody waits.
        return lambda: program(*arrays).block_until_ready()

    return prepare


def _as_it_is(gramian: FloatArray) -> tuple[FloatArray, ...]:
    return (gramian,)


def _stack(size: int, origin: str, count: int) -> FloatArray:
    if origin == "recorded":
        found = gramians.recorded(size)
        return gramians.tiled(found, count) if count else found[:: -(-len(found) // _few(size))]
    return gramians.random(size, count or _few(size))


def _few(size: int) -> int:
    return FEW if size >= LARGE else MOST


def _worst_residual(weights: list[Array], stack: FloatArray) -> float:
    """Return the largest residual of all weights: mojd's certificates, in NumPy."""
    method = get_method("upgrad")
    assert isinstance(method, QuadraticWeighting) and method.residual is not None
    found = method.residual(np.stack([np.asarray(w, np.float64) for w in weights]), stack)
    return float(np.max(found))


def measure(size: int, origin: str, count: int, seconds: float, least: int) -> dict[str, Any]:
    """Time all sides in turns, and find out how exact each is.

    Parameters
    ----------
    size : int
        K.
    origin : {'random', 'recorded'}
        Where the Gramians are from.
    count : int
        How many of them to map over in one call; 0 for one per call.
    seconds, least
        As for :func:`timing.interleaved`.

    Returns
    -------
    dict
        ``seconds``: per side the median time of each call; ``residual``: per side its largest, and that of
        mojd for Gramians of float32; ``gramians``: how many different ones there were.
    """
    stack = _stack(size, origin, count)
    inputs = [stack] if count else list(stack)
    sides = compiled(size, is_batch=count > 0)
    calls = {(name, i): prepare(G) for name, prepare in sides.items() for i, G in enumerate(inputs)}
    residual: dict[str, float] = {}
    for name in sides:
        answers = [calls[name, i]() for i in range(len(inputs))]
        residual[name] = _worst_residual(answers, np.stack(inputs))
    single = [G.astype(np.float32) for G in inputs]
    for name in ("mojd", "mojd in XLA"):
        answers = [sides[name](G)() for G in single]
        residual[f"{name}, float32"] = _worst_residual(answers, np.stack(single).astype(np.float64))
    times = interleaved(calls, seconds, least)
    return {
        "seconds": {name: [times[name, i] for i in range(len(inputs))] for name in sides},
        "residual": residual,
        "gramians": len(stack),
    }


def main(case: str) -> None:
    """Measure one case, given and answered in JSON."""
    print(json.dumps(measure(**json.loads(case))))
