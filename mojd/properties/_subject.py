"""Any method as the checks see it: from a Jacobian to weights and a direction, in float64."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from mojd._arrays import FloatArray, as_array, to_host
from mojd.errors import InvalidInputError
from mojd.gramian import gramian
from mojd.weightings import Weighting

Takes = Literal["gramian", "jacobian"]
Library = Literal["numpy", "torch"]

# Weights that cancel to less than this part of their sum are not granted the rounding errors of that sum.
CANCELLATION = 1e6
# d counts as 0 below this part of the sum of its terms.
_STOPPED = 1e-13


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
        ``Σ |wᵢ|·‖gᵢ‖``, but no more than 10⁶ times max(‖d‖, maxᵢ ‖gᵢ‖), which it is where there are no
        weights: what the direction is a small difference of, and the unit in which its errors are
        measured.
    """

    weights: FloatArray | None
    direction: FloatArray
    size: float

    @property
    def length(self) -> float:
        """‖d‖."""
        return float(np.linalg.norm(self.direction))

    @property
    def is_stopped(self) -> bool:
        """Whether d counts as 0, beside the sum of its terms."""
        return self.length <= _STOPPED * self.size


@dataclass(frozen=True)
class Subject:
    """A method to be checked.

    Attributes
    ----------
    name : str
        For reports.
    expression : str
        Python that evaluates to the method, for counterexamples that run; 'method' if there is none.
    function : callable
        From one Gramian (K, K) or one Jacobian (K, n) to weights (K,) or a direction (n,).
    takes : {'gramian', 'jacobian'}
    library : {'numpy', 'torch'}
        What kind of array it takes.
    parameters : frozenset of str
        Options that the function is known to take.
    is_stochastic : bool
        Whether it draws random numbers.
    is_own : bool
        Whether it is one of mojd's methods.
    min_size : int
        The smallest K.
    like : Weighting or None
        The method that it is, or claims to be: whose problem it solves.
    options : mapping
        Values for options that have no default.
    arguments : mapping
        What :func:`mojd.check` was told about it, for counterexamples that run.
    """

    name: str
    expression: str
    function: Callable[..., Any]
    takes: Takes
    library: Library = "numpy"
    parameters: frozenset[str] = frozenset()
    is_stochastic: bool = False
    is_own: bool = False
    min_size: int = 1
    like: Weighting | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, str] = field(default_factory=dict)

    def step(self, jacobian: FloatArray, *, seed: int = 0, **options: Any) -> Step:
        """Call the method on one Jacobian; what it does not know of `options` is left out.

        Raises
        ------
        InvalidInputError
            If what it returns is neither a weight per row nor a number per parameter.
        NotFiniteError
            If there is NaN or infinity in it, or its length overflows.
        """
        K, n = jacobian.shape
        known = {name: value for name, value in options.items() if name in self.parameters}
        if "seed" in self.parameters:
            known["seed"] = seed
        given = as_library(gramian(jacobian) if self.takes == "gramian" else jacobian, self.library)
        with nullcontext() if self.is_own else seeded(seed):
            returned = self.function(given, **{**self.options, **known})
        values = as_vector(returned)
        wanted = (K,) if self.takes == "gramian" else (n,)
        if values.shape != wanted:
            meaning = "weights" if self.takes == "gramian" else "a direction"
            raise InvalidInputError(
                f"{self.name} returned an array of shape {values.shape} for a {self.takes} of shape "
                f"{tuple(given.shape)}; expected {meaning} of shape {wanted}"
            )
        return _step(values, jacobian, self.takes)


def _step(values: FloatArray, jacobian: FloatArray, takes: Takes) -> Step:
    norms = np.linalg.norm(jacobian, axis=-1)
    with np.errstate(over="ignore", invalid="ignore"):
        weights, direction = (values, values @ jacobian) if takes == "gramian" else (None, values)
        length = float(np.linalg.norm(direction))
        longest = max(float(norms.max(initial=0.0)), length)
        size = longest if weights is None else float(np.abs(weights) @ norms)
    if not (np.isfinite(values).all() and np.isfinite(length) and np.isfinite(size)):
        raise NotFiniteError
    return Step(weights, direction, min(size, CANCELLATION * longest))


def as_library(values: FloatArray, library: Library) -> Any:
    """Return a copy of an array as the library has it."""
    if library == "numpy":
        return values.copy()
    torch = sys.modules["torch"]
    return torch.tensor(values, dtype=torch.float64)


def as_vector(returned: Any) -> FloatArray:
    """Bring what a method returned to the CPU, in float64."""
    return to_host(as_array(returned, "what the method returned"))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, which other people's functions draw from, and put them back.

    What the function prints goes to stderr: stdout is the report's.
    """
    torch = sys.modules.get("torch")
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch_state = torch.get_rng_state() if torch is not None else None
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    if torch is not None:
        torch.manual_seed(seed)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        if torch is not None:
            torch.set_rng_state(torch_state)
