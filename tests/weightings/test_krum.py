"""Krum: the gradients that have the nearest neighbours."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mojd
from tests.reference.families import Floats

LINE = np.array([[0.0], [1.0], [3.0], [7.0], [20.0]])


def scores_of(jacobian: Any, n_byzantine: int) -> list[Fraction]:
    """Sums of squared distances to the K − f − 2 nearest others, exactly."""
    rows = [[Fraction(float(entry)) for entry in row] for row in jacobian]
    scores = []
    for i, row in enumerate(rows):
        distances = sorted(
            sum(((x - y) ** 2 for x, y in zip(row, other, strict=True)), Fraction(0))
            for j, other in enumerate(rows)
            if j != i
        )
        scores.append(sum(distances[: len(rows) - n_byzantine - 2], Fraction(0)))
    return scores


def selected(scores: list[Any], n_selected: int) -> list[float]:
    """1/m for the m smallest, ties going to the lower index."""
    chosen = sorted(range(len(scores)), key=lambda i: (scores[i], i))[:n_selected]
    return [1.0 / n_selected if i in chosen else 0.0 for i in range(len(scores))]


def by_distances(jacobian: Floats, n_byzantine: int, n_selected: int) -> list[float]:
    """The choice by distances that are not squared."""
    distances = np.linalg.norm(jacobian[:, None] - jacobian[None], axis=-1)
    nearest = np.sort(distances, axis=1)[:, 1 : len(jacobian) - n_byzantine - 1]
    return selected(nearest.sum(axis=1).tolist(), n_selected)


class TestWorkedValues:
    def test_points_on_a_line(self) -> None:
        """Scores with two neighbours: 1 + 9, 1 + 4, 4 + 9, 16 + 36, 169 + 289."""
        assert scores_of(LINE, 1) == [10, 5, 13, 52, 458]
        gramian = mojd.gramian(LINE)
        assert mojd.krum(gramian).tolist() == [0.0, 1.0, 0.0, 0.0, 0.0]
        assert mojd.krum(gramian, n_selected=2).tolist() == [0.5, 0.5, 0.0, 0.0, 0.0]
        assert mojd.krum(gramian, 1, 3).tolist() == [1 / 3, 1 / 3, 1 / 3, 0.0, 0.0]
        assert mojd.krum(gramian, n_selected=5).tolist() == [0.2] * 5
        assert mojd.aggregate(LINE, "krum", n_selected=2).tolist() == [0.5]

    def test_the_number_of_neighbours(self) -> None:
        """f = 2 leaves one neighbour: 1, 1, 4, 16, 169; f = 0 three: 59, 41, 29, 101, 819."""
        gramian = mojd.gramian(LINE)
        assert mojd.krum(gramian, n_byzantine=2, n_selected=1).tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
        assert scores_of(LINE, 0) == [59, 41, 29, 101, 819]
        assert mojd.krum(gramian, n_byzantine=0).tolist() == [0.0, 0.0, 1.0, 0.0, 0.0]

    def test_four_gradients_in_the_plane(self) -> None:
        rows = [[10.0, 0.0], [0.0, 2.0], [0.0, 1.0], [-3.0, 0.0]]
        assert mojd.krum(mojd.gramian(rows)).tolist() == [0.0, 1.0, 0.0, 0.0]

    def test_distances_are_squared(self) -> None:
        """Neighbours at 0 and 3 against neighbours at 2 and 2: 9 > 8, but 3 < 4."""
        rows = [[0.0, 0.0], [0.0, 0.0], [3.0, 0.0], [20.0, 0.0], [22.0, 0.0], [24.0, 0.0]]
        assert mojd.krum(mojd.gramian(rows), n_byzantine=2).tolist() == [0.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        assert by_distances(np.array(rows), 2, 1) == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]


class TestDefinition:
    @given(data=st.data())
    def test_exact_scores_of_integers(self, data: st.DataObject) -> None:
        """With all their ties and duplicates, in batches, at any power of two."""
        k, n = data.draw(st.integers(3, 8), label="K"), data.draw(st.integers(1, 3), label="n")
        f, m = data.draw(st.integers(0, k - 3), label="f"), data.draw(st.integers(1, k), label="m")
        entries = st.lists(st.integers(-4, 4), min_size=2 * k * n, max_size=2 * k * n)
        jacobians = np.array(data.draw(entries, label="J"), float).reshape(2, k, n)
        scale = 2.0 ** data.draw(st.integers(-300, 300), label="log scale")
        weights = mojd.krum(mojd.gramian(scale * jacobians), f, m)
        for jacobian, answer in zip(jacobians, weights, strict=True):
            assert answer.tolist() == selected(scores_of(jacobian, f), m)

    def test_torchjd_agrees_with_distances_that_are_not_squared(self) -> None:
        """TorchJD 0.18 adds up distances, the paper their squares: in one of ten cases another choice.

        For one neighbour that makes no difference, but the two nearest tie, and its choice is open.
        """
        torch = pytest.importorskip("torch")
        aggregation = pytest.importorskip("torchjd.aggregation")
        different = 0
        for seed in range(100):
            rng = np.random.default_rng(seed)
            k = int(rng.integers(6, 12))
            f, m = int(rng.integers(0, k - 4)), int(rng.integers(1, k))
            rows = rng.standard_normal((k, 4))
            theirs = aggregation.KrumWeighting(f, m)(torch.tensor(rows @ rows.T)).numpy()
            assert theirs.tolist() == pytest.approx(by_distances(rows, f, m), rel=1e-15)
            weights = mojd.krum(mojd.gramian(rows), f, m)
            assert weights.tolist() == selected(scores_of(rows, f), m)
            different += weights.tolist() != pytest.approx(theirs.tolist())
        assert 5 <= different <= 20

    @given(seed=st.integers(0, 2**32 - 1))
    def test_renaming_the_gradients_renames_the_weights(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        gramian = mojd.gramian(rng.standard_normal((7, 3)))
        order = rng.permutation(7)
        # Two neighbours and more have no ties among random gradients.
        weights = mojd.krum(gramian[np.ix_(order, order)], 2, 3)
        assert np.array_equal(weights, mojd.krum(gramian, 2, 3)[order])

    def test_a_liar_is_never_taken(self) -> None:
        """What the method is for: one gradient of any length, and the others agree."""
        rng = np.random.default_rng(0)
        for scale in (1e-3, 1e2, 1e6):
            rows = np.ones((7, 5)) + 0.1 * rng.standard_normal((7, 5))
            rows[3] = -scale * np.ones(5)
            assert mojd.krum(mojd.gramian(rows), 1, 4)[3] == 0.0


class TestProperties:
    def test_it_may_conflict(self) -> None:
        """[1], [1], [1], [−1]: the last one is climbed."""
        assert mojd.aggregate([[1.0], [1.0], [1.0], [-1.0]], "krum").tolist() == [1.0]

    def test_it_is_not_linear_under_scaling(self) -> None:
        """[1], [1], [3], [9] times (1, 1, 1, 1), (1, 5, 1, 1) and their sum: 1 + 1 ≠ 6."""
        rows = np.array([[1.0], [1.0], [3.0], [9.0]])
        found = [
            mojd.aggregate(np.array(scales)[:, None] * rows, "krum").item()
            for scales in ([1.0, 1.0, 1.0, 1.0], [1.0, 5.0, 1.0, 1.0], [2.0, 6.0, 2.0, 2.0])
        ]
        assert found == [1.0, 1.0, 6.0]


class TestSpecialCases:
    def test_ties_go_to_the_lower_index(self) -> None:
        assert mojd.krum(np.zeros((5, 5)), n_selected=2).tolist() == [0.5, 0.5, 0.0, 0.0, 0.0]
        assert mojd.krum(np.eye(40), n_selected=1)[0] == 1.0
        assert mojd.krum(np.ones((5, 5))).tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]

    @pytest.mark.parametrize("scale", [1e-200, 1e-150, 1e150, 1.6e308])
    def test_extreme_scales(self, scale: float) -> None:
        gramian = mojd.gramian(LINE) / 400.0
        assert mojd.krum(scale * gramian).tolist() == mojd.krum(gramian).tolist()

    def test_norms_far_apart(self) -> None:
        """Gradients of 1e-100 are compared among themselves beside one of 1e100."""
        rows = np.vstack([1e-100 * LINE, [[1e100]]])
        assert mojd.krum(mojd.gramian(rows), 2).tolist() == [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]

    def test_float32_and_empty_batches(self) -> None:
        weights = mojd.krum(mojd.gramian(LINE.astype(np.float32)), 1, 3)
        assert weights.dtype == np.float32
        assert weights.tolist() == [np.float32(1 / 3)] * 3 + [0.0, 0.0]
        assert mojd.krum(np.zeros((0, 4, 4))).shape == (0, 4)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"n_byzantine": -1}, "n_byzantine must be .*at least 0; got -1"),
            ({"n_byzantine": 1.0}, "n_byzantine must be .*got 1.0"),
            ({"n_byzantine": True}, "n_byzantine must be .*got True"),
            ({"n_byzantine": 3}, r"n_byzantine=3 takes 6 gradients or more.*\(5, 5\)"),
            ({"n_selected": 0}, "n_selected must be .*at least 1; got 0"),
            ({"n_selected": 6}, "n_selected=6 is more than the 5 gradients"),
        ],
    )
    def test_bad_options(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(mojd.InvalidInputError, match=message):
            mojd.krum(np.eye(5), **options)
