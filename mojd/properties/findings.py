"""What was found about one method and one property: the mark, its evidence, a counterexample that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mojd._arrays import FloatArray

_LINE = 110


def literal(value: Any) -> str:
    """Write a value of an example as Python that reads back exactly."""
    if isinstance(value, np.ndarray):
        return f"np.array({_nested(value, _number)})"
    if isinstance(value, tuple):
        return repr(tuple(int(v) if isinstance(v, int | np.integer) else v for v in value))
    return _number(value) if isinstance(value, float | np.floating) else repr(value)


def _nested(array: FloatArray, number: Any) -> str:
    if array.ndim == 1:
        return "[" + ", ".join(number(value) for value in array) + "]"
    return "[" + ", ".join(_nested(row, number) for row in array) + "]"


def _number(value: Any) -> str:
    return repr(float(value))


def _short_number(value: Any) -> str:
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) < 1e6 else repr(number)


def _statement(value: Any) -> str:
    """Write a value for people: whole numbers without a point."""
    if isinstance(value, np.ndarray):
        return _nested(value, _short_number)
    return _short_number(value) if isinstance(value, float | np.floating) else literal(value)


def _rounded(values: FloatArray) -> str:
    text = np.array2string(np.asarray(values) + 0.0, precision=4, separator=", ", max_line_width=_LINE)
    return " ".join(text.split())


def _for_json(amount: float) -> float | str:
    """Return a number, or its name if JSON has none for it."""
    return amount if np.isfinite(amount) else str(amount)


@dataclass(frozen=True)
class Counterexample:
    """An example on which a property fails, as simple as one was found.

    Attributes
    ----------
    jacobian : float64 array, shape (K, n)
    structure : str
        The strategy that it comes from.
    seed : int
        For methods that draw random numbers.
    extras : dict
        Whatever else the property needed: factors, an order, τ.
    violation : float
        Infinite if the method raised, or returned NaN or infinity.
    weights : float64 array, shape (K,), or None
    direction : float64 array, shape (n,), or None
        What the method made of the Jacobian; None if it raised.
    error : str
        What it raised, if it did.
    """

    jacobian: FloatArray
    structure: str
    seed: int
    extras: Mapping[str, Any]
    violation: float
    weights: FloatArray | None = None
    direction: FloatArray | None = None
    error: str = ""

    @property
    def statement(self) -> str:
        """The example in one line."""
        values = {"J": self.jacobian, **self.extras}
        return ", ".join(f"{name} = {_statement(value)}" for name, value in values.items())

    @property
    def outcome(self) -> str:
        """What came of it, in a few words."""
        if self.error:
            return f"it raised {self.error}"
        return f"violation {self.violation:.3g}" if np.isfinite(self.violation) else "it is not finite"

    def to_dict(self) -> dict[str, Any]:
        """Return everything as what JSON has."""
        lists = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in self.extras.items()
        }
        return {
            "jacobian": self.jacobian.tolist(),
            "structure": self.structure,
            "seed": self.seed,
            "extras": lists,
            "violation": _for_json(self.violation),
            "weights": None if self.weights is None else self.weights.tolist(),
            "direction": None if self.direction is None else self.direction.tolist(),
            "error": self.error,
        }


@dataclass(frozen=True)
class Finding:
    """What was found out about one method and one property.

    Attributes
    ----------
    method, property_name : str
    holds : bool or None
        None if the property makes no sense for the method.
    expression : str
        Python that evaluates to the method.
    arguments : dict of str to str
        What else the checks were told about it: ``like``, ``takes``.
    violation : float
        The largest one seen if the property holds, that of the counterexample if not.
    tolerance : float
    examples : int
        How many examples were tried, those of shrinking aside.
    structures : dict of str to int
        How many of each structure.
    sizes : (int, int)
        The smallest and the largest K that was tried.
    counterexample : Counterexample or None
    reason : str
        Why it makes no sense.
    published : bool or None
        What the papers say.
    """

    method: str
    property_name: str
    holds: bool | None
    expression: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    violation: float = 0.0
    tolerance: float = 0.0
    examples: int = 0
    structures: Mapping[str, int] = field(default_factory=dict)
    sizes: tuple[int, int] = (0, 0)
    counterexample: Counterexample | None = None
    reason: str = ""
    published: bool | None = None

    @property
    def mark(self) -> str:
        """✓, ✗ or –; with ! where the papers say otherwise."""
        if self.holds is None:
            return "–"
        return ("✓" if self.holds else "✗") + ("" if self.agrees else "!")

    @property
    def agrees(self) -> bool:
        """Whether no paper says otherwise."""
        return self.published is None or self.holds is None or self.published == self.holds

    @property
    def evidence(self) -> str:
        """One line: what the mark rests on."""
        if self.holds is None:
            return self.reason
        if self.counterexample is None:
            low, high = self.sizes
            return (
                f"no counterexample among {self.examples} examples of {len(self.structures)} structures, "
                f"K = {low} to {high}; largest violation {self.violation:.1e}, tolerance {self.tolerance:.0e}"
            )
        found = self.counterexample
        tolerance = "" if found.error else f", tolerance {self.tolerance:.0e}"
        return f"{found.statement}: {found.outcome}{tolerance}"

    def assertion(self) -> str:
        """Return the counterexample as Python whose last line fails.

        Raises
        ------
        ValueError
            If there is none.
        """
        found = self.counterexample
        if found is None:
            raise ValueError(f"{self.method} has no counterexample to {self.property_name}")
        lines = ["import numpy as np", "import mojd"]
        module = self.expression.rpartition(".")[0]
        if module and module != "mojd":
            lines.append(f"import {module}")
        if self.expression == "method":
            lines += ["", f"# method is {self.method}"]
        lines += ["", f"J = {literal(found.jacobian)}"]
        lines += [f"{name} = {literal(value)}" for name, value in found.extras.items()]
        if found.weights is not None:
            lines.append(f"# weights {_rounded(found.weights)}")
        if found.direction is not None:
            products = _rounded(found.jacobian @ found.direction)
            lines.append(f"# direction d = {_rounded(found.direction)}, J d = {products}")
        arguments = [f'"{self.property_name}"', self.expression, "J"]
        arguments += [f"{name}={name}" for name in found.extras]
        if found.seed:
            arguments.append(f"seed={found.seed}")
        arguments += [f'{name}="{value}"' for name, value in self.arguments.items()]
        call = f"mojd.properties.violation({', '.join(arguments)})"
        outcome = found.outcome.replace("violation", "it is")
        return "\n".join([*lines, f"assert {call} <= {self.tolerance:g}  # {outcome}"])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as what JSON has."""
        return {
            "method": self.method,
            "property": self.property_name,
            "holds": self.holds,
            "published": self.published,
            "violation": _for_json(self.violation),
            "tolerance": self.tolerance,
            "examples": self.examples,
            "structures": dict(self.structures),
            "sizes": list(self.sizes),
            "counterexample": self.counterexample.to_dict() if self.counterexample else None,
            "reason": self.reason,
        }
