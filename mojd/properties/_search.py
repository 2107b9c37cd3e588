"""Look for a counterexample to one property of one method with hypothesis."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mojd._arrays import FloatArray
from mojd.properties._registry import Property
from mojd.properties._subject import NotFiniteError, Subject
from mojd.properties.findings import Counterexample, Finding
from mojd.properties.published import expected

# For a mark to rest on a thousand examples that count.
EXAMPLES = 1000
# How many plain examples are tried for a counterexample that is easier to read.
SIMPLE = 200
_FLAKY = "no error, but gave another answer to the same input: seed it, or make it forget what it has seen"


class _Found(Exception):
    """An example violates the property: what hypothesis is to shrink."""


def measured(
    item: Property, checked: Subject, jacobian: FloatArray, seed: int, extras: Mapping[str, Any]
) -> float | None:
    """Measure one example; None if the property says nothing about it."""
    try:
        amount = item.measure(checked, jacobian, seed, **extras)
    except NotFiniteError:
        return float("inf")
    # What is no number came of numbers that were too large.
    return None if amount is None else float("inf") if amount != amount else float(amount)


def find(checked: Subject, item: Property, examples: int = EXAMPLES) -> Finding:
    """Look for a counterexample to one property of one method.

    Parameters
    ----------
    checked : Subject
    item : Property
    examples : int
        How many examples to try.

    Returns
    -------
    Finding
    """
    common: dict[str, Any] = {
        "method": checked.name,
        "property_name": item.name,
        "expression": checked.expression,
        "arguments": checked.arguments,
        "published": expected(checked.name, item.name) if checked.is_own else None,
    }
    reason = item.why_not(checked)
    if reason:
        return Finding(holds=None, reason=reason, **common)
    search = _Search(checked, item)
    search.run(examples)
    failure = search.failure
    return Finding(
        holds=failure is None,
        violation=search.worst if failure is None else failure.violation,
        tolerance=item.tolerance,
        examples=sum(search.structures.values()),
        structures=dict(sorted(search.structures.items())),
        sizes=search.sizes,
        counterexample=failure,
        **common,
    )


class _Search:
    """One run of hypothesis, and what it came across."""

    def __init__(self, checked: Subject, item: Property) -> None:
        self.checked = checked
        self.item = item
        low = max(item.k[0], checked.min_size)
        self.sizes = (low, max(low, item.k[1]))
        self.structures: Counter[str] = Counter()
        self.worst = 0.0
        self.failure: Counterexample | None = None

    def run(self, examples: int) -> None:
        """Try examples until one violates the property; then look for a simpler one."""
        from mojd.properties import strategies

        low, high = self.sizes
        structures = self.item.structures or strategies.STRUCTURES
        self._look(examples, strategies.examples((low, high), self.item.n, structures=structures))
        if self.failure is None or self.failure.error == _FLAKY:
            return
        # What was found may owe its shape to the structure that it came from. Plain integers read best.
        first, counted = self.failure, self.structures
        others = tuple(name for name in structures if name != "gaussian")
        for most, largest, kinds in ((2, 2, "integers"), (3, 2, "integers"), (3, 4, others)):
            self.failure, self.structures = None, Counter()
            columns = (self.item.n[0], max(self.item.n[0], most))
            rows = (low, min(high, max(low, most)))
            self._look(SIMPLE, strategies.examples(rows, columns, structures=kinds, largest=largest))
            if self.failure is not None:
                break
        self.failure, self.structures = self.failure or first, counted

    def _look(self, examples: int, base: Any) -> None:
        """Try examples until one violates the property, and shrink that one."""
        from hypothesis import HealthCheck, Phase, Verbosity, assume, given, settings
        from hypothesis import strategies as st
        from hypothesis.errors import Flaky

        seeds = st.integers(0, 2**16) if self.checked.is_stochastic else st.just(0)

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            report_multiple_bugs=False,
            verbosity=Verbosity.quiet,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(st.data())
        def attempt(data: Any) -> None:
            example = data.draw(base)
            strategies = self.item.extras(self.checked, len(example.jacobian))
            extras = {name: data.draw(strategy) for name, strategy in strategies.items()}
            assume(self._judge(example, data.draw(seeds), extras))

        try:
            with contextlib.suppress(_Found):
                attempt()
        except Flaky:
            # An example failed and passed the second time.
            assert self.failure is not None
            seen = self.failure
            self.failure = Counterexample(
                seen.jacobian, seen.structure, seen.seed, seen.extras, seen.violation, error=_FLAKY
            )

    def _judge(self, example: Any, seed: int, extras: Mapping[str, Any]) -> bool:
        """Return whether the example counts; raise if it is a counterexample."""
        error = ""
        try:
            amount = measured(self.item, self.checked, example.jacobian, seed, extras)
        except Exception as raised:
            # A stranger's function that fails on an ordinary Jacobian has failed the check.
            amount, error = float("inf"), f"{type(raised).__name__}: {raised}"
        if amount is None:
            return False
        if self.failure is None:
            self.structures[example.structure] += 1
        if amount <= self.item.tolerance:
            self.worst = max(self.worst, amount)
            return True
        weights = direction = None
        if not error:
            # Of the extras, only these are options of methods; a factor c is not CAGrad's c.
            options = {name: extras[name] for name in ("tau", "pref_vector") if name in extras}
            with contextlib.suppress(NotFiniteError):
                weights, direction, _ = self.checked.step(example.jacobian, seed=seed, **options)
        self.failure = Counterexample(
            example.jacobian, example.structure, seed, extras, amount, weights, direction, error
        )
        raise _Found
