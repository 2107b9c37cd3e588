"""The differentiable weightings with all their array arguments, in JAX and in PyTorch, and problems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import mojd
import mojd.jax

Array = jax.Array
Floats = NDArray[np.float64]
Rng = np.random.Generator


def conflicting(*shape: int, seed: int = 0) -> Floats:
    """Return gradients of different lengths of which some conflict: active sets vary from draw to draw."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal(shape)
    found: Floats = (rows - 0.4 * rows.mean(axis=-2, keepdims=True)) * rng.uniform(0.5, 2.0, (*shape[:-1], 1))
    return found


def gramian_of(J: Floats) -> Floats:
    """Return J Jᵀ, symmetric to the last bit."""
    G = J @ J.mT
    return 0.5 * (G + G.mT)


def gramians(*shape: int, seed: int = 0) -> Floats:
    """Return Gramians (..., K, K) of gradients in conflict."""
    return gramian_of(conflicting(*shape, shape[-1] + 4, seed=seed))


@dataclass(frozen=True)
class Case:
    """A weighting and what its arguments beside the Gramian are.

    Attributes
    ----------
    call : callable
        ``call(module, G, *others, **options)`` for the modules mojd, mojd.jax and mojd.torch.
    others : callable
        ``others(rng, batch, K)`` draws the other array arguments.
    """

    call: Callable[..., Any]
    others: Callable[[Rng, tuple[int, ...], int], tuple[Floats, ...]] = lambda rng, batch, K: ()

    def arguments(self, *shape: int, seed: int = 0) -> tuple[Floats, ...]:
        """Draw all arguments for Gramians of shape (..., K, K), given as (..., K)."""
        rng = np.random.default_rng([seed, *shape])
        return gramians(*shape, seed=seed), *self.others(rng, shape[:-1], shape[-1])


def _preference(rng: Rng, batch: tuple[int, ...], K: int) -> tuple[Floats, ...]:
    return (rng.uniform(0.1, 2.0, (*batch, K)),)


def _taus_and_scales(rng: Rng, batch: tuple[int, ...], K: int) -> tuple[Floats, ...]:
    return rng.uniform(0.1, 0.6, (*batch, K - 1)), rng.uniform(0.5, 2.0, (*batch, K))


def _rows(rng: Rng, batch: tuple[int, ...], K: int) -> tuple[Floats, ...]:
    return (rng.standard_normal((*batch, 3, K)),)


CASES: dict[str, Case] = {
    "upgrad": Case(lambda m, G, **options: m.upgrad(G, **options)),
    "upgrad, preferring": Case(lambda m, G, u, **options: m.upgrad(G, u, **options), _preference),
    "dualproj": Case(lambda m, G, **options: m.dualproj(G, **options)),
    "dualproj, preferring": Case(lambda m, G, u, **options: m.dualproj(G, u, **options), _preference),
    "mgda": Case(lambda m, G, **options: m.mgda(G, **options)),
    "pcd": Case(lambda m, G, **options: m.pcd(G, 0.3, **options)),
    "pcd, scaled": Case(
        lambda m, G, tau, scales, **options: m.pcd(G, tau, scales=scales, **options), _taus_and_scales
    ),
    "pcd, rescaled": Case(
        lambda m, G, tau, scales, **options: m.pcd(G, tau, scales=scales, rescale=True, **options),
        _taus_and_scales,
    ),
    "project": Case(lambda m, G, U, **options: m.project(U, G, **options), _rows),
}
# XLA takes seconds to compile its own solver, which the methods share: one of them will do.
BY_XLA = ("pcd, rescaled",)
PATHS = [*((name, "auto") for name in CASES), *((name, "xla") for name in BY_XLA)]


def weights_of(name: str, solver: str = "auto") -> Callable[..., Array]:
    """Return the function of JAX, from the Gramian and the other arguments to weights."""
    call = CASES[name].call
    # Not all take `solver`, and for the default none has to.
    options = {} if solver == "auto" else {"solver": solver}
    return lambda *arguments: call(mojd.jax, *arguments, **options)


def symmetric(weights: Callable[..., Array]) -> Callable[..., Array]:
    """From any square matrix to the weights of its symmetric part."""
    return lambda G, *others: weights(0.5 * (G + jnp.matrix_transpose(G)), *others)


def expected(name: str, *arguments: Any) -> Floats:
    """Return the weights by the core, in NumPy and float64."""
    doubles = [np.asarray(argument, np.float64) for argument in arguments]
    weights: Floats = CASES[name].call(mojd, *doubles)
    return weights


def random_cotangent(*shape: int) -> Floats:
    """Return numbers to multiply weights with, for a scalar to differentiate."""
    return np.random.default_rng([7, *shape]).standard_normal(shape)
