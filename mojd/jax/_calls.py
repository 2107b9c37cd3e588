"""What is differentiated and what it is called with: parameters, batches, and parts of batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.jax._meshes import Names, names_of
from mojd.jax.gradients import require_inexact


class Options(NamedTuple):
    """How losses are differentiated; see :func:`mojd.jax.value_and_direction`."""

    has_aux: bool = False
    per_example: bool = False
    micro_batches: int | None = None
    sequential: bool = False
    axis_name: Any = None
    batch_axes: Names = ()


class Call(NamedTuple):
    """One call of the losses."""

    params: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def check_losses(losses: Any, per_example: bool) -> Any:
    """Return the losses: a function, or a tuple of them."""
    if callable(losses):
        return losses
    if isinstance(losses, str) or not isinstance(losses, Sequence):
        raise InvalidTypeError(
            f"losses must be a function or a sequence of functions, got {type(losses).__name__}"
        )
    if per_example:
        raise InvalidTypeError(
            "with per_example=True, losses must be one function of the parameters and one example; got a "
            f"sequence of {len(losses)}"
        )
    if not losses:
        raise InvalidInputError("losses is empty: pass a function for each objective")
    for index, loss in enumerate(losses):
        if not callable(loss):
            raise InvalidTypeError(f"losses[{index}] must be a function, got {type(loss).__name__}")
    return tuple(losses)


def check_options(
    has_aux: bool,
    per_example: bool,
    micro_batches: int | None,
    sequential: bool,
    axis_name: Any,
    batch_axis_name: Any,
) -> Options:
    """Return the options together, or say what is wrong with them."""
    if micro_batches is not None and (
        isinstance(micro_batches, bool)
        or not isinstance(micro_batches, int | np.integer)
        or micro_batches < 1
    ):
        raise InvalidInputError(f"micro_batches must be an integer of at least 1, got {micro_batches!r}")
    return Options(
        bool(has_aux),
        bool(per_example),
        micro_batches,
        bool(sequential),
        axis_name,
        names_of(batch_axis_name, "batch_axis_name"),
    )


def check_params(params: Any) -> None:
    """Raise unless there is a parameter, and all of them have gradients."""
    found = jax.tree_util.tree_leaves_with_path(params)
    if not found:
        raise InvalidInputError("params has no leaves: there is nothing to train")
    for path, leaf in found:
        require_inexact(leaf, f"params{jax.tree_util.keystr(path)}")


def split_result(found: Any, has_aux: bool, name: str) -> tuple[Any, Any]:
    """Return what a loss function returned as a value and what comes with it."""
    if not has_aux:
        return found, None
    if not isinstance(found, tuple) or len(found) != 2:
        raise InvalidTypeError(
            f"with has_aux=True, {name} must return a pair (loss, aux), and returned {type(found).__name__}"
        )
    return found


def as_values(value: Any, name: str, ndim: int, advice: str) -> Array:
    """Return losses as an array of real floating-point numbers with `ndim` axes."""
    if value is None or isinstance(value, tuple | list | dict):
        raise InvalidTypeError(f"{name} returned {type(value).__name__}; {advice}")
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InvalidTypeError(f"{name} returned dtype {array.dtype}; losses must be real numbers")
    if array.ndim != ndim or 0 in array.shape:
        raise InvalidInputError(f"{name} returned shape {array.shape}; {advice}")
    return array


def batch_size(args: tuple[Any, ...], why: str) -> int:
    """Return the length of the first axis that all arrays among the arguments have in common."""
    size: int | None = None
    for path, leaf in jax.tree_util.tree_leaves_with_path(args):
        # The parameters are argument 0 of the function that the user calls.
        name = f"argument {path[0].idx + 1}{jax.tree_util.keystr(path[1:])}"
        shape = jnp.shape(leaf)
        if not shape or shape[0] == 0:
            raise InvalidInputError(
                f"{name} has shape {shape}: {why} its first axis must be the examples; pass what they "
                "share by name, as a keyword argument"
            )
        if size is not None and shape[0] != size:
            raise InvalidInputError(
                f"{name} has {shape[0]} examples along its first axis, the arguments before it {size}"
            )
        size = shape[0]
    if size is None:
        raise InvalidInputError(f"no argument but the parameters was given: {why} there must be examples")
    return size


def split(args: tuple[Any, ...], parts: int, size: int) -> tuple[Any, ...]:
    """Return arguments (B, ...) as (parts, B / parts, ...); part c has the examples c, c + parts, ...

    With parts interleaved, an axis that is sharded stays so: every device has its share of every part.
    """
    if size % parts:
        raise InvalidInputError(
            f"micro_batches={parts} does not divide the {size} examples: all parts must be of one size"
        )

    def by_part(leaf: Any) -> Array:
        array = jnp.asarray(leaf)
        return jnp.moveaxis(array.reshape(size // parts, parts, *array.shape[1:]), 1, 0)

    found: tuple[Any, ...] = jax.tree.map(by_part, args)
    return found


def join(tree: Any) -> Any:
    """Undo :func:`split` on a pytree of arrays (parts, B / parts, ...)."""

    def in_order(leaf: Array) -> Array:
        return jnp.moveaxis(leaf, 0, 1).reshape(-1, *leaf.shape[2:])

    return jax.tree.map(in_order, tree)
