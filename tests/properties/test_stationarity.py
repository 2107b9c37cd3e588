"""Stationary points by hand, by construction, and by linear programming."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from scipy.optimize import linprog

import mojd
from mojd.properties import strong_stationarity, weak_stationarity
from mojd.properties.strategies import jacobians


def has_weights(jacobian: Any, least: float) -> bool:
    """Whether Jᵀz = 0 for some z ≥ least with Σz = 1, by HiGHS."""
    K, n = jacobian.shape
    rows = np.concatenate([jacobian.T / np.abs(jacobian).max(), np.ones((1, K))])
    right = np.append(np.zeros(n), 1.0)
    return bool(linprog(np.zeros(K), A_eq=rows, b_eq=right, bounds=(least, None)).status == 0)


@pytest.mark.parametrize(
    ("jacobian", "strong", "weak"),
    [
        ([[1.0], [-2.0]], True, True),
        ([[1.0], [2.0]], False, False),
        ([[0.0], [2.0]], False, True),
        ([[0.0], [0.0]], True, True),
        ([[1.0, 0.0], [-2.0, 0.0], [0.0, 3.0]], False, True),
        ([[1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]], True, True),
        ([[1.0, 0.0], [0.0, 1.0]], False, False),
        ([[1.0, 0.0], [-1.0, 2.0**-16]], False, False),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 2.0**-300, 2.0**300])
def test_by_hand(jacobian: Any, strong: bool, weak: bool, scale: float) -> None:
    rows = np.array(jacobian) * scale
    for found, expected in ((strong_stationarity(rows), strong), (weak_stationarity(rows), weak)):
        assert (found.distance <= 1e-12) == expected
        assert found.distance <= 1.0


@given(jacobians(structures=["integers", "low_rank", "opposite", "zero_rows", "strongly_stationary"]))
def test_against_a_linear_programme(jacobian: Any) -> None:
    """Integers up to 4, K up to 6: positive weights are rational numbers above 1e-6."""
    assume(jacobian.any())
    assert (weak_stationarity(jacobian).distance <= 1e-11) == has_weights(jacobian, 0.0)
    assert (strong_stationarity(jacobian).distance <= 1e-11) == has_weights(jacobian, 1e-6)


@given(jacobians())
def test_the_weights_prove_the_distance(jacobian: Any) -> None:
    for found, positive in ((weak_stationarity(jacobian), False), (strong_stationarity(jacobian), True)):
        assert (found.weights > 0).all() if positive else (found.weights >= 0).all()
        assert found.weights.max() > 0
        size = float(found.weights @ np.linalg.norm(jacobian, axis=1))
        residual = float(np.linalg.norm(found.weights @ jacobian))
        assert residual <= (found.distance + 1e-14) * size * (1 + 1e-12)


def test_input_that_is_none() -> None:
    for function in (weak_stationarity, strong_stationarity):
        with pytest.raises(mojd.InvalidInputError, match=r"jacobian.*one problem.*\(2, 2, 2\)"):
            function(np.ones((2, 2, 2)))
        with pytest.raises(mojd.InvalidInputError, match="jacobian must have shape"):
            function(np.ones(3))
        with pytest.raises(mojd.NonFiniteError, match="jacobian"):
            function([[np.nan, 1.0]])
