"""Float64 inside of programs in which JAX knows only float32, mapped and differentiated.

Without ``jax_enable_x64``, JAX can trace float64 operations in a context, but it maps them and transposes
their derivatives outside of it, where it would make float32 of everything. So what is computed in float64 is
opaque to JAX: a function whose mapped version is traced in the context too, and its derivative is a linear
map, of which each direction is such a function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import zero_from_primal

from mojd.errors import NotDifferentiableError
from mojd.solvers._xla.precision import double_precision, has_double_precision

Arrays = Sequence[Any]
# From arrays that can be differentiated, and others, to a tree of arrays. Two that are equal, and have the
# same hash, compute the same.
Function = Callable[[Arrays, Arrays], Any]


def in_double_precision(function: Function, floats: Arrays, others: Arrays) -> Any:
    """Call ``function(floats, others)`` where it can use float64; the results are of JAX's own dtypes."""
    if has_double_precision():
        with double_precision():
            return function(floats, others)
    return _narrowed(function, tuple(floats), tuple(others))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _narrowed(function: Function, floats: Arrays, others: Arrays) -> Any:
    return _opaque(function)(floats, others)


@functools.lru_cache(maxsize=1024)
def _opaque(function: Function) -> Callable[[Arrays, Arrays], Any]:
    """Return a function that is traced in float64, also where it is mapped."""

    @custom_vmap
    def evaluate(floats: Arrays, others: Arrays) -> Any:
        with double_precision():
            return jax.tree.map(lambda value: _narrow(jnp.asarray(value)), function(floats, others))

    @evaluate.def_vmap
    def _rule(size: int, mapped: Any, floats: Arrays, others: Arrays) -> tuple[Any, Any]:
        first, second = (tuple(0 if is_mapped else None for is_mapped in part) for part in mapped)
        result = _opaque(_Mapped(function, (first, second), size))(floats, others)
        return result, jax.tree.map(lambda _: True, result)

    return evaluate


def _narrow(value: Any) -> Any:
    return value.astype(jnp.float32) if value.dtype == jnp.float64 else value


@dataclass(frozen=True)
class _Mapped:
    """A function along a new first axis, of a given size, of some of its arrays."""

    function: Function
    axes: tuple[Any, Any]
    size: int

    def __call__(self, floats: Arrays, others: Arrays) -> Any:
        mapped = jax.vmap(self.function, in_axes=self.axes, axis_size=self.size)
        return mapped(tuple(floats), tuple(others))


@dataclass(frozen=True)
class _Smooth:
    """Those results of a function that can be differentiated, of its first arrays."""

    function: Function
    places: tuple[bool, ...]

    def __call__(self, floats: Arrays, others: Arrays) -> list[Any]:
        leaves = jax.tree.leaves(self.function(floats, others))
        return [
            _narrow(jnp.asarray(leaf))
            for leaf, is_smooth in zip(leaves, self.places, strict=True)
            if is_smooth
        ]


@dataclass(frozen=True)
class _Pushed:
    """The derivative of a function along a direction, both packed; the direction comes last of the floats."""

    function: _Smooth

    def __call__(self, floats: Arrays, others: Arrays) -> Any:
        *at, change = floats
        direction = tuple(_unpack(change, at))
        _, image = jax.jvp(lambda *own: self.function(own, others), tuple(at), direction)
        return _pack(image)


@dataclass(frozen=True)
class _Pulled:
    """The transposed derivative of a function, packed; the packed cotangents come last of the floats."""

    function: _Smooth

    def __call__(self, floats: Arrays, others: Arrays) -> Any:
        *at, cotangent = floats
        results, pull = jax.vjp(lambda *own: self.function(own, others), *at)
        return _pack(pull(_unpack(cotangent, results)))


@_narrowed.defjvp
def _tangent(function: Function, primals: tuple[Arrays, Arrays], tangents: tuple[Arrays, Arrays]) -> Any:
    floats, others = primals
    result = _narrowed(function, floats, others)
    leaves, tree = jax.tree.flatten(result)
    places = tuple(bool(jnp.issubdtype(leaf.dtype, jnp.floating)) for leaf in leaves)
    outputs = [leaf for leaf, is_smooth in zip(leaves, places, strict=True) if is_smooth]
    found = iter(_linear_map(_Smooth(function, places), floats, others, tangents[0], outputs))
    changes = [
        next(found) if is_smooth else zero_from_primal(leaf)
        for leaf, is_smooth in zip(leaves, places, strict=True)
    ]
    return result, jax.tree.unflatten(tree, changes)


def _linear_map(
    function: _Smooth, floats: Arrays, others: Arrays, change: Arrays, outputs: Arrays
) -> list[Any]:
    """Return the derivative of a function along `change`, as JAX can transpose and map it.

    ``lax.custom_linear_solve`` can do both, so the map is written as the solution of a linear system: solving
    turns the vector (change, anything) into (0, J·change), and transposed, (anything, ȳ) into (Jᵀȳ, 0).
    """
    split, rest = sum(value.size for value in floats), sum(value.size for value in outputs)

    def forward(_: Any, right: Any) -> Any:
        image = _opaque(_Pushed(function))((*floats, right[:split]), others)
        return jnp.concatenate([jnp.zeros(split, jnp.float32), image])

    def backward(_: Any, right: Any) -> Any:
        image = _opaque(_Pulled(function))((*floats, right[split:]), others)
        return jnp.concatenate([image, jnp.zeros(rest, jnp.float32)])

    def system(solution: Any) -> Any:
        # Evaluated only to differentiate the map by where it is taken.
        return solution * _one_without_derivative(floats)

    right = jnp.concatenate([_pack(change), jnp.zeros(rest, jnp.float32)])
    return _unpack(lax.custom_linear_solve(system, right, forward, backward)[split:], outputs)


def _pack(values: Arrays) -> Any:
    """Join arrays in one vector: what is linear in one of them is so in all."""
    return jnp.concatenate([jnp.ravel(value).astype(jnp.float32) for value in values])


def _unpack(vector: Any, like: Arrays) -> list[Any]:
    """Cut a vector into arrays of the given shapes and dtypes."""
    ends = np.cumsum([value.size for value in like]).tolist()
    return [
        vector[end - value.size : end].reshape(value.shape).astype(value.dtype)
        for value, end in zip(like, ends, strict=True)
    ]


@jax.custom_jvp
def _one_without_derivative(at: Arrays) -> Any:
    return jnp.float32(1.0)


@_one_without_derivative.defjvp
def _(primals: Any, tangents: Any) -> Any:
    raise NotDifferentiableError(
        "second derivatives need float64 outside of mojd too: call jax.config.update('jax_enable_x64', True)"
    )
