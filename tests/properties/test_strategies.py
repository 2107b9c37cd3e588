"""What the strategies promise: bounds, exact Gramians, structures that are what they say, small examples."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

import mojd
from mojd.properties import strong_stationarity, weak_stationarity
from mojd.properties.strategies import (
    ADVERSARIAL,
    SHRINKING,
    STRUCTURES,
    examples,
    gramians,
    jacobians,
    pref_vectors,
    row_factors,
    taus,
)

Floats = Any
FAST = settings(max_examples=60)


def exact_gramian(jacobian: Floats) -> list[list[Fraction]]:
    rows = [[Fraction(float(entry)) for entry in row] for row in jacobian]
    return [[sum((a * b for a, b in zip(x, y, strict=True)), Fraction(0)) for y in rows] for x in rows]


@pytest.mark.parametrize("structure", STRUCTURES)
@settings(max_examples=60)
@given(data=st.data())
def test_gramians_are_exact_even_after_scaling_rows(structure: str, data: st.DataObject) -> None:
    jacobian = data.draw(jacobians(structures=structure))
    scaled = jacobian * data.draw(row_factors(len(jacobian), largest=8))[:, None]
    gramian = scaled @ scaled.T
    exact = exact_gramian(scaled)
    for i, j in np.ndindex(gramian.shape):
        assert Fraction(float(gramian[i, j])) == exact[i][j]


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize(("k", "n"), [(1, 1), (2, 3), ((1, 3), 2), (4, (1, 2)), (7, 7)])
def test_sizes(structure: str, k: Any, n: Any) -> None:
    @FAST
    @given(jacobians(k, n, structures=structure))
    def run(jacobian: Floats) -> None:
        low, high = (k, k) if isinstance(k, int) else k
        assert low <= jacobian.shape[0] <= high
        low, high = (n, n) if isinstance(n, int) else n
        assert low <= jacobian.shape[1] <= high
        assert jacobian.dtype == np.float64
        assert np.isfinite(jacobian).all()

    run()


class TestStructures:
    def test_names(self) -> None:
        assert STRUCTURES[0] == "integers"
        assert set(ADVERSARIAL) < set(STRUCTURES)

    def test_what_does_not_shrink_is_asked_for(self) -> None:
        assert set(SHRINKING) == set(STRUCTURES) - {"gaussian"}
        find(jacobians(structures="gaussian"), lambda J: (J % 1 != 0).all())

    def test_every_structure_turns_up(self) -> None:
        seen = set()

        @settings(max_examples=1000, derandomize=True, database=None)
        @given(examples())
        def run(example: Any) -> None:
            seen.add(example.structure)

        run()
        assert seen == set(STRUCTURES)

    @FAST
    @given(jacobians(k=(2, 6), structures="strongly_stationary"))
    def test_strongly_stationary(self, jacobian: Floats) -> None:
        assert strong_stationarity(jacobian).distance <= 1e-14

    @FAST
    @given(jacobians(k=(3, 6), structures="weakly_stationary"))
    def test_weakly_stationary(self, jacobian: Floats) -> None:
        assert weak_stationarity(jacobian).distance <= 1e-14

    @FAST
    @given(jacobians(k=(2, 6), structures="conflicting"))
    def test_conflicting(self, jacobian: Floats) -> None:
        assert (jacobian[1:, 0] * jacobian[0, 0] < 0).all()

    @pytest.mark.parametrize(
        ("structure", "wanted"),
        [
            ("duplicated", lambda J: (J[0] == J[1]).all() and J.any()),
            ("duplicated", lambda J: (2 * J[0] == J[1]).all() and J.any()),
            ("opposite", lambda J: (J[0] == -J[1]).all() and J.any()),
            ("nearly_parallel", lambda J: 0 < np.abs(J[0] - J[1]).max() < 1e-4 and J[0].any()),
            ("nearly_opposite", lambda J: 0 < np.abs(J[0] + J[1]).max() < 1e-4 and J[0].any()),
            ("zero_rows", lambda J: not J[0].any() and J[1].any()),
            ("low_rank", lambda J: J.shape[1] > 1 and np.linalg.matrix_rank(J) == 1),
            ("row_scales", lambda J: J[0, 0] != 0 and abs(J[1, 0] / J[0, 0]) > 1e5),
            ("ill_conditioned", lambda J: J.shape[1] > 1 and J[0, 0] != 0 and 0 < abs(J[0, 1]) < 1e-3),
            ("tiny_or_huge", lambda J: np.abs(J).max() > 1e59),
            ("tiny_or_huge", lambda J: 0 < np.abs(J).max() < 1e-59),
            ("gaussian", lambda J: (J[0] % 1 != 0).all()),
        ],
    )
    def test_they_contain_what_they_say(self, structure: str, wanted: Any) -> None:
        """`find` raises if there is none."""
        find(jacobians(k=2, structures=structure), wanted, settings=settings(max_examples=2000))


class TestControls:
    @pytest.mark.parametrize("rank", [1, 2, 3])
    def test_rank(self, rank: int) -> None:
        @FAST
        @given(jacobians((3, 6), (3, 5), rank=rank))
        def run(jacobian: Floats) -> None:
            assert np.linalg.matrix_rank(jacobian) == rank

        run()

    def test_condition_and_row_spread(self) -> None:
        wide = jacobians(2, 2, structures="integers", condition=2.0**20)
        found = find(wide, lambda J: J[0, 0] != 0 and 0 < abs(J[0, 1] / J[0, 0]) < 1e-5)
        assert np.abs(found).max() <= 4
        tall = jacobians(2, 2, structures="integers", row_spread=2.0**20)
        found = find(tall, lambda J: J[0, 0] != 0 and 0 < abs(J[1, 0] / J[0, 0]) < 1e-5)
        assert np.abs(found).max() <= 4

    def test_dtype(self) -> None:
        assert find(jacobians(dtype="float32"), lambda J: True).dtype == np.float32
        assert find(gramians(dtype="float32"), lambda G: True).dtype == np.float32

    @FAST
    @given(st.data())
    def test_vectors_and_fractions(self, data: st.DataObject) -> None:
        assert (data.draw(pref_vectors(3)) > 0).all()
        assert (data.draw(pref_vectors(3, positive=False)) >= 0).all()
        assert 0 < data.draw(taus(positive=True)) <= 1
        assert 0 <= data.draw(taus()) <= 1

    def test_zero_is_among_them(self) -> None:
        find(taus(), lambda tau: tau == 0)
        find(pref_vectors(2, positive=False), lambda u: u[0] == 0 and u[1] > 0)

    @FAST
    @given(gramians())
    def test_gramians(self, gramian: Floats) -> None:
        assert (gramian == gramian.T).all()
        assert np.isfinite(mojd.upgrad(gramian)).all()


class TestShrinking:
    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            (lambda J: len(J) > 1 and (J @ J.T)[0, 1] < 0, [[1.0], [-1.0]]),
            (lambda J: np.linalg.matrix_rank(J) == 2, [[0.0, 1.0], [1.0, 0.0]]),
        ],
    )
    def test_small_integers(self, wanted: Any, expected: Any) -> None:
        found = find(jacobians(), wanted, settings=settings(max_examples=2000))
        assert np.abs(found).max() <= 4
        assert found.shape[0] <= 3
        assert found.shape[1] <= 2
        assert found.tolist() == expected


class TestErrors:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: pref_vectors(0), "k and largest must be positive"),
            (lambda: jacobians(k=0), "k must be a positive integer or a pair"),
            (lambda: jacobians(n=(3, 2)), "n must be a positive integer or a pair"),
            (
                lambda: jacobians(structures="square"),
                "structure 'square' is not known; choose from: integers",
            ),
            (lambda: jacobians(structures=[]), "structures is empty"),
            (lambda: jacobians(largest=9), "largest must lie between 1 and 8"),
            (lambda: jacobians(condition=0.5), "condition must be 1 or more"),
            (lambda: jacobians(row_spread=float("nan")), "row_spread must be 1 or more"),
            (lambda: jacobians(dtype="int8"), "dtype must be 'float64' or 'float32'"),
            (lambda: jacobians(2, 2, rank=3), "rank=3 is more than"),
        ],
    )
    def test_they_are_raised_at_once(self, call: Any, message: str) -> None:
        with pytest.raises(mojd.InvalidInputError, match=message):
            call()
