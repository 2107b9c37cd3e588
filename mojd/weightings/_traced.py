"""The way of traced JAX values: from a public function to :mod:`mojd.jax`, and back to its formula."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from mojd._arrays import holds_traced, is_array, is_traced

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def as_before(part: Any, before: Any) -> Any:
    """Return a part of a new state in the dtype of the old one if it is traced: ``lax.scan`` insists."""
    return part.astype(before.dtype) if is_traced(part) and is_array(before) else part


def traceable(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Let a method take traced values of JAX.

    Its formula must do without the numbers, as it does for arrays on a device: there is no check of values,
    no Python that depends on them, and NaN propagates. It is compiled with float64 inside, whatever JAX is
    set to, and its derivative is that of the formula. Whatever
    ``nonfinite`` says: a program can't raise.
    """

    @functools.wraps(function)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if "jax" in sys.modules and (
            any(holds_traced(value) for value in args)
            or any(holds_traced(value) for value in kwargs.values())
        ):
            # Adapters stand on top of methods, so that this one is looked up when it is called.
            result: Result = importlib.import_module("mojd.jax._call").call(function, args, kwargs)
            return result
        return function(*args, **kwargs)

    return wrapper
