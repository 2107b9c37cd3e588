"""Calling the core's functions on JAX arrays: one compiled program for each function and its options."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mojd.errors import InvalidTypeError
from mojd.jax._double import Arrays, in_double_precision

# Stands in a call's options for the arrays, which are passed beside it.
_ARRAY = object()


@dataclass(frozen=True)
class _Call:
    """A function with its options; equal calls compute the same of the same arrays.

    Parameters
    ----------
    function : callable
        The function of the core.
    tree : PyTreeDef
        The structure of its arguments.
    options : tuple
        The leaves of the arguments, _ARRAY where there is an array.
    is_float : tuple of bool
        Which of the arrays can be differentiated.
    """

    function: Callable[..., Any]
    tree: Any
    options: tuple[Any, ...]
    is_float: tuple[bool, ...]

    def __call__(self, floats: Arrays, others: Arrays) -> Any:
        """Put the arrays in their places and call the function."""
        kinds, left, right = iter(self.is_float), iter(floats), iter(others)
        leaves = [
            (next(left) if next(kinds) else next(right)) if option is _ARRAY else option
            for option in self.options
        ]
        args, kwargs = jax.tree.unflatten(self.tree, leaves)
        return self.function(*args, **kwargs)


@functools.partial(jax.jit, static_argnums=0)
def _run(call: _Call, floats: Arrays, others: Arrays) -> Any:
    return in_double_precision(call, floats, others)


def call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a function of the core in a compiled program; arrays are traced, everything else is static.

    Raises
    ------
    InvalidTypeError
        If an argument is an array of another library.
    """
    name = function.__name__.lstrip("_")
    leaves, tree = jax.tree.flatten((args, kwargs))
    # A number of NumPy is a number.
    leaves = [leaf.item() if isinstance(leaf, np.generic) else leaf for leaf in leaves]
    are_arrays = [_is_array(leaf, name) for leaf in leaves]
    arrays = [jnp.asarray(leaf) for leaf, is_array in zip(leaves, are_arrays, strict=True) if is_array]
    is_float = tuple(bool(jnp.issubdtype(array.dtype, jnp.floating)) for array in arrays)
    options = tuple(_ARRAY if is_array else leaf for leaf, is_array in zip(leaves, are_arrays, strict=True))
    floats = tuple(array for array, kind in zip(arrays, is_float, strict=True) if kind)
    others = tuple(array for array, kind in zip(arrays, is_float, strict=True) if not kind)
    return _run(_Call(function, tree, options, is_float), floats, others)


def _is_array(leaf: Any, name: str) -> bool:
    """Whether a leaf is an array of JAX or NumPy; raise if it is one of another library."""
    if isinstance(leaf, jax.Array | np.ndarray):
        return True
    if hasattr(leaf, "__dlpack__") or hasattr(leaf, "__array_namespace__"):
        kind = f"{type(leaf).__module__}.{type(leaf).__name__}"
        raise InvalidTypeError(
            f"mojd.jax.{name} takes arrays of JAX or NumPy, got a {kind}; "
            f"mojd.{name} takes those of any library"
        )
    return False
