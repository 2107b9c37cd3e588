"""From the bound of a programme to that of the direction: for known errors it holds and is not idle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import mojd
from mojd.torch._certificate import _ERRORS
from mojd.weightings import QuadraticWeighting, get_method, registered_programmes
from mojd.weightings._shared import view

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "upgrad": [{}],
    "dualproj": [{}, {"pref_vector": np.array([0.1, 0.5, 2.0, 1.0])}],
    "mgda": [{}],
    "pcd": [
        {"tau": 0.3},
        {"tau": 0.3, "rescale": True},
        {"tau": 0.3, "rescale": True, "scales": np.array([0.2, 3.0, 1.0, 0.5])},
    ],
}
CASES = [(name, options) for name, several in OPTIONS.items() for options in several]


def test_every_programme_has_a_rule() -> None:
    assert {method.name for method in registered_programmes()} == set(_ERRORS) == set(OPTIONS)


@pytest.mark.parametrize("size", [1e-6, 1e-2])
@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("units", [1e-3, 1.0, 1e3])
def test_rules(name: str, options: dict[str, Any], size: float, units: float) -> None:
    """x is moved by e, and the programme's bound is the true ‖Jᵀe‖, in its own Gramian."""
    method = get_method(name)
    assert isinstance(method, QuadraticWeighting)
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(20):
        jacobian = units * rng.standard_normal((4, 6))
        gramian = jacobian @ jacobian.T
        matrix = view(gramian)
        problem = method.problem(gramian, **{k: v for k, v in options.items() if k != "rescale"})
        exact = np.asarray(mojd.solve(problem).x)
        moved = exact + size * exact.max() * np.abs(rng.standard_normal(exact.shape))
        errors = np.atleast_2d(moved - exact)
        bounds = np.sqrt(
            [
                max(0.0, float(e @ np.asarray(problem.gramian).reshape(-1, len(e))[: len(e)] @ e))
                for e in errors
            ]
        )
        bound = _ERRORS[name](bounds if name == "upgrad" else bounds[0], moved, matrix, options)
        d = jacobian.T @ (method.lift(moved, matrix, **options) - method.lift(exact, matrix, **options))
        if bounds.any():
            assert np.linalg.norm(d) <= bound * (1 + 1e-9)
            ratios.append(float(np.linalg.norm(d)) / bound)
    # The bound is met to within an order of magnitude or so: it is not just large.
    assert len(ratios) > 5 and max(ratios) > 0.05
