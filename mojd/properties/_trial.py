"""Find out how a method is to be called: by its registration, or by trying it on small examples."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from mojd._arrays import FloatArray
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.properties._signatures import EMPTY, options_of
from mojd.properties._subject import Library, Subject, Takes, as_library, as_vector, seeded
from mojd.weightings import LossWeighting, Method, Weighting, get_method, method_of

# The K that a function is tried with, until one fits.
_SIZES = (1, 2, 3, 4, 5, 6, 8)
# Options that properties pass on, with values for functions that have no default of their own.
_TRIAL: Mapping[str, Any] = {"seed": 0, "tau": 0.5}
_TAKES: tuple[Takes, Takes] = ("jacobian", "gramian")


class _Kind(NamedTuple):
    """How a function is to be called, and the smallest K for which that works."""

    takes: Takes
    library: Library
    size: int


def subject(
    method: Any,
    *,
    takes: Takes | None = None,
    like: Any = None,
    name: str | None = None,
    expression: str | None = None,
) -> Subject:
    """Find out how a method is to be called.

    Parameters
    ----------
    method : str or callable
        The name of one of mojd's methods, or any function.
    takes : {'gramian', 'jacobian'}, optional
        What the function takes. By default that is tried out.
    like : str or callable, optional
        The method of mojd's that the function is an implementation of.
    name, expression : str, optional
        What reports call it, and Python that evaluates to it.

    Returns
    -------
    Subject

    Raises
    ------
    InvalidInputError
        If the method is not known, weights losses, or returns nothing of a fitting shape.
    InvalidTypeError
        If it is neither a name nor callable.
    """
    if takes not in (None, "gramian", "jacobian"):
        raise InvalidInputError(f"takes={takes!r} is neither 'gramian' nor 'jacobian'")
    model = None if like is None else _model(like)
    arguments = {} if model is None else {"like": model.name}
    # A partial of one of mojd's methods has other options, and is somebody else's.
    is_partial = isinstance(method, functools.partial)
    known = get_method(method) if isinstance(method, str) else None if is_partial else method_of(method)
    if known is not None:
        own = _registered(known)
        if takes not in (None, own.takes):
            raise InvalidInputError(f"{own.name} takes a {own.takes}, not a {takes}")
        return own if model is None else replace(own, like=model, arguments=arguments)
    if not callable(method):
        raise InvalidTypeError(f"method must be a name or a function, got {type(method).__name__}")
    label = name or _name(method)
    declared = options_of(method)
    options = {option: value for option, value in _TRIAL.items() if declared.get(option) is EMPTY}
    kind = _tried(method, label, takes, options)
    if takes is not None:
        arguments["takes"] = takes
    parameters = _parameters(method)
    return Subject(
        name=label,
        expression=expression or (label if _resolves(label, method) else "method"),
        function=method,
        takes=kind.takes,
        library=kind.library,
        parameters=parameters,
        is_stochastic="seed" in parameters or _draws(method, kind, options),
        min_size=max(kind.size, model.min_size if model else 1),
        like=model,
        options={option: value for option, value in options.items() if option != "seed"},
        arguments=arguments,
    )


def _model(like: Any) -> Weighting:
    model = get_method(like) if isinstance(like, str) else method_of(like)
    if not isinstance(model, Weighting):
        raise InvalidInputError(f"like={like!r} is none of mojd's methods from Gramians to weights")
    return model


def _registered(method: Method) -> Subject:
    if isinstance(method, LossWeighting):
        raise InvalidInputError(
            f"{method.name!r} weights losses without a look at their gradients: none of the properties is "
            "about such methods"
        )
    is_weighting = isinstance(method, Weighting)
    function: Callable[..., Any] = getattr(method, "weights" if is_weighting else "direction")
    return Subject(
        name=method.name,
        expression=f"mojd.{method.name}",
        function=function,
        takes="gramian" if is_weighting else "jacobian",
        parameters=_parameters(function),
        is_stochastic=method.is_stochastic,
        is_own=True,
        min_size=method.min_size,
        like=method if isinstance(method, Weighting) else None,
        options={option: value for option, value in method.example_options.items() if option != "seed"},
    )


def _name(function: Any) -> str:
    if isinstance(function, functools.partial):
        given = [repr(value) for value in function.args]
        given += [f"{option}={value!r}" for option, value in function.keywords.items()]
        return f"partial({', '.join([_name(function.func), *given])})"
    name = getattr(function, "__qualname__", None) or type(function).__name__
    module = str(getattr(function, "__module__", None) or "__main__")
    # What is local to a function or to a session goes by its own name, where it can be seen.
    if "<locals>" in name or module.startswith("__") or module == "builtins":
        return str(name.rpartition(".<locals>.")[2])
    return f"{module}.{name}"


def _resolves(label: str, function: Any) -> bool:
    """Whether a dotted name means this very function, to whoever imports its module."""
    parts = label.split(".")
    if not all(part.isidentifier() for part in parts):
        return False
    if len(parts) == 1:
        return getattr(function, "__name__", None) == label and "<locals>" not in function.__qualname__
    found: Any = None
    for end in range(len(parts) - 1, 0, -1):
        found = sys.modules.get(".".join(parts[:end]))
        if found is not None:
            for part in parts[end:]:
                found = getattr(found, part, None)
            break
    return found is function


def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    # What a partial has settled is not ours to set.
    settled = function.keywords if isinstance(function, functools.partial) else {}
    return frozenset(options_of(function)) - set(settled)


def _probe(size: int) -> FloatArray:
    """Return a Jacobian with more columns than rows, which tells weights and directions apart."""
    return np.random.default_rng(size).integers(-4, 5, (size, size + 2)) + 0.5 * np.eye(size, size + 2)


def _tried(function: Callable[..., Any], name: str, takes: Takes | None, options: Mapping[str, Any]) -> _Kind:
    """Call a function on Jacobians and Gramians, of NumPy and of PyTorch, until one fits."""
    failures: dict[str, str] = {}
    kinds = (takes,) if takes else _TAKES
    for size in _SIZES:
        for library in ("numpy", "torch"):
            # The first call may be what imports PyTorch.
            if library == "torch" and "torch" not in sys.modules:
                continue
            # A Jacobian first: what takes one may accept a Gramian too, which is a matrix like any other.
            for kind in kinds:
                failure = _failure(function, _Kind(kind, library, size), options)
                if not failure:
                    return _Kind(kind, library, size)
                failures[f"on a {kind} of {library}"] = f"with K = {size}: {failure}"
    raise InvalidInputError(
        f"{name} is neither a function from Gramians (K, K) to weights (K,) nor one from Jacobians (K, n) to "
        "directions (n,). Options without a default can be set by functools.partial. Tried\n  "
        + "\n  ".join(f"{where}, {what}" for where, what in failures.items())
    )


def _failure(function: Callable[..., Any], kind: _Kind, options: Mapping[str, Any]) -> str:
    """Return why a function does not fit; empty if it does."""
    try:
        shape = _answer(function, kind, options).shape
    except Exception as error:
        # Whatever a stranger's function raises on what it was not made for.
        return f"{type(error).__name__}: {error}"
    wanted = (kind.size + 2,) if kind.takes == "jacobian" else (kind.size,)
    return "" if shape == wanted else f"it returned the shape {shape}, not {wanted}"


def _answer(
    function: Callable[..., Any], kind: _Kind, options: Mapping[str, Any], seed: int = 0
) -> FloatArray:
    rows = _probe(kind.size)
    values = rows if kind.takes == "jacobian" else rows @ rows.T
    with seeded(seed):
        return as_vector(function(as_library(values, kind.library), **options))


def _draws(function: Callable[..., Any], kind: _Kind, options: Mapping[str, Any]) -> bool:
    """Whether a function without a ``seed`` answers differently for different global seeds."""
    for size in (kind.size, 3, 5):
        larger = kind._replace(size=size)
        if size < kind.size or _failure(function, larger, options):
            continue
        answers = [_answer(function, larger, options, seed) for seed in range(8)]
        if any(not np.array_equal(answer, answers[0], equal_nan=True) for answer in answers):
            return True
    return False
