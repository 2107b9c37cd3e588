"""Any method as the checks see it: from a Jacobian to weights and a direction, in float64.

A subject may be one of mojd's methods, or anybody's function of a Gramian or of a Jacobian, on arrays
of NumPy or tensors of PyTorch. Which one it is, is found out by calling it once on a small example.
"""

from __future__ import annotations

import functools
import inspect
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from mojd._arrays import FloatArray, as_array, to_host
from mojd.errors import InvalidInputError, InvalidTypeError
from mojd.gramian import gramian
from mojd.weightings import Aggregator, LossWeighting, Method, Weighting, get_method, registered_methods

Takes = Literal["gramian", "jacobian"]
Library = Literal["numpy", "torch"]

# More columns than rows, so that what a function returns tells weights and directions apart.
_PROBE = np.array([[1.0, 0.0, 2.0], [-1.0, 3.0, 0.5]])
# Options that properties pass on, with values for functions that have no default of their own.
_TRIAL: Mapping[str, Any] = {"seed": 0, "tau": 0.5}


class NotFiniteError(Exception):
    """A method returned NaN or infinity, which violates every property."""


class Step(NamedTuple):
    """What a method made of a Jacobian.

    Attributes
    ----------
    weights : float64 array, shape (K,), or None
        None for methods that return directions.
    direction : float64 array, shape (n,)
    size : float
        Σ |wᵢ|·‖gᵢ‖, or max(‖d‖, maxᵢ ‖gᵢ‖) where there are no weights: what the direction is a
        small difference of, and therefore the unit in which its errors are measured.
    """

    weights: FloatArray | None
    direction: FloatArray
    size: float


@dataclass(frozen=True)
class Subject:
    """A method to be checked.

    Attributes
    ----------
    name : str
        For reports.
    expression : str
        Python that evaluates to the method, for counterexamples that run.
    function : callable
        From one Gramian (K, K) or one Jacobian (K, n) to weights (K,) or a direction (n,).
    takes : {'gramian', 'jacobian'}
    library : {'numpy', 'torch'}
        What kind of array it takes.
    parameters : frozenset of str
        Keyword options that the function is known to take.
    is_stochastic : bool
        Whether it draws random numbers, as far as it says so.
    min_size : int
        The smallest K.
    like : Weighting or None
        The method that it is, or claims to be: whose problem it solves.
    """

    name: str
    expression: str
    function: Callable[..., Any]
    takes: Takes
    library: Library = "numpy"
    parameters: frozenset[str] = frozenset()
    is_stochastic: bool = False
    min_size: int = 1
    like: Weighting | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def step(self, jacobian: FloatArray, *, seed: int = 0, **options: Any) -> Step:
        """Call the method on one Jacobian; what it does not know of `options` is left out.

        Raises
        ------
        InvalidInputError
            If what it returns is neither a weight per row nor a number per parameter.
        NotFiniteError
            If there is NaN or infinity in it.
        """
        K, n = jacobian.shape
        known = {name: value for name, value in options.items() if name in self.parameters}
        if "seed" in self.parameters:
            known["seed"] = seed
        given = self._given(jacobian)
        with _seeded(seed) if self.is_stochastic and "seed" not in known else nullcontext():
            returned = self.function(given, **{**self.options, **known})
        values = _as_vector(returned)
        if not np.isfinite(values).all():
            raise NotFiniteError
        if self.takes == "gramian" and values.shape == (K,):
            norms = np.linalg.norm(jacobian, axis=-1)
            return Step(values, values @ jacobian, float(np.abs(values) @ norms))
        if self.takes == "jacobian" and values.shape == (n,):
            longest = float(np.linalg.norm(jacobian, axis=-1).max(initial=0.0))
            return Step(None, values, max(longest, float(np.linalg.norm(values))))
        wanted = f"({K},) weights" if self.takes == "gramian" else f"a direction ({n},)"
        raise InvalidInputError(
            f"{self.name} returned an array of shape {values.shape} for a {self.takes} of shape "
            f"{tuple(given.shape)}; expected {wanted}"
        )

    def _given(self, jacobian: FloatArray) -> Any:
        values = gramian(jacobian) if self.takes == "gramian" else jacobian
        return values.copy() if self.library == "numpy" else _torch().tensor(values, dtype=_torch().float64)


def _torch() -> Any:
    return sys.modules["torch"]


def _as_vector(returned: Any) -> FloatArray:
    return to_host(as_array(returned, "what the method returned"))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, which other people's functions draw from, and put them back."""
    torch = sys.modules.get("torch")
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch_state = torch.get_rng_state() if torch is not None else None
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    if torch is not None:
        torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        if torch is not None:
            torch.set_rng_state(torch_state)


def subject(
    method: Any,
    *,
    takes: Takes | None = None,
    like: str | None = None,
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
    like : str, optional
        The method of mojd's that the function is an implementation of.
    name, expression : str, optional
        What reports call it, and Python that evaluates to it.

    Raises
    ------
    InvalidInputError
        If the method is not known, weights losses, or returns nothing of a fitting shape.
    InvalidTypeError
        If it is neither a name nor callable.
    """
    if isinstance(method, Subject):
        return method
    model = _like(like)
    if isinstance(method, str):
        return _registered(get_method(method))
    if not callable(method):
        raise InvalidTypeError(f"method must be a name or a function, got {type(method).__name__}")
    for known in registered_methods():
        public = known.direction if isinstance(known, Aggregator) else getattr(known, "weights", None)
        if public is method:
            return _registered(known)
    label = name or _name(method)
    parameters = _parameters(method)
    options = {option: value for option, value in _TRIAL.items() if option in _required(method)}
    found, library = _tried(method, label, takes, options)
    return Subject(
        name=label,
        expression=expression or (label if _is_dotted_name(label) else "method"),
        function=method,
        takes=found,
        library=library,
        parameters=parameters,
        is_stochastic="seed" in parameters or _draws(method, found, library, options),
        min_size=model.min_size if model else 1,
        like=model,
        options={option: value for option, value in options.items() if option != "seed"},
    )


def _like(name: str | None) -> Weighting | None:
    if name is None:
        return None
    model = get_method(name)
    if not isinstance(model, Weighting):
        raise InvalidInputError(f"like={name!r} is no method from Gramians to weights")
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
        expression=f"mojd.{method.name}" if not method.is_stateful else repr(method.name),
        function=function,
        takes="gramian" if is_weighting else "jacobian",
        parameters=_parameters(function),
        is_stochastic=method.is_stochastic,
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


def _is_dotted_name(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    try:
        parameters = frozenset(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        # Some callables in C have no signature to read.
        return frozenset()
    # What a partial has settled is not ours to set.
    return parameters - set(function.keywords) if isinstance(function, functools.partial) else parameters


def _required(function: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters that have no default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty]


def _tried(
    function: Callable[..., Any], name: str, takes: Takes | None, options: Mapping[str, Any]
) -> tuple[Takes, Library]:
    """Call a function on a Gramian and a Jacobian, of NumPy and of PyTorch, until one fits."""
    # A Jacobian first: what takes one may well accept a Gramian too, which is a matrix like any other.
    orders: tuple[Takes, ...] = (takes,) if takes else ("jacobian", "gramian")
    failures = []
    libraries: tuple[Library, ...] = ("numpy", "torch") if "torch" in sys.modules else ("numpy",)
    for library in libraries:
        for kind in orders:
            values = _PROBE if kind == "jacobian" else _PROBE @ _PROBE.T
            given = values.copy() if library == "numpy" else _torch().tensor(values)
            wanted = (3,) if kind == "jacobian" else (2,)
            try:
                with _seeded(0):
                    shape = tuple(np.shape(_as_vector(function(given, **options))))
            except Exception as error:
                # Whatever a stranger's function raises on what it was not made for.
                failures.append(f"on a {kind} of {library}: {type(error).__name__}: {error}")
                continue
            if shape == wanted:
                return kind, library
            failures.append(f"on a {kind} of {library}: returned shape {shape}, not {wanted}")
    raise InvalidInputError(
        f"{name} is neither a function from Gramians (K, K) to weights (K,) nor one from Jacobians (K, n) to "
        f"directions (n,), tried with K = 2 and n = 3:\n  " + "\n  ".join(failures)
    )


def _draws(function: Callable[..., Any], takes: Takes, library: Library, options: Mapping[str, Any]) -> bool:
    """Whether a function without a ``seed`` answers differently for different global seeds."""
    values = _PROBE if takes == "jacobian" else _PROBE @ _PROBE.T
    answers = []
    for seed in range(8):
        given = values.copy() if library == "numpy" else _torch().tensor(values)
        with _seeded(seed):
            answers.append(_as_vector(function(given, **options)))
    return any(not np.array_equal(answer, answers[0], equal_nan=True) for answer in answers)
