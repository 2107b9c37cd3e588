"""All that a check found: as a table, as text, and as an error for a test suite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mojd.properties._registry import get_property
from mojd.properties.findings import Finding


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
