"""Loops that are part of the caller's program where JAX traces them, and Python's everywhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from mojd._arrays import Array, holds_traced, namespace

State = TypeVar("State", bound=tuple[Any, ...])


def iterate(
    state: State,
    advance: Callable[[State], State],
    goes_on: Callable[[State], Array],
    most: int,
    *,
    looks: bool = True,
) -> State:
    """Advance a state up to `most` times, while ``goes_on(state)`` is true somewhere.

    Parameters
    ----------
    state : tuple of arrays
        Of shapes and dtypes that stay as they are.
    advance : callable
        From a state to the next one. It leaves those problems of a batch alone that have ended.
    goes_on : callable
        From a state to an array of bools.
    most : int
        The number of times after which the loop ends anyway.
    looks : bool, default True
        Whether to end early outside of JAX's transformations: where arrays are on a device, that waits for
        it at every step.
    """
    if holds_traced(state):
        return _in_program(state, advance, goes_on, most)
    for _ in range(most):
        if looks:
            unfinished = goes_on(state)
            if not bool(namespace(unfinished).any(unfinished)):
                break
        state = advance(state)
    return state


class _Counted(NamedTuple):
    """A state and how many steps led to it."""

    count: Array
    state: Any


def _in_program(
    state: State, advance: Callable[[State], State], goes_on: Callable[[State], Array], most: int
) -> State:
    """Loop by an operation of XLA: compiled once, whatever the number of steps."""
    import jax.numpy as jnp
    from jax import lax

    found: _Counted = lax.while_loop(
        lambda now: (now.count < most) & jnp.any(goes_on(now.state)),
        lambda now: _Counted(now.count + 1, advance(now.state)),
        _Counted(jnp.int32(0), state),
    )
    result: State = found.state
    return result


def with_derivative(
    function: Callable[..., tuple[Array, Any]], derivative: Callable[..., Array], arrays: tuple[Array, ...]
) -> Array:
    """Return the first of what ``function(*arrays)`` returns, with a derivative if JAX traces an array.

    Parameters
    ----------
    function : callable
        From arrays to one array, and what else is known about it: None or floating-point arrays. It sees no
        array that it is not given.
    derivative : callable
        ``derivative(result, known, arrays, changes)``, linear in the changes of the arrays, to the change of
        the result: that of the equations which the result solves, not of the loop that found it.
    arrays : tuple of arrays
        In float64.
    """
    if not holds_traced(arrays):
        return function(*arrays)[0]
    import jax
    import jax.numpy as jnp

    differentiable = jax.custom_jvp(function)

    @differentiable.defjvp
    def _(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Any, Any]:
        result, known = differentiable(*primals)
        change = derivative(result, known, primals, tangents)
        return (result, known), (change, jax.tree.map(jnp.zeros_like, known))

    return differentiable(*arrays)[0]
