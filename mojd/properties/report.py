"""What a check found: marks, counterexamples that run, tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mojd._arrays import FloatArray
from mojd.properties._registry import get_property

_LINE = 110


class PropertyViolated(AssertionError):
    """A property that was claimed of a method does not hold.

    Attributes
    ----------
    report : Report
        Everything that was found.
    """

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def literal(value: Any) -> str:
    """Write a value of an example as Python, as short as it can be read back exactly."""
    if isinstance(value, np.ndarray):
        return f"np.array({_nested(value)})"
    if isinstance(value, tuple):
        return repr(tuple(int(v) if isinstance(v, int | np.integer) else v for v in value))
    return _number(value) if isinstance(value, float | np.floating) else repr(value)


def _nested(array: FloatArray) -> str:
    if array.ndim == 1:
        return "[" + ", ".join(_number(value) for value in array) + "]"
    return "[" + ", ".join(_nested(row) for row in array) + "]"


def _number(value: Any) -> str:
    number = float(value)
    if number.is_integer() and abs(number) < 1e6:
        return f"{int(number)}.0"
    return repr(number)


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
        Infinite if the method returned NaN or infinity.
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
        parts = [f"J = {_nested(self.jacobian)}".replace(".0", "")]
        parts += [f"{name} = {literal(value)}".replace(".0", "") for name, value in self.extras.items()]
        return ", ".join(parts)

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
            "violation": self.violation if np.isfinite(self.violation) else str(self.violation),
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
    violation : float
        The largest one seen among the examples that passed.
    tolerance : float
    examples : int
        How many examples were tried, those of shrinking aside.
    structures : dict of str to int
        How many of each structure.
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
    violation: float = 0.0
    tolerance: float = 0.0
    examples: int = 0
    structures: Mapping[str, int] = field(default_factory=dict)
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
            return (
                f"no counterexample among {self.examples} examples of {len(self.structures)} structures; "
                f"largest violation {self.violation:.1e}, tolerance {self.tolerance:.0e}"
            )
        found = self.counterexample
        if found.error:
            return f"it raised {found.error} for {found.statement}"
        return f"{found.statement}: violation {found.violation:.3g}, tolerance {self.tolerance:.0e}"

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
        if module and module != "mojd" and all(part.isidentifier() for part in module.split(".")):
            lines.append(f"import {module}")
        if self.expression == "method":
            lines += ["", f"# method is {self.method}"]
        lines += ["", f"J = {literal(found.jacobian)}"]
        lines += [f"{name} = {literal(value)}" for name, value in found.extras.items()]
        if found.weights is not None:
            lines.append(f"# weights {_short(found.weights)}")
        if found.direction is not None:
            lines.append(
                f"# direction d = {_short(found.direction)}, J d = {_short(found.jacobian @ found.direction)}"
            )
        arguments = [f'"{self.property_name}"', self.expression, "J"]
        arguments += [f"{name}={name}" for name in found.extras]
        if found.seed:
            arguments.append(f"seed={found.seed}")
        call = f"mojd.properties.violation({', '.join(arguments)})"
        outcome = f"it raised {found.error}" if found.error else f"it is {found.violation:.3g}"
        lines.append(f"assert {call} <= {self.tolerance:g}  # {outcome}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as what JSON has."""
        return {
            "method": self.method,
            "property": self.property_name,
            "holds": self.holds,
            "published": self.published,
            "violation": self.violation,
            "tolerance": self.tolerance,
            "examples": self.examples,
            "structures": dict(self.structures),
            "counterexample": self.counterexample.to_dict() if self.counterexample else None,
            "reason": self.reason,
        }


def _short(values: FloatArray) -> str:
    text = np.array2string(np.asarray(values) + 0.0, precision=4, separator=", ", max_line_width=_LINE)
    return " ".join(text.split())


@dataclass(frozen=True)
class Report:
    """What was found out about some methods and properties.

    Attributes
    ----------
    findings : tuple of Finding
        One per method and property.

    Examples
    --------
    >>> import mojd
    >>> report = mojd.check("mean", raises=False, examples=100)
    >>> report["non_conflicting"].holds
    False
    >>> report["non_conflicting"].counterexample.jacobian.shape[0] <= 3
    True
    """

    findings: tuple[Finding, ...]

    def __getitem__(self, key: str | tuple[str, str]) -> Finding:
        """Return the finding on a property, or on a (method, property)."""
        method, name = key if isinstance(key, tuple) else (None, key)
        for finding in self.findings:
            if finding.property_name == name and method in (None, finding.method):
                return finding
        raise KeyError(key)

    def __str__(self) -> str:
        """Return the table, and what each mark rests on."""
        width = max((len(finding.property_name) for finding in self.findings), default=0)
        methods = {finding.method for finding in self.findings}
        prefix = max((len(method) for method in methods), default=0) if len(methods) > 1 else 0
        lines = []
        for finding in self.findings:
            method = f"{finding.method:{prefix}}  " if prefix else ""
            lines.append(f"{finding.mark:2} {method}{finding.property_name:{width}}  {finding.evidence}")
        return "\n".join(lines)

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The findings with a counterexample."""
        return tuple(finding for finding in self.findings if finding.holds is False)

    @property
    def disagreements(self) -> tuple[Finding, ...]:
        """The findings that contradict a paper."""
        return tuple(finding for finding in self.findings if not finding.agrees)

    def assert_all(self) -> None:
        """Raise with every counterexample, as Python that fails when it is run.

        Raises
        ------
        PropertyViolated
            If there is a counterexample; it is an AssertionError.
        """
        if self.failures:
            parts = [
                f"{finding.method} fails {finding.property_name}, "
                f"{get_property(finding.property_name).summary}\n\n{finding.assertion()}"
                for finding in self.failures
            ]
            raise PropertyViolated("\n\n".join(parts), self)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as what JSON has."""
        return {"findings": [finding.to_dict() for finding in self.findings]}

    def to_markdown(self) -> str:
        """Return the table of marks: a row per method, a column per property."""
        methods = list(dict.fromkeys(finding.method for finding in self.findings))
        names = list(dict.fromkeys(finding.property_name for finding in self.findings))
        marks = {(finding.method, finding.property_name): finding.mark for finding in self.findings}
        head = ["Method", *(get_property(name).title for name in names)]
        rows = [[f"`{method}`", *(marks.get((method, name), "") for name in names)] for method in methods]
        lines = [head, ["---", *([":---:"] * len(names))], *rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
